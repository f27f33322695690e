"""Meta-Baseline (Chen et al., "Meta-Baseline: Exploring simple meta-learning for few-shot learning", ICCV 2021)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn

from dmf.methods.base import Losses
from dmf.methods.embedding import EmbeddingMethod
from dmf.methods.heads import episode_cross_entropy, nearest_mean, squared_distances
from dmf.methods.meta_baseline.config import MetaBaselineConfig

Similarity = Literal["cosine", "squared"]
INITIAL_SCALE = {"cosine": 10.0, "squared": 0.1}


class MetaBaseline(EmbeddingMethod):
    """Logits are s * cos(z, m), or -s * |z - m|^2, with a learnt scale s, starting at 10 or 0.1.

    z is a query's embedding and m the mean embedding of a class, taken before any normalisation. The backbone is meant
    to start from a classifier of the base classes (`start.head`); without training on episodes, the method is
    Classifier-Baseline. The loss is the cross-entropy over the queries.
    """

    def __init__(self, backbone: nn.Module, similarity: Similarity = "cosine") -> None:
        super().__init__()
        self.backbone = backbone
        self.similarity = similarity
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE[similarity]))

    @classmethod
    def build(cls, backbone: nn.Module, config: MetaBaselineConfig, base_classes: int) -> Self:
        """Build the method on `backbone`; `base_classes` is not used."""
        return cls(backbone, config.similarity)

    def score_embeddings(self, support: Tensor, query: Tensor) -> Tensor:
        if self.similarity == "cosine":
            return self.scale * nearest_mean(support, query)
        return -self.scale * squared_distances(query, support.mean(2))

    def losses_of_embeddings(self, support: Tensor, query: Tensor, targets: Tensor) -> Losses:
        loss = episode_cross_entropy(self.score_embeddings(support, query), targets)
        return Losses(loss, {"few_shot": loss})
