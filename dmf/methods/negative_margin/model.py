"""Net-Cosine (Liu et al., "Negative margin matters: understanding margin in few-shot classification", ECCV 2020)."""

from __future__ import annotations

from typing import Self

from torch import nn

from dmf.methods.fitted_head import Fit, FittedCosineHead
from dmf.methods.negative_margin.config import NegativeMarginConfig


class NegativeMargin(FittedCosineHead):
    """Logits are scale * cos(x, w_c), without margin; the negative margin is in the pre-training.

    That has `start.head` cosine, `start.head_scale` 30, and `start.head_margin` -0.02 for 1-shot and -0.01 for 5-shot
    tests of ResNet-12 on miniImageNet; LibFewShot's margin, -0.3, is that of the released softmax head. The released
    tests have 16 queries per class and 600 episodes.
    """

    @classmethod
    def build(cls, backbone: nn.Module, config: NegativeMarginConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, Fit.of(config), config.fit_scale)
