"""Dynamic (deformable) sampling of tap maps: its PyTorch definition, the compiled operator, and the layer that uses it.

Letters: M maps, Q queries per map, T = kh * kw taps, C channels, H W space, G groups (the output channels).

A deformable convolution samples C channels at T displaced positions and multiplies them by the weights W_t:

    out[q, y, x] = sum_t W_t bilinear(map, position of tap t + offset[q, t, y, x])

Bilinear sampling is linear and acts on positions, while W_t acts on channels, so the two commute. The T tap maps
W_t * map are therefore computed once per map, whatever Q is, and each pair of map and query only samples and adds them,
which is `sample_taps`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmf.machine.precision import wide
from dmf.ops import library as operators


def sample_taps(taps: Tensor, offsets: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Sample the tap maps at displaced positions and add them over the taps.

    With t = i * kw + j, the tap in row i and column j of the kernel,

        out[m, q, y, x] = sum_t bilinear(taps[m, t], y - kh // 2 + i + offsets[m, q, 2t, y, x],
                                                     x - kw // 2 + j + offsets[m, q, 2t + 1, y, x])

    where a map is 0 outside, so samples fade out over one position at the border (deformable convolution, v1). At whole
    positions, where the derivative with respect to an offset jumps, it is the derivative from the right. NaN offsets
    give NaN, and infinite ones give 0. 16-bit types are computed in float32.

    Args:
        taps: [M, T, H, W, G].
        offsets: [M, Q, 2T, H, W] in positions, (vertical, horizontal) for each tap.
        kernel_size: (kh, kw).

    Returns:
        [M, Q, H, W, G], contiguous and with the type of `taps`.

    Raises:
        ValueError: shapes, types or devices do not match.
    """
    _check(taps, offsets, kernel_size)
    dtype = torch.promote_types(torch.promote_types(taps.dtype, offsets.dtype), torch.float32)
    function = torch.ops.dmf.sample_taps if taps.device.type in operators.COMPILED else sample_taps_definition
    if not torch.compiler.is_compiling():
        operators.say_which("dynamic sampling", taps.device.type)
    return function(taps.to(dtype), offsets.to(dtype), kernel_size).to(taps.dtype)


