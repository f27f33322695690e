"""Baseline++ (Chen et al., "A closer look at few-shot classification", ICLR 2019)."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import nn

from dmf.methods.baseline_pp.config import BaselinePPConfig
from dmf.methods.fitted_head import Fit, FittedCosineHead


class BaselinePP(FittedCosineHead):
    """Logits are scale * g_c * <x / (|x| + 1e-5), v_c / |v_c|>, after pre-training with `start.head` weight_norm.

    Norms g [N] and directions v [N, C] are both fitted, with weight decay on both.
    """

    norms: ClassVar[bool] = True
    eps: ClassVar[float] = 1e-5

    @classmethod
    def build(cls, backbone: nn.Module, config: BaselinePPConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, Fit.of(config), config.fit_scale)
