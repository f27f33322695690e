"""Matching networks (Vinyals et al., "Matching networks for one shot learning", NeurIPS 2016)."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.methods.base import Losses
from dmf.methods.embedding import EmbeddingMethod
from dmf.methods.heads import vectors
from dmf.methods.matching_net.config import MatchingNetConfig

LONGEST_IN_CONTEXT = 8192
"""Longest embedding that the LSTMs take: they then have 2 * 10^9 weights."""


class MatchingNet(EmbeddingMethod):
    """Attention over the support images: a class's probability is the sum of the weights of its images.

    The weights are softmax(s * relu(cos(f, g))), where f embeds the query, g a support image, and s = 100. The logits
    are log(probability + 1e-6), and the loss is their mean negative, over the queries.

    With full context, an LSTM runs over the support embeddings in both directions, and g is the embedding plus both
    outputs. A query's state starts at h = z, its embedding, with an empty cell, and is updated N*K times: r is the read
    of the g by softmax(<h, g>), and h becomes the LSTM cell's output for (z, r) plus z. The last h is f. The scores
    therefore depend on the order of the support set, which is class by class here; without full context they do not.

    Formulas are those of the implementation of "A closer look at few-shot classification" (Chen et al., ICLR 2019);
    LibFewShot has no plain matching networks under this name.
    """

    needs_map_shape = True

    def __init__(
        self, backbone: nn.Module, length: int, full_context: bool = True, flattened: bool = False, scale: float = 100.0
    ) -> None:
        """`length` is that of an embedding."""
        super().__init__()
        self.backbone = backbone
        self.flattened, self.scale, self.reads_order = flattened, scale, full_context
        self.support_lstm = nn.LSTM(length, length, bidirectional=True, batch_first=True) if full_context else None
        self.query_cell = nn.LSTMCell(2 * length, length) if full_context else None

    @classmethod
    def build(
        cls, backbone: nn.Module, config: MatchingNetConfig, base_classes: int, map_shape: tuple[int, ...]
    ) -> Self:
        """Build the method that `config` describes; `base_classes` is not used.

        Raises ValueError if flattened maps are too long for the LSTMs.
        """
        length = math.prod(map_shape) if config.flattened else map_shape[0]
        if config.full_context and length > LONGEST_IN_CONTEXT:
            raise ValueError(
                f"flattened=true makes embeddings of {length} numbers from maps of {'x'.join(map(str, map_shape))}, "
                f"and full_context=true takes {LONGEST_IN_CONTEXT} at most; set one of the two to false, or "
                "last_pooling=true"
            )
        return cls(backbone, length, config.full_context, config.flattened, config.cosine_scale)

    def embed(self, maps: Tensor) -> Tensor:
        return vectors(maps, self.flattened)

    def score_embeddings(self, support: Tensor, query: Tensor) -> Tensor:
        items = support.flatten(1, 2)
        if self.support_lstm is not None:
            items = self.support_in_context(items)
            query = self.query_in_context(query, items)
        weights = (self.scale * F.relu(_unit(query) @ _unit(items).transpose(1, 2))).softmax(-1)
        logits: Tensor = (weights.unflatten(-1, support.shape[1:3]).sum(-1) + 1e-6).log()
        return logits

    def support_in_context(self, items: Tensor) -> Tensor:
        """Support embeddings [B, N*K, D], class by class -> the same in the context of each other."""
        assert self.support_lstm is not None
        outputs: Tensor = self.support_lstm(items)[0]
        forward, backward = outputs.chunk(2, dim=-1)
        return items + forward + backward

    def query_in_context(self, query: Tensor, items: Tensor) -> Tensor:
        """Query embeddings [B, Q, D] in the context of the support's [B, N*K, D]."""
        assert self.query_cell is not None
        state, cell = query, torch.zeros_like(query)
        for _ in range(items.shape[1]):
            read = (state @ items.transpose(1, 2)).softmax(-1) @ items
            inputs = torch.cat([query, read], -1).flatten(0, 1)
            state, cell = self.query_cell(inputs, (state.flatten(0, 1), cell.flatten(0, 1)))
            state, cell = state.view_as(query) + query, cell.view_as(query)
        return state

    def losses_of_embeddings(self, support: Tensor, query: Tensor, targets: Tensor) -> Losses:
        logits = self.score_embeddings(support, query)
        loss = F.nll_loss(logits.flatten(0, 1), targets.flatten())
        return Losses(loss, {"few_shot": loss})


def _unit(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / (lengths + 1e-5)
