"""The score map of aligned queries in one pass: its PyTorch definition and the compiled operator.

Letters: B episodes, N classes and Q queries each, T taps, C channels in G groups of R, H W space. With w the class
weight, X the query map, f the meta-filter of a pair and phi its growth (`Alignment`), an alignment that is rectified
multiplies X_c > 0 by phi and leaves the rest, and one that is not multiplies everything:

    score = sum_c w_c aligned_c = sum_c w_c X_c + sum_g (phi(f_g) - 1) * sum_{c in g} w_c moving_c

with moving = max(X, 0) or X, and f = sigmoid(sum_t bilinear(tap map t, where the pair's offsets say)). The operator
goes from the tap maps to the score without writing anything of size pairs x G: a pair costs 4T reads of G numbers and C
products per position, and a number to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dmf.ops import library as operators
from dmf.ops.dynamic_sampling import sample_taps_definition


def aligned_score(
    taps: Tensor,
    class_offsets: Tensor,
    weights: Tensor,
    query: Tensor,
    query_offsets: Tensor,
    kernel_size: tuple[int, int],
    coefficients: tuple[float, ...],
    rectified: bool,
    rows: tuple[Tensor, Tensor] | None = None,
    episodes: int = 1,
) -> Tensor:
    """<class weight, aligned query> at each position.

    Args:
        taps: [J, T, H, W, G], each tap's 1x1 convolution of J class maps.
        class_offsets: [J, 2T, H, W] in positions; a pair's offsets are the sum of its class's and its query's.
        weights: [J, R, G], the class weights; channel c is at (c % R, c // R).
        query: [I, H, W, R, G], query maps with their channels arranged alike.
        query_offsets: [I, 2T, H, W].
        kernel_size: of the taps.
        coefficients: c_1, c_2, ... of phi(f) - 1 = c_1 f + c_2 f^2 + ..., at most 4; none for exp(f) - 1.
        rectified: whether only query numbers above 0 grow.
        rows: class rows [B, N] and query rows [B, Q] of the episodes, int64; nothing is differentiated then. Without
            them the rows of `episodes` episodes follow each other: J = B * N, I = B * Q.

    Returns:
        [B, Q, N, H, W], float32 (float64 for float64). float16 on a CPU is computed from float32 numbers.
    """
    exact = torch.promote_types(taps.dtype, query.dtype)
    narrow = exact if exact.itemsize >= 4 or (exact == torch.bfloat16 or taps.is_cuda) else torch.float32
    wide = torch.promote_types(exact, torch.float32)
    tables = (taps.to(narrow), class_offsets.to(wide), query.to(narrow), query_offsets.to(wide), weights.to(wide))
    if not torch.compiler.is_compiling():
        operators.say_which("aligned score", taps.device.type)
    function: Callable[..., Tensor]
    if rows is not None:
        function = (
            torch.ops.dmf.aligned_score_of_rows if taps.device.type in operators.COMPILED else _definition_of_rows
        )
        return function(*tables, *rows, kernel_size, coefficients, rectified)
    function = torch.ops.dmf.aligned_score if taps.device.type in operators.COMPILED else aligned_score_definition
    return function(*tables, episodes, kernel_size, coefficients, rectified)


def aligned_score_definition(
    taps: Tensor,
    class_offsets: Tensor,
    query: Tensor,
    query_offsets: Tensor,
    weights: Tensor,
    episodes: int,
    kernel_size: tuple[int, int],
    coefficients: tuple[float, ...],
    rectified: bool,
) -> Tensor:
    """The operator in PyTorch, with the filters of all pairs."""
    wide = weights.dtype
    offsets = (
        class_offsets.unflatten(0, (episodes, -1))[:, :, None] + query_offsets.unflatten(0, (episodes, -1))[:, None]
    )
    filters = sample_taps_definition(taps.to(wide), offsets.flatten(0, 1), kernel_size).sigmoid()
    filters = filters.unflatten(0, (episodes, -1))  # [B, N, Q, H, W, G]
    query, weights = query.to(wide).unflatten(0, (episodes, -1)), weights.unflatten(0, (episodes, -1))
    powers = enumerate(coefficients, start=1)
    gain = sum(factor * filters**power for power, factor in powers) if coefficients else filters.exp() - 1
    moving = torch.where(query > 0, query, 0) if rectified else query
    products = torch.einsum("bqhwrg,bnrg->bnqhwg", moving, weights)
    grown: Tensor = (gain * products).sum(-1)
    return torch.einsum("bqhwrg,bnrg->bqnhw", query, weights) + grown.transpose(1, 2)


def _definition_of_rows(
    taps: Tensor,
    class_offsets: Tensor,
    query: Tensor,
    query_offsets: Tensor,
    weights: Tensor,
    class_rows: Tensor,
    query_rows: Tensor,
    *settings: Any,
) -> Tensor:
    classes, queries = class_rows.flatten(), query_rows.flatten()
    tables = taps[classes], class_offsets[classes], query[queries], query_offsets[queries], weights[classes]
    return aligned_score_definition(*tables, len(class_rows), *settings)


def _register() -> None:
    """What the compiled operators' C++ leaves to Python: shapes of results, and derivatives."""

    def shape(
        taps: Tensor,
        class_offsets: Tensor,
        query: Tensor,
        query_offsets: Tensor,
        weights: Tensor,
        episodes: int,
        kernel_size: list[int],
        growth: list[float],
        rectified: bool,
    ) -> Tensor:
        queries, ways = query.shape[0] // episodes, taps.shape[0] // episodes
        return weights.new_empty(episodes, queries, ways, *taps.shape[2:4])

    def shape_of_rows(
        taps: Tensor,
        class_offsets: Tensor,
        query: Tensor,
        query_offsets: Tensor,
        weights: Tensor,
        class_rows: Tensor,
        query_rows: Tensor,
        kernel_size: list[int],
        growth: list[float],
        rectified: bool,
    ) -> Tensor:
        return weights.new_empty(*query_rows.shape, class_rows.shape[1], *taps.shape[2:4])

    def gradients(
        grad: Tensor,
        taps: Tensor,
        class_offsets: Tensor,
        query: Tensor,
        query_offsets: Tensor,
        weights: Tensor,
        *settings: Any,
    ) -> tuple[Tensor, ...]:
        tables = taps, class_offsets, query, query_offsets, weights
        return tuple(weights.new_empty(table.shape) for table in tables)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tables, ctx.episodes, ctx.kernel_size, ctx.growth, ctx.rectified = inputs
        ctx.save_for_backward(*tables)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tables = ctx.saved_tensors
        settings = ctx.episodes, ctx.kernel_size, ctx.growth, ctx.rectified
        parts = torch.ops.dmf.aligned_score_backward(grad, *tables, *settings)
        return *(part.to(table.dtype) for part, table in zip(parts, tables, strict=True)), None, None, None, None

    def no_backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("dmf::aligned_score has no second derivative, and none at all with rows")

    torch.library.register_fake("dmf::aligned_score", shape)
    torch.library.register_fake("dmf::aligned_score_of_rows", shape_of_rows)
    torch.library.register_fake("dmf::aligned_score_backward", gradients)
    torch.library.register_autograd("dmf::aligned_score", backward, setup_context=remember)
    torch.library.register_autograd("dmf::aligned_score_backward", no_backward)
    torch.library.register_autograd("dmf::aligned_score_of_rows", no_backward)


if operators.COMPILED:
    _register()
