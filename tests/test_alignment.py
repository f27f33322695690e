"""Alignment: closed forms compared with solvers and with the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torchdiffeq import odeint

from dmf.methods.dmf.alignment import Alignment, apply_filter
from tests.oracles import apply_filter_by_loops

GENERATOR = torch.Generator().manual_seed(0)
QUERY = torch.randn(3, 8, 4, 5, generator=GENERATOR, dtype=torch.float64)


def filters(kernel_size: int, groups: int = 4) -> torch.Tensor:
    return torch.rand(3, groups * kernel_size**2, 4, 5, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_filtering_equals_loops(kernel_size: int, groups: int) -> None:
    weights = filters(kernel_size, groups)
    expected = apply_filter_by_loops(QUERY.numpy(), weights.numpy(), kernel_size)
    torch.testing.assert_close(
        apply_filter(QUERY, weights, kernel_size), torch.from_numpy(expected), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, "ode"])
def test_closed_form_equals_the_recursion(steps: int | str, rectified: bool) -> None:
    """For k = 1, the closed form with phi equals stepping through the equation, as for any k."""
    weights = filters(1)
    closed = Alignment(steps, "rk4", 1, rectified)(QUERY, weights)

    def rate(maps: torch.Tensor) -> torch.Tensor:
        change = apply_filter(maps, weights, 1)
        return change.relu() if rectified else change

    if steps == "ode":  # the 3/8 rule, as in torchdiffeq's "rk4" and the released code
        k1 = rate(QUERY)
        k2 = rate(QUERY + k1 / 3)
        k3 = rate(QUERY + k2 - k1 / 3)
        k4 = rate(QUERY + k1 - k2 + k3)
        stepped = QUERY + (k1 + 3 * (k2 + k3) + k4) / 8
    else:
        stepped = QUERY
        for _ in range(steps):
            stepped = stepped + rate(stepped)
    torch.testing.assert_close(closed, stepped, rtol=0, atol=1e-12)


def test_solvers_approach_the_exact_solution() -> None:
    weights = filters(1)
    exact = Alignment("ode", "exact").growth(weights)
    torch.testing.assert_close(exact, weights.exp())
    rk4 = Alignment("ode", "rk4").growth(weights)
    remainder = math.e - (1 + 1 + 1 / 2 + 1 / 6 + 1 / 24)  # the largest filter is below 1
    assert 0 < (exact - rk4).max() < remainder
    torch.testing.assert_close(Alignment("ode", "dopri5").growth(weights), exact, rtol=1e-5, atol=1e-6)


def integrated(weights: torch.Tensor, steps: int, rectified: bool) -> torch.Tensor:
    """The 3x3 dynamics by `steps` equal steps of rk4."""

    def rate(_: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        change = apply_filter(maps, weights, 3)
        return change.relu() if rectified else change

    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return odeint(rate, QUERY, times, method="rk4", options={"step_size": 1 / steps})[-1]


def test_three_by_three_ode_is_fourth_order() -> None:
    """Halving the step of an integration divides rk4's error by about 16 (without the relu, which has a kink)."""
    weights = filters(3) / 9
    fine = integrated(weights, 64, rectified=False)
    one_step = (Alignment("ode", "rk4", 3, rectified=False)(QUERY, weights) - fine).abs().max()
    two_steps = (integrated(weights, 2, rectified=False) - fine).abs().max()
    assert 12 < one_step / two_steps < 24


@pytest.mark.parametrize("rectified", [True, False])
def test_adaptive_three_by_three_ode_is_exact_to_its_tolerance(rectified: bool) -> None:
    weights = filters(3) / 9
    adaptive = Alignment("ode", "dopri5", 3, rectified)(QUERY, weights)
    tolerance = 1e-3 if rectified else 1e-4  # the solver interpolates its last step across the relu's kinks
    torch.testing.assert_close(adaptive, integrated(weights, 256, rectified), rtol=tolerance, atol=tolerance)


def test_only_positive_features_move_when_rectified() -> None:
    aligned = Alignment("ode")(QUERY, filters(1))
    assert torch.equal(aligned[QUERY <= 0], QUERY[QUERY <= 0])
    assert (aligned[QUERY > 0] > QUERY[QUERY > 0]).all()


def test_channels_take_the_filter_of_their_group() -> None:
    weights = torch.zeros(3, 4, 4, 5, dtype=torch.float64)
    weights[:, 2] = 1.0
    moved = (Alignment(1)(QUERY.abs() + 1, weights) != QUERY.abs() + 1).flatten(2).any(-1)
    assert moved.tolist() == [[False] * 4 + [True] * 2 + [False] * 2] * 3
