"""DropBlock, and the count of forward passes that its ramp follows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Zeroes blocks of feature maps in training (Ghiasi et al. 2018), with the released code's ramp.

    Forward pass t keeps a fraction of max(1 - rate * t / ramp, 1 - rate). Block seeds are Bernoulli(gamma) at the
    positions where a block fits. Each zeroes `block` x `block` values of its channel, or the whole map if that is
    smaller, and the other values are scaled by numel / kept.

    There are two differences from the released code. The dropped blocks are exact for any number of seeds. And
    validation, whose forward passes advance the released ramp, forwards every image only once here, so the caller adds
    its passes with `count_forwards`.
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
        # A position is dropped if any seed's block covers it: max pooling over blocks of the map padded by block - 1.
        dropped = F.max_pool2d(F.pad(seeds.to(maps.dtype), [block - 1] * 4), block, stride=1)
        kept = 1 - dropped
        wide = torch.promote_types(maps.dtype, torch.float32)  # bfloat16 is exact only up to 256
        return maps * kept * (kept.numel() / kept.sum(dtype=wide).clamp(min=1))


def count_forwards(module: nn.Module, forwards: int) -> None:
    """Advance the ramp of every DropBlock in `module` by `forwards` forward passes."""
    for part in module.modules():
        if isinstance(part, DropBlock):
            part.forwards += forwards


def reset_forwards(module: nn.Module) -> None:
    """Restart the ramp of every DropBlock in `module`."""
    for part in module.modules():
        if isinstance(part, DropBlock):
            part.forwards.zero_()
