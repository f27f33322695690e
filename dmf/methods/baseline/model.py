"""Baseline (Chen et al., "A closer look at few-shot classification", ICLR 2019)."""

from __future__ import annotations

from typing import Self

from torch import nn

from dmf.methods.baseline.config import BaselineConfig
from dmf.methods.fitted_head import Fit, FittedHead


class Baseline(FittedHead):
    """Fits a linear head with bias to each episode's support embeddings, after pre-training with `start.head` linear.

    The released head for the base classes is wider than there are classes (200; tieredImageNet 400); here it has one
    output per class.
    """

    @classmethod
    def build(cls, backbone: nn.Module, config: BaselineConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, Fit.of(config))
