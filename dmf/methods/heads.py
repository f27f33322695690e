"""Computations on feature maps that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide


def embeddings(maps: Tensor) -> Tensor:
    """Feature maps [..., C, H, W] -> their means over positions [..., C], in float32 at least."""
    return wide(maps).mean((-2, -1))


def nearest_mean(support: Tensor, query: Tensor) -> Tensor:
    """Embeddings [B, N, K, C] and [B, Q, C] -> cosines between queries and class means [B, Q, N]."""
    means, queries = F.normalize(support.mean(2), dim=-1), F.normalize(query, dim=-1)
    with full_precision(query.device):
        return torch.einsum("bqc,bnc->bqn", queries, means)


def with_ones(rows: Tensor) -> Tensor:
    """[..., C] -> [..., C + 1]: a product with weights [C + 1, N], whose last row is the bias, is then a linear map."""
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)
