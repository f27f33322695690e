"""The dual of Crammer and Singer's multi-class SVM (JMLR 2001), for a batch of small problems.

With G = K + ridge I, one-hot labels Y and duals a [n, N], minimise

    1/2 sum_c a_c^T G a_c - sum_ic Y_ic a_ic   subject to   a_ic <= C Y_ic   and   sum_c a_ic = 0.

With multipliers z >= 0 of the bounds and l of the sums, the solution has G a_c - Y_c + l + z_c = 0 and z (C Y - a) = 0.
An interior-point method finds which bounds hold with equality. The other duals solve a linear system, which is then
solved once more with gradients: its derivative is that of the solution, since a small change of G leaves the set of
active bounds as it is.

Tensors are [B, N, n] here, one row for each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

MOST_ITERATIONS = 50
GAP = 1e-12
"""The mean of z (C Y - a) at which the iteration ends; both factors are then 1e-6 or one of them is much smaller."""
RESIDUAL = 1e-9
"""The largest residual at which it ends, relative to the multipliers."""
NEAR_BOUND = 0.995
"""Share of the longest step that keeps slacks and multipliers positive."""


def crammer_singer(kernel: Tensor, targets: Tensor, slack_weight: float, ridge: float) -> Tensor:
    """Kernels [B, n, n] and one-hot targets [n, N] -> duals [B, n, N], solved in float64 and differentiable in K."""
    labels = targets.T.double()
    gram = kernel.double() + ridge * torch.eye(len(targets), dtype=torch.float64, device=kernel.device)
    with torch.no_grad():  # duals times a number g solve the problem with G / g and g C
        size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        active = _active(gram / size, labels, slack_weight * size)
    return _solved(gram, labels, slack_weight * labels * active, ~active).mT.to(kernel.dtype)


def _active(gram: Tensor, labels: Tensor, slack_weight: Tensor) -> Tensor:
    """Which bounds hold with equality, bool [B, N, n], by Mehrotra's predictor-corrector method.

    G has a diagonal of about 1, so that duals and multipliers are of that size too; `slack_weight` is [B, 1, 1]. The
    start is feasible, and so is every step, whose sums over classes are 0.
    """
    ways = len(labels)
    duals = slack_weight.clamp(max=1) * (labels - 1 / ways) / 2
    slacks = slack_weight * labels - duals
    multipliers = torch.ones_like(duals)
    sums = torch.zeros_like(duals[:, :1])
    for _ in range(MOST_ITERATIONS):
        residual = duals @ gram - labels + sums + multipliers
        gaps = (slacks * multipliers).mean((1, 2), keepdim=True)
        if gaps.max() < 2 * GAP and residual.abs().max() < RESIDUAL * (1 + multipliers.max()):
            break
        newton = Newton.at(gram, slacks, multipliers, residual)
        products = slacks * multipliers
        moved, changed, _ = newton.step(products)
        length = _length(slacks, multipliers, moved, changed)
        ahead = ((slacks - length * moved) * (multipliers + length * changed)).mean((1, 2), keepdim=True)
        target = (gaps * (ahead / gaps) ** 3).clamp(min=GAP)
        moved, changed, shifted = newton.step(products - moved * changed - target)
        length = NEAR_BOUND * _length(slacks, multipliers, moved, changed)
        duals = duals + length * moved
        slacks = slacks - length * moved
        multipliers = multipliers + length * changed
        sums = sums + length * shifted
    return slacks < multipliers


@dataclass(frozen=True)
class Newton:
    """The optimality conditions, to first order, at a point with slacks s = C Y - a and multipliers z."""

    inverse: Tensor
    """(G + diag(z_c / s_c))^-1 [B, N, n, n]."""
    summed: Tensor
    """The Cholesky factor of the sum of these over classes [B, n, n]."""
    slacks: Tensor
    multipliers: Tensor
    residual: Tensor
    """G a_c - Y_c + l + z_c."""

    @classmethod
    def at(cls, gram: Tensor, slacks: Tensor, multipliers: Tensor, residual: Tensor) -> Self:
        """Factorise the conditions at a point."""
        curved = gram[:, None] + torch.diag_embed(multipliers / slacks)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(curved))
        return cls(inverse, torch.linalg.cholesky(inverse.sum(1)), slacks, multipliers, residual)

    def step(self, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The steps da, dz and dl that make the residual 0 and lower each s z by its `products`.

        They solve G da_c + dl + dz_c = -r_c, z da - s dz = products and sum_c da_c = 0. Without dz, the first is
        (G + diag(z_c / s_c)) da_c = products / s - r - dl, and dl makes the sum 0.
        """
        wanted = (self.inverse @ (products / self.slacks - self.residual)[..., None])[..., 0]
        shifted = torch.cholesky_solve(wanted.sum(1)[..., None], self.summed)
        moved = wanted - (self.inverse @ shifted[:, None])[..., 0]
        return moved, (self.multipliers * moved - products) / self.slacks, shifted.mT


def _length(slacks: Tensor, multipliers: Tensor, moved: Tensor, changed: Tensor) -> Tensor:
    """The largest step [B, 1, 1], at most 1, that keeps slacks and multipliers at 0 or above."""
    longest = torch.maximum(moved / slacks, -changed / multipliers).amax((1, 2), keepdim=True)
    length: Tensor = 1 / longest.clamp(min=1)
    return length


def _solved(gram: Tensor, labels: Tensor, bounds: Tensor, free: Tensor) -> Tensor:
    """Duals [B, N, n] that equal `bounds` where they are not `free`, and are optimal where they are."""
    pairs = free[..., :, None] & free[..., None, :]
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse: Tensor = torch.linalg.inv(torch.where(pairs, gram[:, None], identity)) * pairs
    alone = bounds + (inverse @ (labels - bounds @ gram)[..., None])[..., 0]
    sums: Tensor = torch.linalg.solve(inverse.sum(1), alone.sum(1))
    return alone - (inverse @ sums[:, None, :, None])[..., 0]
