"""Settings of raw pixels, which has none of its own."""

from __future__ import annotations

from typing import ClassVar, Literal

from dmf.methods.config import MethodConfig


class RawPixelsConfig(MethodConfig):
    """Nearest class mean by the cosine of raw pixels: nothing is learnt."""

    method: Literal["raw_pixels"] = "raw_pixels"
    learns: ClassVar[bool] = False
