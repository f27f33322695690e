"""FEAT (Ye et al., "Few-shot learning via embedding adaptation with set-to-set functions", CVPR 2020)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.methods.base import Losses
from dmf.methods.embedding import EmbeddingMethod
from dmf.methods.feat.attention import SetAttention
from dmf.methods.feat.config import FEATConfig
from dmf.methods.heads import episode_cross_entropy, squared_distances


class FEAT(EmbeddingMethod):
    """Self-attention over an episode's N class means yields adapted prototypes m'.

    With an embedding z, the logit is -|z - m'|^2 / T ("squared"), or <z, m' / |m'|> / T ("projection": the query is
    not normalised, although the released code calls it cosine).

    The loss is the cross-entropy over the queries plus `auxiliary_weight` times that of an auxiliary task: the same
    attention adapts all K + Q/N embeddings of each class as one set, whose mean output is the class's centre, and every
    embedding of the episode, as it was before the attention, is classified by the centres with temperature T2.
    LibFewShot's version has the weight on the other loss and wrong labels in the auxiliary task; this one agrees with
    the authors' code, in any order of the queries.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        prototype_score: Literal["squared", "projection"] = "squared",
        temperature: float = 64.0,
        auxiliary_temperature: float = 64.0,
        auxiliary_weight: float = 0.01,
        attention_dropout: float = 0.1,
        output_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = SetAttention(channels, attention_dropout, output_dropout)
        self.prototype_score = prototype_score
        self.temperature, self.auxiliary_temperature = temperature, auxiliary_temperature
        self.auxiliary_weight = auxiliary_weight

    @classmethod
    def build(cls, backbone: nn.Module, config: FEATConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(
            backbone,
            config.channels,
            config.prototype_score,
            config.temperature,
            config.auxiliary_temperature,
            config.auxiliary_weight,
            config.attention_dropout,
            config.output_dropout,
        )

    def score_embeddings(self, support: Tensor, query: Tensor) -> Tensor:
        return self._likeness(query, self.attention(support.mean(2))) / self.temperature

    def _likeness(self, rows: Tensor, prototypes: Tensor) -> Tensor:
        """Embeddings [B, I, C] and prototypes [B, N, C] -> logits [B, I, N] at temperature 1."""
        if self.prototype_score == "squared":
            return -squared_distances(rows, prototypes)
        return rows @ F.normalize(prototypes, dim=-1).transpose(1, 2)

    def losses_of_embeddings(self, support: Tensor, query: Tensor, targets: Tensor) -> Losses:
        few_shot = episode_cross_entropy(self.score_embeddings(support, query), targets)
        items, classes = with_classes(support, query, targets)
        auxiliary = episode_cross_entropy(self.auxiliary_logits(items, classes, support.shape[1]), classes)
        total = few_shot + self.auxiliary_weight * auxiliary
        return Losses(total, {"few_shot": few_shot, "auxiliary": auxiliary})

    def auxiliary_logits(self, items: Tensor, classes: Tensor, ways: int) -> Tensor:
        """Embeddings [B, I, C] of `classes` [B, I] -> their logits [B, I, N] in the auxiliary task."""
        adapted = self.attention(items, classes[:, :, None] == classes[:, None])
        members = F.one_hot(classes, ways).to(items.dtype)
        centres = members.transpose(1, 2) @ adapted / members.sum(1)[:, :, None]
        return self._likeness(items, centres) / self.auxiliary_temperature


def with_classes(support: Tensor, query: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Support [B, N, K, C] and query [B, Q, C] with classes [B, Q] -> all items [B, N*K + Q, C], and their classes."""
    ways, shots = support.shape[1:3]
    of_support = torch.arange(ways, device=targets.device).repeat_interleave(shots).expand(len(support), -1)
    return torch.cat([support.flatten(1, 2), query], 1), torch.cat([of_support, targets], 1)
