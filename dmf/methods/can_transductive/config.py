"""Settings of the transductive cross attention network."""

from __future__ import annotations

from typing import Literal

from dmf.methods.can.config import CrossAttentionConfig


class CANTransductiveConfig(CrossAttentionConfig):
    """Cross attention network with transductive inference (CAN+T; Hou et al., NeurIPS 2019)."""

    method: Literal["can_transductive"] = "can_transductive"
