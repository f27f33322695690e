"""Settings of R2D2."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig, Smoothing
from dmf.values import Positive


class R2D2Config(EmbeddingMethodConfig):
    """R2D2 (Bertinetto et al., ICLR 2019): ridge regression on the support, with a learnt penalty."""

    method: Literal["r2d2"] = "r2d2"
    ridge: Positive = 50.0
    """lambda, added to the diagonal of the kernel; its initial value if `learn_ridge`."""
    learn_ridge: bool = True
    """Whether lambda is learnt (the paper, LibFewShot) or fixed (R2D2 in MetaOptNet's code)."""
    label_smoothing: Smoothing = 0.0
    """Probability that the loss spreads over the other classes; 0.1 in MetaOptNet's code."""
