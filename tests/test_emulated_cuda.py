"""The CUDA kernels, emulated on a CPU, against the CPU's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmf.ops import library as operators
from tests import emulation
from tests.test_aligned_score import GROWTHS

B, N, Q, H, W = 2, 2, 2, 2, 2
SIZES = [(1, 1), (16, 1), (4, 4), (3, 5), (16, 5), (2, 20), (2, 64), (1, 100), (2, 130)]
"""R and G: less than a warp, with groups repeated to fill one or not, two warps, more, and with remainders."""
REACHES = {"near": 1.0, "far": 30.0, "whole positions": 0.0, "broken": 1.0}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 1e-4}
"""Sums run in another order; those of bfloat16 inputs are float32 as well."""


@pytest.fixture(scope="module", autouse=True)
def _emulated(tmp_path_factory: pytest.TempPathFactory) -> None:
    if "cpu" not in operators.COMPILED:
        pytest.skip("no compiled operator; python setup.py build_ext --inplace makes it")
    emulation.load(tmp_path_factory.mktemp("emulated"))


def tables(
    rest: int,
    groups: int,
    reach: str = "near",
    kernel: tuple[int, int] = (3, 3),
    dtype: torch.dtype = torch.float64,
    side: int = H,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rest * groups)
    count = kernel[0] * kernel[1]
    shapes = (
        (B * N, count, side, side, groups),
        (B * N, 2 * count, side, side),
        (B * Q, side, side, rest, groups),
        (B * Q, 2 * count, side, side),
        (B * N, rest, groups),
    )
    found = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for place in (1, 3):
        found[place] *= REACHES[reach]
        if reach == "broken":
            found[place].flatten()[::7] = torch.tensor([float("nan"), float("inf"), 1e30]).repeat(1000)[
                : len(found[place].flatten()[::7])
            ]
    wide = torch.promote_types(dtype, torch.float32)
    return [table.to(dtype if place in (0, 2) else wide) for place, table in enumerate(found)]


def assert_same(given: list[Tensor], kernel: tuple[int, int], coefficients: tuple[float, ...], rectified: bool) -> None:
    settings = (B, list(kernel), list(coefficients), rectified)
    tolerance = TOLERANCE[given[0].dtype]
    cpu, emulated = torch.ops.dmf, torch.ops.dmf_emulated
    scores = cpu.aligned_score(*given, *settings)
    close = {"atol": tolerance, "rtol": tolerance, "equal_nan": True}
    torch.testing.assert_close(emulated.aligned_score(*given, *settings), scores, **close)
    grad = torch.randn(scores.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(scores)
    expected = cpu.aligned_score_backward(grad, *given, *settings)
    for one, other in zip(emulated.aligned_score_backward(grad, *given, *settings), expected, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize(("rest", "groups"), SIZES)
@pytest.mark.parametrize("growth", GROWTHS)
def test_values_and_gradients_are_those_of_the_cpu(
    rest: int, groups: int, growth: tuple[tuple[float, ...], bool], reach: str
) -> None:
    assert_same(tables(rest, groups, reach), (3, 3), *growth)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 5), (7, 5)])
def test_other_kernels(kernel: tuple[int, int]) -> None:
    assert_same(tables(2, 8, kernel=kernel), kernel, *GROWTHS[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rest", "groups"), [(3, 5), (2, 64), (1, 160)])
def test_other_types(dtype: torch.dtype, rest: int, groups: int) -> None:
    assert_same(tables(rest, groups, dtype=dtype), (3, 3), *GROWTHS[1])


def test_many_channels() -> None:
    assert_same(tables(2, 600), (3, 3), *GROWTHS[1])


@pytest.mark.parametrize("groups", [5, 40])
def test_maps_whose_sums_do_not_fit_into_shared_memory(groups: int) -> None:
    assert_same(tables(1, groups, side=14), (3, 3), *GROWTHS[1])
    taps, offsets = tables(1, groups, side=14)[0], tables(1, groups, side=14)[1][:, None]
    assert_same_samples(taps, offsets, (3, 3))


@pytest.mark.parametrize(("rest", "groups"), SIZES)
def test_the_order_of_threads_changes_no_bit(rest: int, groups: int) -> None:
    given, settings = [table.float() for table in tables(rest, groups)], (B, [3, 3], [1.0, 0.5], True)
    grad = torch.randn(B, Q, N, H, W, generator=torch.Generator().manual_seed(3))
    of_samples = torch.randn(B * N, Q, H, W, groups, generator=torch.Generator().manual_seed(4))
    offsets = given[1].unflatten(0, (B * N, 1)) + given[3].unflatten(0, (B, 1, Q)).expand(B, N, -1, -1, -1, -1).flatten(
        0, 1
    )

    def results() -> list[Tensor]:
        return [
            torch.ops.dmf_emulated.aligned_score(*given, *settings),
            *torch.ops.dmf_emulated.aligned_score_backward(grad, *given, *settings),
            torch.ops.dmf_emulated.sample_taps(given[0], offsets, [3, 3]),
            *torch.ops.dmf_emulated.sample_taps_backward(of_samples, given[0], offsets, [3, 3]),
        ]

    once = results()
    with emulation.other_order():
        again = results()
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


def assert_same_samples(taps: Tensor, offsets: Tensor, kernel: tuple[int, int]) -> None:
    tolerance = TOLERANCE[taps.dtype]
    close = {"atol": tolerance, "rtol": tolerance, "equal_nan": True}
    expected = torch.ops.dmf.sample_taps(taps, offsets, kernel)
    torch.testing.assert_close(torch.ops.dmf_emulated.sample_taps(taps, offsets, kernel), expected, **close)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(expected)
    gradients = torch.ops.dmf.sample_taps_backward(grad, taps, offsets, kernel)
    emulated = torch.ops.dmf_emulated.sample_taps_backward(grad, taps, offsets, kernel)
    for one, other in zip(emulated, gradients, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("groups", [1, 5, 32, 64, 100])
@pytest.mark.parametrize(
    ("kernel", "dtype"), [((3, 3), torch.float64), ((3, 2), torch.float64), ((3, 3), torch.float32)]
)
def test_samples_are_those_of_the_cpu(reach: str, groups: int, kernel: tuple[int, int], dtype: torch.dtype) -> None:
    given = tables(1, groups, reach, kernel, dtype)
    offsets = given[1][:, None] + given[3][None]  # every query of both episodes with every map
    assert_same_samples(given[0], offsets.contiguous(), kernel)


@pytest.mark.parametrize(("maps", "queries", "groups"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_no_samples_of_nothing(maps: int, queries: int, groups: int) -> None:
    assert_same_samples(torch.zeros(maps, 9, H, W, groups), torch.zeros(maps, queries, 18, H, W), (3, 3))


def test_rows_pick_classes_and_queries() -> None:
    rows = torch.tensor([[0, 3], [1, 1]]), torch.tensor([[3, 0, 0], [2, 1, 3]])
    given = (*tables(2, 64), *rows, [3, 3], [1.0, 0.5], True)
    expected = torch.ops.dmf.aligned_score_of_rows(*given)
    torch.testing.assert_close(torch.ops.dmf_emulated.aligned_score_of_rows(*given), expected)
