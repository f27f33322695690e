"""Mixes two images cell by cell of a grid, without a mask of the images' size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def cuts(size: int, grid: int) -> list[int]:
    """Where the cells of a side begin, and where the last one ends: [grid + 1]; the last one takes what is left."""
    step = size // grid
    return [*range(0, grid * step, step), size]


def mixed(ours: Tensor, theirs: Tensor, weights: Tensor) -> Tensor:
    """Images [n, C, h, w] and weights [n, grid^2], any numbers -> theirs + w (ours - theirs), with cell's weight w.

    Cell i * grid + j is the i-th from the top and the j-th from the left.
    """
    blended: Tensor = _Mixed.apply(ours, theirs, weights)
    return blended


class _Mixed(torch.autograd.Function):
    """Row by row of cells. What it keeps for the way back are its arguments."""

    @staticmethod
    def forward(ctx: Any, ours: Tensor, theirs: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(ours, theirs, weights)
        blended = torch.empty_like(ours)
        for rows, line in _lines(weights, ours.shape):
            torch.lerp(theirs[:, :, rows], ours[:, :, rows], line, out=blended[:, :, rows])
        return blended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ours, theirs, weights = ctx.saved_tensors
        to_ours, to_theirs, to_weights = ctx.needs_input_grad
        grid = _side(weights)
        columns = cuts(ours.shape[3], grid)
        of_ours = torch.empty_like(gradient) if to_ours or to_theirs else None
        of_weights = []
        for rows, line in _lines(weights, ours.shape):
            part = gradient[:, :, rows]
            if of_ours is not None:
                torch.mul(part, line, out=of_ours[:, :, rows])
            if to_weights:
                by_column = (part * (ours[:, :, rows] - theirs[:, :, rows])).sum((1, 2))
                of_weights += [by_column[:, a:b].sum(1) for a, b in itertools.pairwise(columns)]
        return (
            of_ours if to_ours else None,
            gradient - of_ours if of_ours is not None and to_theirs else None,
            torch.stack(of_weights, 1) if to_weights else None,
        )


def _lines(weights: Tensor, shape: torch.Size) -> Iterator[tuple[slice, Tensor]]:
    """For each row of cells, its rows of pixels and the weight of each column of pixels, [n, 1, 1, w]."""
    grid = _side(weights)
    rows, columns = cuts(shape[2], grid), cuts(shape[3], grid)
    widths = [right - left for left, right in itertools.pairwise(columns)]
    for (top, bottom), cells in zip(
        itertools.pairwise(rows), weights.unflatten(1, (grid, grid)).unbind(1), strict=True
    ):
        line = [cell[:, None].expand(-1, width) for cell, width in zip(cells.unbind(1), widths, strict=True)]
        yield slice(top, bottom), torch.cat(line, 1)[:, None, None]


def _side(weights: Tensor) -> int:
    return math.isqrt(weights.shape[1])
