"""Raw pixels have no settings: nothing is learnt and nothing embeds the images."""

from __future__ import annotations

from typing import ClassVar, Literal

from dmf.methods.config import MethodConfig


class RawPixelsConfig(MethodConfig):
    """Nearest class by the cosine of raw pixels."""

    method: Literal["raw_pixels"] = "raw_pixels"
    learns: ClassVar[bool] = False
