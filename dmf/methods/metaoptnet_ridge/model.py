"""MetaOptNet with ridge regression (Lee et al., "Meta-learning with differentiable convex optimization", CVPR 2019)."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from dmf.methods.dual import DualMethod, ridge_duals
from dmf.methods.metaoptnet_ridge.config import MetaOptNetRidgeConfig


class MetaOptNetRidge(DualMethod):
    """Duals are 2 (K + ridge I)^-1 Y, with K the support's kernel and Y its one-hot labels.

    The released code's linear term is -2 Y, so these are twice the duals of R2D2 with the same ridge.
    """

    def __init__(self, backbone: nn.Module, ridge: float = 50.0, smoothing: float = 0.1) -> None:
        super().__init__(backbone, smoothing=smoothing)
        self.ridge = ridge

    @classmethod
    def build(cls, backbone: nn.Module, config: MetaOptNetRidgeConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, config.ridge, config.label_smoothing)

    def duals(self, kernel: Tensor, targets: Tensor) -> Tensor:
        return ridge_duals(kernel, 2 * targets, self.ridge)
