"""Settings of Net-Cosine."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import FittedHeadConfig
from dmf.values import Positive


class NegativeMarginConfig(FittedHeadConfig):
    """Net-Cosine (Liu et al., ECCV 2020): fits a cosine head, on features pre-trained with a negative margin."""

    method: Literal["negative_margin"] = "negative_margin"
    fit_scale: Positive = 5.0
    """Factor that turns cosines into logits."""
