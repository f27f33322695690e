"""Settings of MetaOptNet with ridge regression."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig, Smoothing
from dmf.values import Positive


class MetaOptNetRidgeConfig(EmbeddingMethodConfig):
    """MetaOptNet (Lee et al., CVPR 2019) with ridge regression as its base learner."""

    method: Literal["metaoptnet_ridge"] = "metaoptnet_ridge"
    ridge: Positive = 50.0
    """lambda, added to the diagonal of the kernel."""
    label_smoothing: Smoothing = 0.1
    """Probability that the loss spreads over the other classes."""
