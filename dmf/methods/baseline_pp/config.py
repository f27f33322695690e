"""Settings of Baseline++."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import FittedHeadConfig
from dmf.values import Positive


class BaselinePPConfig(FittedHeadConfig):
    """Baseline++ (Chen et al., ICLR 2019): fits a cosine head with a learnt norm per class, on frozen features."""

    method: Literal["baseline_pp"] = "baseline_pp"
    fit_scale: Positive = 2.0
    """Factor that turns cosines times norms into logits."""
