"""Settings of Baseline."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import FittedHeadConfig


class BaselineConfig(FittedHeadConfig):
    """Baseline (Chen et al., ICLR 2019): fits a linear head to each episode's support, on frozen features."""

    method: Literal["baseline"] = "baseline"
