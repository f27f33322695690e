"""R2D2 (Bertinetto et al., "Meta-learning with differentiable closed-form solvers", ICLR 2019)."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from dmf.methods.dual import DualMethod, ridge_duals
from dmf.methods.r2d2.config import R2D2Config


class R2D2(DualMethod):
    """Duals are (K + ridge I)^-1 Y, with K the support's kernel and Y its one-hot labels.

    A learnt ridge is exp(`log_ridge`), so that it stays positive; LibFewShot learns it without a bound. The paper
    also learns a shift of all logits, which changes neither the cross-entropy nor the answer and is left out. The
    paper's network has 96 to 512 channels and concatenates its last two maps; here it is the backbone's map.
    """

    log_ridge: nn.Parameter | None

    def __init__(
        self, backbone: nn.Module, ridge: float = 50.0, learn_ridge: bool = True, smoothing: float = 0.0
    ) -> None:
        super().__init__(backbone, smoothing=smoothing)
        self.ridge = ridge
        self.log_ridge = nn.Parameter(torch.tensor(math.log(ridge))) if learn_ridge else None

    @classmethod
    def build(cls, backbone: nn.Module, config: R2D2Config, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, config.ridge, config.learn_ridge, config.label_smoothing)

    def duals(self, kernel: Tensor, targets: Tensor) -> Tensor:
        return ridge_duals(kernel, targets, self.ridge if self.log_ridge is None else self.log_ridge.exp())
