"""MetaOptNet with an SVM (Lee et al., "Meta-learning with differentiable convex optimization", CVPR 2019)."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from dmf.methods.dual import DualMethod
from dmf.methods.metaoptnet_svm.config import MetaOptNetSVMConfig
from dmf.methods.metaoptnet_svm.crammer_singer import crammer_singer


class MetaOptNetSVM(DualMethod):
    """Duals are those of Crammer and Singer's multi-class SVM (`crammer_singer`), on the kernel plus `kernel_ridge` I.

    The paper's problem has no such term; without it, logits move by about a tenth. The released code stops its solver
    after 15 iterations in float32, and clamps multipliers and slacks in the gradient; here the solution and its
    gradient are exact, which moves its 5-shot logits by 4e-4.
    """

    def __init__(
        self, backbone: nn.Module, slack_weight: float = 0.1, kernel_ridge: float = 1.0, smoothing: float = 0.1
    ) -> None:
        super().__init__(backbone, smoothing=smoothing)
        self.slack_weight, self.kernel_ridge = slack_weight, kernel_ridge

    @classmethod
    def build(cls, backbone: nn.Module, config: MetaOptNetSVMConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, config.slack_weight, config.kernel_ridge, config.label_smoothing)

    def duals(self, kernel: Tensor, targets: Tensor) -> Tensor:
        return crammer_singer(kernel, targets, self.slack_weight, self.kernel_ridge)
