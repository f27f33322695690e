"""Settings of MetaOptNet with a support vector machine."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig, Smoothing
from dmf.values import Positive


class MetaOptNetSVMConfig(EmbeddingMethodConfig):
    """MetaOptNet (Lee et al., CVPR 2019) with a multi-class support vector machine as its base learner."""

    method: Literal["metaoptnet_svm"] = "metaoptnet_svm"
    slack_weight: Positive = 0.1
    """C, the weight of the slacks: the largest dual of an image for its own class."""
    kernel_ridge: Positive = 1.0
    """Added to the diagonal of the kernel; the released code does so for the sake of its solver."""
    label_smoothing: Smoothing = 0.1
    """Probability that the loss spreads over the other classes."""
