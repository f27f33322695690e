"""DropBlock, and the count of forwards that its ramp follows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Zero blocks of a map while training (Ghiasi et al. 2018), ramped up as in the released code.

    Forward t of training keeps max(1 - rate * t / ramp, 1 - rate). Seeds are Bernoulli(gamma) on the positions where
    a block fits; each zeroes `block` x `block` values of its channel, and the rest is scaled by numel / kept. The
    block never exceeds the map. Unlike in the released code the dropped area is exact whatever the number of seeds.
    There the forwards of validation advance the ramp too; here who validates counts them (`count_forwards`), since
    every image is forwarded once.
    """

    forwards: Tensor

    def __init__(self, rate: float = 0.1, block: int = 5, ramp: int = 40_000) -> None:
        super().__init__()
        self.rate, self.block, self.ramp = rate, block, ramp
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return maps
        self.forwards += 1
        batch, channels, height, width = maps.shape
        block = min(self.block, height, width)
        seed_height, seed_width = height - block + 1, width - block + 1
        drop = (self.forwards * (self.rate / self.ramp)).clamp(max=self.rate)
        gamma = drop * (height * width / (block * block * seed_height * seed_width))
        seeds = torch.rand(batch, channels, seed_height, seed_width, device=maps.device) < gamma
        # A position is dropped if any seed's block covers it: a maximum over the block, on the map padded by block - 1.
        dropped = F.max_pool2d(F.pad(seeds.to(maps.dtype), [block - 1] * 4), block, stride=1)
        kept = 1 - dropped
        wide = torch.promote_types(maps.dtype, torch.float32)  # bfloat16 counts to 256
        return maps * kept * (kept.numel() / kept.sum(dtype=wide).clamp(min=1))


def count_forwards(module: nn.Module, forwards: int) -> None:
    """Advance the ramp of every DropBlock in `module`."""
    for part in module.modules():
        if isinstance(part, DropBlock):
            part.forwards += forwards


def reset_forwards(module: nn.Module) -> None:
    """Begin the ramp of every DropBlock in `module` anew."""
    for part in module.modules():
        if isinstance(part, DropBlock):
            part.forwards.zero_()
