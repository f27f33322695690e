"""Settings of RFS-simple."""

from __future__ import annotations

from typing import ClassVar, Literal

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import Positive


class RFSConfig(EmbeddingMethodConfig):
    """RFS-simple (Tian et al., ECCV 2020): logistic regression on each episode's support, on frozen features."""

    method: Literal["rfs"] = "rfs"
    learns: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
    loss_weight: Positive = 1.0
    """scikit-learn's C: weight of the summed cross-entropy beside half the squared norm of the weights."""
