"""Computations on feature maps and scores that several methods share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide


def embeddings(maps: Tensor) -> Tensor:
    """Feature maps [..., C, H, W] -> their means over positions [..., C], in float32 at least."""
    return wide(maps).mean((-2, -1))


def vectors(maps: Tensor, flattened: bool) -> Tensor:
    """Feature maps [..., C, H, W] -> flattened [..., C * H * W], or else `embeddings`; in float32 at least."""
    return wide(maps).flatten(-3) if flattened else embeddings(maps)


def nearest_mean(support: Tensor, query: Tensor) -> Tensor:
    """Embeddings [B, N, K, C] and [B, Q, C] -> cosines between queries and class means [B, Q, N]."""
    means, queries = F.normalize(support.mean(2), dim=-1), F.normalize(query, dim=-1)
    with full_precision(query.device):
        return torch.einsum("bqc,bnc->bqn", queries, means)


def squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """Vectors [B, I, C] and [B, N, C] -> squared Euclidean distances [B, I, N]."""
    return (rows[:, :, None] - centres[:, None]).square().sum(-1)


def episode_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits [B, Q, N] with targets [B, Q], averaged over the queries of all episodes."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def positions_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logit maps [P, classes, H, W] with one target per map [P], averaged over maps and positions."""
    return F.cross_entropy(logits, targets[:, None, None].expand(-1, *logits.shape[2:]))


def with_ones(rows: Tensor) -> Tensor:
    """[..., C] -> [..., C + 1]: a product with weights [C + 1, N], whose last row is the bias, is then a linear map."""
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)


SMALLEST_SQUARE = 1e-12
"""Least squared sine whose root is differentiated: at 0 the derivative is infinite."""


def with_angular_margin(cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Cosines [..., n, J], with cos(theta + margin) for each row's own class of `labels` [n] where cos theta > 0.

    "Easy margin" (Deng et al., "ArcFace", CVPR 2019): a row at a right angle to its class or beyond keeps its cosine.
    """
    sines = (1 - cosines.square()).clamp(min=SMALLEST_SQUARE).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    own = F.one_hot(labels, cosines.shape[-1]).bool()
    return torch.where(own & (cosines > 0), shifted, cosines)
