"""Cross attention between class maps and query maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossAttention(nn.Module):
    """Attention over a map's positions, from its correlation with another map.

    Let M[p, q] be the cosine between position p of the map and position q of the other one, and m the number of
    positions. The fusion layer turns v[q] = mean_p M[p, q] into weights w = expand(relu(norm(reduce(v)))), and the
    attention is

        a[p] = 1 + softmax_p(mean_q M[p, q] w[q] / temperature).

    M is a product of unit vectors, X_p . Y_q, so v[q] = (mean_p X_p) . Y_q and mean_q M[p, q] w[q] =
    X_p . (mean_q w[q] Y_q): both are computed without M, in m * C instead of m^2 * C operations.
    """

    def __init__(self, positions: int, bottleneck: int, temperature: float = 0.025) -> None:
        """`bottleneck` is the fusion layer's inner width: 6 for the 36 positions of the released code."""
        super().__init__()
        self.temperature = temperature
        self.reduce = nn.Linear(positions, bottleneck)
        self.norm = nn.BatchNorm1d(bottleneck)
        self.expand = nn.Linear(bottleneck, positions)
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Maps [B, I, C, m] and [B, J, C, m] of unit columns -> attention [B, I, J, m] over positions of the first."""
        v = torch.einsum("bic,bjcm->bijm", own.mean(-1), other)
        read = torch.einsum("bijm,bjcm->bijc", self.fuse(v), other) / own.shape[-1]
        logits = torch.einsum("bijc,bicm->bijm", read, own)
        return 1 + (logits / self.temperature).softmax(-1)

    def fuse(self, v: Tensor) -> Tensor:
        """Vectors [..., m] -> weights [..., m]; in training, all vectors share the statistics of batch norm."""
        reduced = self.reduce(v)
        weights: Tensor = self.expand(F.relu(self.norm(reduced.flatten(0, -2)).view_as(reduced)))
        return weights
