"""Slow reference definitions for tests: nested loops that follow the formulas, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np


def hat(distance: np.ndarray) -> np.ndarray:
    """Weight of a grid point at a signed distance, in one dimension of bilinear interpolation."""
    return np.maximum(0, 1 - np.abs(distance))


def hat_slope(distance: np.ndarray) -> np.ndarray:
    """Derivative of `hat`, from the right where it jumps (at -1, 0 and 1)."""
    return np.where((distance >= -1) & (distance < 0), 1.0, np.where((distance >= 0) & (distance < 1), -1.0, 0.0))


def tap_positions(
    offsets: np.ndarray, kernel_size: tuple[int, int]
) -> Iterator[tuple[int, int, int, int, int, float, float]]:
    """Every (m, q, y, x, t) with the position (v, h) that it reads, for offsets [M, Q, 2T, H, W]."""
    kernel_height, kernel_width = kernel_size
    maps, queries, _, height, width = offsets.shape
    for m, q, y, x in product(range(maps), range(queries), range(height), range(width)):
        for i, j in product(range(kernel_height), range(kernel_width)):
            t = i * kernel_width + j
            v = y - kernel_height // 2 + i + offsets[m, q, 2 * t, y, x]
            h = x - kernel_width // 2 + j + offsets[m, q, 2 * t + 1, y, x]
            yield m, q, y, x, t, v, h


def sample_taps(taps: np.ndarray, offsets: np.ndarray, kernel_size: tuple[int, int]) -> np.ndarray:
    """Taps [M, T, H, W, G] and offsets [M, Q, 2T, H, W] -> [M, Q, H, W, G]."""
    maps, _, height, width, groups = taps.shape
    out = np.zeros((maps, offsets.shape[1], height, width, groups))
    for m, q, y, x, t, v, h in tap_positions(offsets, kernel_size):
        out[m, q, y, x] += np.einsum("r,c,rcg->g", hat(v - np.arange(height)), hat(h - np.arange(width)), taps[m, t])
    return out


def sample_taps_gradients(
    grad: np.ndarray, taps: np.ndarray, offsets: np.ndarray, kernel_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(grad * sample_taps(taps, offsets)) with respect to taps and offsets."""
    height, width = taps.shape[2:4]
    grad_taps, grad_offsets = np.zeros(taps.shape), np.zeros(offsets.shape)
    for m, q, y, x, t, v, h in tap_positions(offsets, kernel_size):
        down, across = v - np.arange(height), h - np.arange(width)
        upstream = grad[m, q, y, x]
        grad_taps[m, t] += np.einsum("r,c,g->rcg", hat(down), hat(across), upstream)
        products = taps[m, t] @ upstream
        grad_offsets[m, q, 2 * t, y, x] = hat_slope(down) @ products @ hat(across)
        grad_offsets[m, q, 2 * t + 1, y, x] = hat(down) @ products @ hat_slope(across)
    return grad_taps, grad_offsets


def deformable_convolution(maps: np.ndarray, weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Maps [M, C, H, W], weight [out, C, kh, kw], offsets [M, Q, 2T, H, W] -> weighted samples [M, Q, out, H, W]."""
    height, width = maps.shape[2:]
    kernel_size = weight.shape[2:]
    out = np.zeros((len(maps), offsets.shape[1], len(weight), height, width))
    for m, q, y, x, t, v, h in tap_positions(offsets, kernel_size):
        read = np.einsum("r,c,krc->k", hat(v - np.arange(height)), hat(h - np.arange(width)), maps[m])
        out[m, q, :, y, x] += weight[:, :, t // kernel_size[1], t % kernel_size[1]] @ read
    return out


def apply_filter_by_loops(maps: np.ndarray, filters: np.ndarray, kernel_size: int) -> np.ndarray:
    """Position-wise filtering: `maps` [P, C, H, W] with `filters` [P, G*k*k, H, W], group g's taps at g*k*k + t."""
    pairs, channels, height, width = maps.shape
    taps = kernel_size**2
    per_group = channels // (filters.shape[1] // taps)
    out = np.zeros_like(maps)
    for p, c, y, x in np.ndindex(pairs, channels, height, width):
        for tap in range(taps):
            row, column = y + tap // kernel_size - kernel_size // 2, x + tap % kernel_size - kernel_size // 2
            if 0 <= row < height and 0 <= column < width:
                out[p, c, y, x] += filters[p, (c // per_group) * taps + tap, y, x] * maps[p, c, row, column]
    return out