def sample_taps_definition(taps: Tensor, offsets: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """`sample_taps` in PyTorch: at each position, a weighted sum of 4T rows of a table with an extra row of zeros."""
    maps, count, height, width, groups = taps.shape
    queries = offsets.shape[1]
    kernel_height, kernel_width = kernel_size

    def reach(size: int, kernel: int) -> Tensor:
        """[kernel, size]: the position that each tap reads at each position, before its offset is added."""
        return torch.arange(size, device=taps.device) + torch.arange(kernel, device=taps.device)[:, None] - kernel // 2

    rows = reach(height, kernel_height).repeat_interleave(kernel_width, dim=0)[:, :, None]
    columns = reach(width, kernel_width).repeat(kernel_height, 1)[:, None, :]
    # [M, Q, T, H, W]. Two positions outside the map all corners read 0, so clamping there only bounds the indices.
    y = (offsets[:, :, 0::2] + rows).clamp(-2, height + 1)
    x = (offsets[:, :, 1::2] + columns).clamp(-2, width + 1)
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left
    first_row = torch.arange(maps * count, device=taps.device).view(maps, 1, count, 1, 1) * (height * width)
    zero_row = maps * count * height * width
    indices, weights = [], []
    for down, vertical in ((0, 1 - below), (1, below)):
        for across, horizontal in ((0, 1 - right), (1, right)):
            row = (top.nan_to_num(-2) + down).long()
            column = (left.nan_to_num(-2) + across).long()
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            indices.append(torch.where(inside, first_row + row * width + column, zero_row))
            weights.append(vertical * horizontal)
    table = torch.cat([taps.reshape(zero_row, groups), taps.new_zeros(1, groups)])
    out = F.embedding_bag(_rows_by_position(indices), table, per_sample_weights=_rows_by_position(weights), mode="sum")
    return out.view(maps, queries, height, width, groups)


def _rows_by_position(corners: list[Tensor]) -> Tensor:
    """Four [M, Q, T, H, W] -> [M*Q*H*W, 4T]."""
    together = torch.stack(corners, dim=-1).permute(0, 1, 3, 4, 2, 5)
    return together.reshape(math.prod(together.shape[:4]), math.prod(together.shape[4:]))


def _check(taps: Tensor, offsets: Tensor, kernel_size: tuple[int, int]) -> None:
    count = math.prod(kernel_size)
    if taps.dim() != 5 or taps.shape[1] != count:
        raise ValueError(f"expected taps [M, {count}, H, W, G] for kernel_size={kernel_size}, got {list(taps.shape)}")
    maps, _, height, width, _ = taps.shape
    if offsets.dim() != 5 or offsets.shape != (maps, offsets.shape[1], 2 * count, height, width):
        raise ValueError(
            f"expected offsets [{maps}, Q, {2 * count}, {height}, {width}] for taps {list(taps.shape)}, "
            f"got {list(offsets.shape)}"
        )
    if not (taps.is_floating_point() and offsets.is_floating_point()):
        raise ValueError(f"expected floating-point taps and offsets, got {taps.dtype} and {offsets.dtype}")
    if taps.device != offsets.device:
        raise ValueError(f"expected taps and offsets on one device, got {taps.device} and {offsets.device}")


def _register() -> None:
    """Register shape inference and derivatives of the compiled operator; the C++ code holds only the kernels."""

    def shape(taps: Tensor, offsets: Tensor, kernel_size: list[int]) -> Tensor:
        maps, _, height, width, groups = taps.shape
        return taps.new_empty(maps, offsets.shape[1], height, width, groups)

    def backward_shapes(grad: Tensor, taps: Tensor, offsets: Tensor, kernel_size: list[int]) -> tuple[Tensor, Tensor]:
        return taps.new_empty(taps.shape), offsets.new_empty(offsets.shape)

    def remember(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
        taps, offsets, ctx.kernel_size = inputs
        ctx.save_for_backward(taps, offsets)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *torch.ops.dmf.sample_taps_backward(grad, *ctx.saved_tensors, ctx.kernel_size), None

    def second_backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("dmf::sample_taps has no second derivative")

    torch.library.register_fake("dmf::sample_taps", shape)
    torch.library.register_fake("dmf::sample_taps_backward", backward_shapes)
    torch.library.register_autograd("dmf::sample_taps", backward, setup_context=remember)
    torch.library.register_autograd("dmf::sample_taps_backward", second_backward)


if operators.COMPILED:
    _register()


class DynamicConv2d(nn.Module):
    """A convolution without bias. With offsets, it is a deformable convolution (v1) of each map for several queries.

    The output is as large as the input: tap (i, j) at position (y, x) reads (y - kh // 2 + i, x - kw // 2 + j). The
    weight [out, in, kh, kw] is initialised uniformly in +-1 / sqrt(kh * kw * in), as in the released code.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int] = 3) -> None:
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.kernel_size = (height, width)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        bound = 1 / math.sqrt(math.prod(self.kernel_size) * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, kernel_size={self.kernel_size}"

    def forward(self, maps: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Maps [M, C, H, W] and offsets [M, Q, 2T, H, W] -> [M, Q, out, H, W]; without offsets, Q = 1.

        With offsets, the result is a view whose `out` dimension is contiguous, in float32 or wider.
        """
        height, width = maps.shape[-2:]
        if offsets is None:
            padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
            # With an even kernel, this padding gives one position too many at the end.
            return F.conv2d(maps, self.weight, padding=padding)[:, None, :, :height, :width]
        return sample_taps(wide(self.tap_maps(maps)), offsets, self.kernel_size).permute(0, 1, 4, 2, 3)

    def tap_maps(self, maps: Tensor) -> Tensor:
        """The 1x1 convolution of each tap: [M, C, H, W] -> [M, T, H, W, out]."""
        out_channels, in_channels = self.weight.shape[:2]
        by_tap = self.weight.permute(2, 3, 0, 1).reshape(-1, in_channels)
        products = F.linear(maps.permute(0, 2, 3, 1), by_tap)
        taps: Tensor = products.unflatten(-1, (math.prod(self.kernel_size), out_channels))
        return taps.permute(0, 3, 1, 2, 4).contiguous()
