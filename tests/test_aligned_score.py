"""The one-pass score of aligned queries, compared with its definition and the definition's parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.model import DMF
from dmf.methods.dmf.scorers import FilterScorer, OnePassScorer, class_weights
from dmf.ops import library as operators
from dmf.ops.aligned_score import aligned_score, aligned_score_definition

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
B, N, Q, H, W = 2, 3, 4, 5, 4
GROWTHS = [((1.0,), True), ((1.0, 1 / 2, 1 / 6, 1 / 24), True), ((3.0, 3.0, 1.0), False), ((), True)]
NAMES = ("taps", "class_offsets", "query", "query_offsets", "weights")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param not in operators.COMPILED:
        pytest.skip(f"no compiled operator for {request.param}; python setup.py build_ext --inplace makes it")
    return request.param


def tables(
    rest: int, groups: int, kernel_size: tuple[int, int] = (3, 3), dtype: torch.dtype = torch.float64, side: int = H
) -> list[Tensor]:
    """Random tables whose samples lie inside the map, on its border and outside."""
    generator = torch.Generator().manual_seed(rest * groups)
    count = kernel_size[0] * kernel_size[1]
    shapes = (
        (B * N, count, side, W, groups),
        (B * N, 2 * count, side, W),
        (B * Q, side, W, rest, groups),
        (B * Q, 2 * count, side, W),
        (B * N, rest, groups),
    )
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(function, given: list[Tensor], *settings: object) -> tuple[Tensor, ...]:
    given = [table.detach().requires_grad_() for table in given]
    out = function(*given, *settings)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return out, *torch.autograd.grad(out, given, grad.to(out))


# Widths below, at and above a vector and a block, those that repeat groups to fill one, and those that cannot.
@pytest.mark.parametrize(
    ("rest", "groups"),
    [(1, 1), (16, 1), (4, 4), (3, 5), (16, 5), (1, 16), (2, 20), (4, 20), (2, 64), (1, 100), (2, 130)],
)
@pytest.mark.parametrize("growth", GROWTHS)
def test_values_and_gradients_are_the_definition(device: str, rest: int, groups: int, growth) -> None:
    given = [table.to(device) for table in tables(rest, groups)]
    settings = B, (3, 3), *growth
    expected = gradients(aligned_score_definition, given, *settings)
    for ours, definition in zip(gradients(torch.ops.dmf.aligned_score, given, *settings), expected, strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-9, atol=1e-9)
    narrow = gradients(torch.ops.dmf.aligned_score, [table.float() for table in given], *settings)
    for ours, definition in zip(narrow, expected, strict=True):
        scale = definition.abs().max().item()
        torch.testing.assert_close(ours.double(), definition, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("kernel_size", [(3, 2), (5, 5), (1, 1)])
def test_other_kernels(device: str, kernel_size: tuple[int, int]) -> None:
    given = [table.to(device) for table in tables(2, 8, kernel_size)]
    settings = B, kernel_size, (1.0, 0.5), True
    expected = gradients(aligned_score_definition, given, *settings)
    for ours, definition in zip(gradients(torch.ops.dmf.aligned_score, given, *settings), expected, strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-9, atol=1e-9)


def test_the_definition_is_alignment_then_weights() -> None:
    """`aligned_score_definition` against sampled filters, explicitly aligned maps and a weighted sum."""
    torch.manual_seed(0)
    model = DMF(torch.nn.Identity(), 8, base_classes=3, groups=4, alignment=Alignment("ode")).double()
    classes, query = torch.randn(B, N, 8, H, W).double(), torch.randn(B, Q, 8, H, W).double()
    filters = model.meta_filter(classes, query)
    weights = class_weights(classes, "normalised")
    pairs = query[:, None].expand(B, N, Q, 8, H, W).flatten(0, 2)
    aligned = model.alignment(pairs, filters.flatten(0, 2)).unflatten(0, (B, N, Q))
    expected = torch.einsum("bnqchw,bnc->bqnhw", aligned, weights)
    assert isinstance(model.scorer, OnePassScorer) and isinstance(model.filter_scorer, FilterScorer)
    for scorer in (model.scorer, model.filter_scorer):
        torch.testing.assert_close(scorer.score_map(classes, query), expected, rtol=1e-9, atol=1e-9)


def test_gradcheck_and_opcheck(device: str) -> None:
    given = [table.to(device).requires_grad_() for table in tables(2, 3, (3, 2), side=3)]
    settings = B, (3, 2), (1.0, 0.5), True
    operator = torch.ops.dmf.aligned_score
    assert torch.autograd.gradcheck(lambda *given: operator(*given, *settings), given, nondet_tol=1e-12)
    grad = torch.randn_like(operator(*given, *settings))
    given = [table.detach() for table in given]
    rows = torch.zeros(1, 2, dtype=torch.long, device=device), torch.ones(1, 3, dtype=torch.long, device=device)
    for overload, inputs in (
        (operator.default, ([*(table.clone().requires_grad_() for table in given)], settings)),
        (torch.ops.dmf.aligned_score_backward.default, ([grad, *given], settings)),
        (torch.ops.dmf.aligned_score_of_rows.default, ([*given, *rows], settings[1:])),
    ):
        results = torch.library.opcheck(overload, (*inputs[0], *inputs[1]))
        assert set(results.values()) == {"SUCCESS"} and len(results) == 4


def test_layout_of_the_memory_does_not_matter(device: str) -> None:
    given = [table.to(device) for table in tables(4, 8)]
    spread = [torch.stack([table, table], dim=-1)[..., 0] for table in given]
    assert not any(table.is_contiguous() for table in spread)
    settings = B, (3, 3), (1.0,), True
    assert torch.equal(torch.ops.dmf.aligned_score(*spread, *settings), torch.ops.dmf.aligned_score(*given, *settings))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [4, 16, 80])
def test_narrow_tables_are_summed_in_float32(device: str, dtype: torch.dtype, groups: int) -> None:
    taps, class_offsets, query, query_offsets, weights = (table.float().to(device) for table in tables(4, groups))
    settings = (3, 3), (1.0, 0.5), True
    taps, query = taps.to(dtype).requires_grad_(), query.to(dtype).requires_grad_()
    ours = aligned_score(taps, class_offsets, query, query_offsets, weights, *settings, episodes=B)
    assert ours.dtype == torch.float32
    expected = aligned_score_definition(
        taps.float(), class_offsets, query.float(), query_offsets, weights, B, *settings
    )
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)
    grad = torch.randn_like(ours)
    for got, wanted in zip(
        torch.autograd.grad(ours, (taps, query), grad), torch.autograd.grad(expected, (taps, query), grad), strict=True
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(
            got.float(), wanted.float(), rtol=2 ** (-7 if dtype == torch.bfloat16 else -9), atol=1e-3
        )


@pytest.mark.parametrize("compiled", [True, False])
def test_rows_pick_classes_and_queries(device: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(operators, "COMPILED", frozenset())
    given = dict(zip(NAMES, (table.to(device) for table in tables(2, 8)), strict=True))
    class_rows = torch.tensor([[0, 5], [3, 3], [1, 0]], device=device)
    query_rows = torch.tensor([[7, 0, 0], [2, 1, 3], [4, 4, 6]], device=device)
    settings = {"kernel_size": (3, 3), "coefficients": (1.0, 0.5), "rectified": True}
    ours = aligned_score(**given, **settings, rows=(class_rows, query_rows))
    assert ours.shape == (3, 3, 2, H, W)
    picked = {
        name: table[(query_rows if name.startswith("query") else class_rows).flatten()] for name, table in given.items()
    }
    torch.testing.assert_close(ours, aligned_score(**picked, **settings, episodes=3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("class_row", "query_row"), [(-1, 0), (B * N, 0), (0, -1), (0, B * Q)])
def test_rows_outside_of_a_table_are_refused(class_row: int, query_row: int) -> None:
    if "cpu" not in operators.COMPILED:
        pytest.skip("no compiled operator")
    rows = torch.tensor([[class_row]]), torch.tensor([[query_row]])
    with pytest.raises(RuntimeError, match="a row lies outside of its table"):
        torch.ops.dmf.aligned_score_of_rows(*tables(2, 8), *rows, (3, 3), (1.0,), True)


def test_threads_change_no_bit() -> None:
    if "cpu" not in operators.COMPILED:
        pytest.skip("no compiled operator")
    given = tables(2, 160, dtype=torch.float32)
    settings = B, (3, 3), (1.0, 1 / 2, 1 / 6, 1 / 24), True
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(torch.ops.dmf.aligned_score, given, *settings))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_far_and_broken_offsets(device: str) -> None:
    """Samples infinitely far away give 0, and a NaN affects only its own position."""
    given = [table.to(device) for table in tables(2, 8)]
    given[1][0, 3, 2, 1], given[1][1, 2, 0, 0] = float("nan"), float("inf")
    settings = B, (3, 3), (1.0,), True
    ours = torch.ops.dmf.aligned_score(*given, *settings)
    torch.testing.assert_close(ours, aligned_score_definition(*given, *settings), equal_nan=True)
    broken = torch.zeros_like(ours, dtype=torch.bool)
    broken[0, :, 0, 2, 1] = True
    assert torch.equal(ours.isnan(), broken)


class LargestResult(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_nothing_of_the_size_of_all_pairs_times_groups_is_made() -> None:
    if "cpu" not in operators.COMPILED:
        pytest.skip("no compiled operator")
    torch.manual_seed(0)
    model = DMF(torch.nn.Identity(), 32, base_classes=3, groups=32, alignment=Alignment("ode"))
    support, query = torch.randn(1, 6, 1, 32, 6, 6), torch.randn(1, 60, 32, 6, 6, requires_grad=True)
    with LargestResult() as seen:
        model.score(support, query).sum().backward()
    assert seen.numbers < 6 * 60 * 32 * 36 / 4
