"""Settings of Baseline."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import Count, Fraction, NonNegative, Positive


class BaselineConfig(EmbeddingMethodConfig):
    """Baseline (Chen et al., ICLR 2019): fits a linear head to each episode's support, on frozen features."""

    method: Literal["baseline"] = "baseline"
    learns: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
    fit_passes: Count = 100
    """Passes over the support."""
    fit_batch: Annotated[int, Field(ge=1)] = 4
    """Support images per SGD step."""
    fit_learning_rate: Positive = 0.01
    fit_momentum: Fraction = 0.9
    fit_dampening: Fraction = 0.9
    fit_weight_decay: NonNegative = 1e-3
