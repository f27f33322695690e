"""Alignment of a query map X by a meta-filter f (paper, eq. 9): dX/dt = relu(f (*) X) for t in [0, 1].

The relu is in the released code but not in eq. 7 as printed. (*) filters each channel at each position with the k x k
weights of its group; f is constant in t. "T alignments" are T Euler steps of length 1,
X_{t+1} = X_t + relu(f (*) X_t); "ode" integrates the equation.

For k = 1 the elements x of X do not interact: each follows a linear equation with its own constant f > 0. The relu
leaves x <= 0 unchanged, and x > 0 becomes phi(f) x, with the growth

    phi(f) = (1 + f)^T                          T alignments
             1 + f + f^2/2 + f^3/6 + f^4/24     one Runge-Kutta step: any of order 4, since x' = f x is linear
             exp(f)                             the exact ODE

Without the relu, phi multiplies elements of both signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchdiffeq import odeint

DOPRI5_RTOL, DOPRI5_ATOL = 1e-5, 1e-6
"""The paper names Dormand-Prince but gives no tolerances; these keep five digits of phi in float32."""


@dataclass(frozen=True)
class Alignment:
    """Aligns query maps. The fields are those of `DMFConfig`, where `steps` is called `alignment`."""

    steps: Literal[0, 1, 2, 3, "ode"] = "ode"
    solver: Literal["rk4", "dopri5", "exact"] = "rk4"
    kernel_size: int = 1
    rectified: bool = True

    @property
    def coefficients(self) -> tuple[float, ...] | None:
        """The c_i in phi(f) - 1 = c_1 f + c_2 f^2 + ... for k = 1; () stands for exp(f) - 1.

        None if phi has no closed form: for k = 3 and for the adaptive solver.
        """
        if self.kernel_size != 1 or (self.steps == "ode" and self.solver == "dopri5"):
            return None
        if self.steps != "ode":
            return tuple(float(math.comb(self.steps, power)) for power in range(1, self.steps + 1)) or (0.0,)
        return () if self.solver == "exact" else (1.0, 1 / 2, 1 / 6, 1 / 24)

    def growth(self, filters: Tensor) -> Tensor:
        """phi(f) of 1x1 `filters`, elementwise."""
        if self.steps != "ode":
            return (1 + filters) ** self.steps
        if self.solver == "exact":
            return filters.exp()
        if self.solver == "rk4":
            # Horner: 1 + f (1 + f/2 (1 + f/3 (1 + f/4)))
            return 1 + filters * (1 + filters / 2 * (1 + filters / 3 * (1 + filters / 4)))
        return self._integrate(lambda _, phi: filters * phi, torch.ones_like(filters))

    def __call__(self, query: Tensor, filters: Tensor) -> Tensor:
        """Align `query` [P, C, H, W] with `filters` [P, G*k*k, H, W] -> [P, C, H, W].

        Channel c belongs to group c // (C/G). The k*k taps of a group are adjacent in `filters`.
        """
        if self.steps == 0:
            return query
        if self.kernel_size == 1:
            growth = self.growth(filters).repeat_interleave(query.shape[1] // filters.shape[1], dim=1)
            if not self.rectified:
                return query * growth
            positive = F.relu(query)
            return query - positive + positive * growth

        def rate(_: Tensor | None, maps: Tensor) -> Tensor:
            change = apply_filter(maps, filters, self.kernel_size)
            return F.relu(change) if self.rectified else change

        if self.steps == "ode":
            return self._integrate(rate, query)
        for _ in range(self.steps):
            query = query + rate(None, query)
        return query

    def _integrate(self, rate: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=start.dtype, device=start.device)
        if self.solver == "rk4":
            states: Tensor = odeint(rate, start, times, method="rk4")
        else:
            states = odeint(rate, start, times, method="dopri5", rtol=DOPRI5_RTOL, atol=DOPRI5_ATOL)
        return states[-1]


def apply_filter(maps: Tensor, filters: Tensor, kernel_size: int) -> Tensor:
    """Filter `maps` [P, C, H, W] at each position with its own `filters` [P, G*k*k, H, W] -> [P, C, H, W].

    Tap t, with (i, j) = divmod(t, k), reads the neighbour at (y + i - k//2, x + j - k//2), or zero outside the map.
    """
    pairs, channels, height, width = maps.shape
    taps = kernel_size**2
    groups = filters.shape[1] // taps
    padded = F.pad(maps, [kernel_size // 2] * 4)
    weights = filters.view(pairs, groups, 1, taps, height, width)
    filtered = torch.zeros_like(maps).view(pairs, groups, channels // groups, height, width)
    for tap in range(taps):
        i, j = divmod(tap, kernel_size)
        neighbour = padded[:, :, i : i + height, j : j + width]
        filtered = filtered + weights[:, :, :, tap] * neighbour.reshape(filtered.shape)
    return filtered.view_as(maps)
