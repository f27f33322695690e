"""The score map of aligned queries in one pass: its PyTorch definition and the compiled operator.

Letters: B episodes with N classes and Q queries each, T taps, C channels in G groups of R, H W space. With w the class
weight, X the query map, f a pair's meta-filter and phi its growth (`Alignment`), a rectified alignment multiplies
X_c > 0 by phi(f_g) and leaves X_c <= 0 unchanged; without the rectification, it multiplies all of X:

    score = sum_c w_c aligned_c = sum_c w_c X_c + sum_g (phi(f_g) - 1) * sum_{c in g} w_c moving_c

with moving = max(X, 0) or X, and f_g = sigmoid(sum_t bilinear(tap map t, at the positions displaced by the pair's
offsets)). The operator computes scores from tap maps without storing anything of size pairs x G: at each position, a
pair costs 4T reads of G numbers, C products, and a write of one number.
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
    query: Tensor,
    query_offsets: Tensor,
    weights: Tensor,
    kernel_size: tuple[int, int],
    coefficients: tuple[float, ...],
    rectified: bool,
    rows: tuple[Tensor, Tensor] | None = None,
    episodes: int = 1,
) -> Tensor:
    """The inner product of class weight and aligned query at each position.

    Args:
        taps: [J, T, H, W, G], each tap's 1x1 convolution of J class maps.
        class_offsets: [J, 2T, H, W] in positions; a pair's offsets are the sum of its class's and its query's.
        query: [I, H, W, R, G], query maps; channel c is at (c % R, c // R).
        query_offsets: [I, 2T, H, W] in positions.
        weights: [J, R, G], class weights, with channels arranged like those of `query`.
        kernel_size: (kh, kw) with T = kh * kw.
        coefficients: c_1, c_2, ... of phi(f) - 1 = c_1 f + c_2 f^2 + ..., at most 4; empty for exp(f) - 1.
        rectified: whether only positive values of `query` grow.
        rows: rows of each episode's classes [B, N] and queries [B, Q] in the tables, int64; the result then has no
            gradient. If None, the tables hold `episodes` consecutive episodes: J = B * N, I = B * Q.
        episodes: B if `rows` is None; ignored otherwise.

    Returns:
        [B, Q, N, H, W], float64 for float64 and float32 for all other types. On CPUs float16 is converted to float32.
    """
    dtype = torch.promote_types(taps.dtype, query.dtype)
    of_sums = torch.promote_types(dtype, torch.float32)
    if dtype == torch.float16 and not taps.is_cuda:
        dtype = torch.float32
    tables = (
        taps.to(dtype),
        class_offsets.to(of_sums),
        query.to(dtype),
        query_offsets.to(of_sums),
        weights.to(of_sums),
    )
    if not torch.compiler.is_compiling():
        operators.say_which("aligned score", taps.device.type)
    function: Callable[..., Tensor]
    compiled = taps.device.type in operators.COMPILED
    if rows is not None:
        function = torch.ops.dmf.aligned_score_of_rows if compiled else _definition_of_rows
        return function(*tables, *rows, kernel_size, coefficients, rectified)
    function = torch.ops.dmf.aligned_score if compiled else aligned_score_definition
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
    """`aligned_score` of consecutive episodes in PyTorch; it stores the filters of all pairs."""
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
    """Register shape inference and derivatives of the compiled operators; the C++ code holds only the kernels."""

    def shape(
        taps: Tensor,
        class_offsets: Tensor,
        query: Tensor,
        query_offsets: Tensor,
        weights: Tensor,
        episodes: int,
        kernel_size: list[int],
        coefficients: list[float],
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
        coefficients: list[float],
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
        *tables, ctx.episodes, ctx.kernel_size, ctx.coefficients, ctx.rectified = inputs
        ctx.save_for_backward(*tables)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tables = ctx.saved_tensors
        settings = ctx.episodes, ctx.kernel_size, ctx.coefficients, ctx.rectified
        parts = torch.ops.dmf.aligned_score_backward(grad, *tables, *settings)
        return *(part.to(table.dtype) for part, table in zip(parts, tables, strict=True)), None, None, None, None

    def no_backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("dmf::aligned_score has no second derivative, and with rows no derivative at all")

    torch.library.register_fake("dmf::aligned_score", shape)
    torch.library.register_fake("dmf::aligned_score_of_rows", shape_of_rows)
    torch.library.register_fake("dmf::aligned_score_backward", gradients)
    torch.library.register_autograd("dmf::aligned_score", backward, setup_context=remember)
    torch.library.register_autograd("dmf::aligned_score_backward", no_backward)
    torch.library.register_autograd("dmf::aligned_score_of_rows", no_backward)


if operators.COMPILED:
    _register()
