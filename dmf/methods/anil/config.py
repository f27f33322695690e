"""Settings of ANIL."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import InnerLoopConfig


class ANILConfig(InnerLoopConfig):
    """ANIL (Raghu et al., ICLR 2020): gradient steps on the classifier alone."""

    method: Literal["anil"] = "anil"
