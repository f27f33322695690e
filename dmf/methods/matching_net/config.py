"""Settings of matching networks."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import Positive


class MatchingNetConfig(EmbeddingMethodConfig):
    """Matching networks (Vinyals et al., NeurIPS 2016)."""

    method: Literal["matching_net"] = "matching_net"
    full_context: bool = True
    """Whether LSTMs embed the support images, and then the queries, in the context of the whole support set."""
    flattened: bool = False
    """Whether an embedding is the flattened feature map (released), instead of its mean over positions. The LSTMs have
    28 times its length squared weights, so this needs small maps."""
    cosine_scale: Positive = 100.0
    """Factor of the cosines in the softmax over support images."""
