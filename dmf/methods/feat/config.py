"""Settings of FEAT."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import Fraction, NonNegative, Positive


class FEATConfig(EmbeddingMethodConfig):
    """FEAT (Ye et al., CVPR 2020): class means adapted to each other by self-attention.

    Defaults are the released code's for 1-shot; its 5-shot training has auxiliary_temperature 32 and auxiliary_weight
    0.1.
    """

    method: Literal["feat"] = "feat"
    prototype_score: Literal["squared", "projection"] = "squared"
    """Minus the squared distance to the adapted prototype, or the projection on it (the released code's "cosine")."""
    temperature: Positive = 64.0
    """Divides the logits of the queries."""
    auxiliary_temperature: Positive = 64.0
    """Divides the logits of the auxiliary loss."""
    auxiliary_weight: NonNegative = 0.01
    """The loss is the few-shot loss plus this weight times the auxiliary loss."""
    attention_dropout: Fraction = 0.1
    """Rate of dropout on the attention's weights."""
    output_dropout: Fraction = 0.5
    """Rate of dropout on the attention's output."""
