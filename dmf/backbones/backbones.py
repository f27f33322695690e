"""Images [B, 1 or 3, h, w] to feature maps [B, C, H, W]: ResNet-12 as the released DMF code has it, and Conv64F.

Where a pooling follows an activation, the pooling is done first: LeakyReLU is increasing, so it commutes with the
maximum to the bit, and acts on a quarter of the values. (Where two values differ by a rounding of the slope, their
gradient may go to the other one.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock(nn.Module):
    """Zero blocks of a map while training (Ghiasi et al. 2018), ramped up as in the released code.

    Forward t of training keeps max(1 - rate * t / ramp, 1 - rate). Seeds are Bernoulli(gamma) on the positions where
    a block fits; each zeroes `block` x `block` values of its channel, and the rest is scaled by numel / kept. The
    block never exceeds the map. Unlike in the released code the dropped area is exact whatever the number of seeds,
    and evaluation does not advance the ramp.
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


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions and a 1x1 shortcut, optional 2x2 max pooling (ceil), dropout or DropBlock."""

    def __init__(self, in_channels: int, channels: int, pool: bool, drop: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pool else nn.Identity()
        self.drop = drop

    def forward(self, maps: Tensor) -> Tensor:
        out = F.leaky_relu(self.bn1(self.conv1(maps)), 0.1)
        out = F.leaky_relu(self.bn2(self.conv2(out)), 0.1)
        out = self.bn3(self.conv3(out)) + self.shortcut(maps)
        return self.drop(F.leaky_relu(self.pool(out), 0.1))


class ResNet12(nn.Module):
    """64-160-320-640 channels; 84x84 images become 640x11x11, or 640x6x6 with the last pooling."""

    widths = (64, 160, 320, 640)

    def __init__(
        self, in_channels: int = 3, last_pooling: bool = False, drop_rate: float = 0.1, drop_block_ramp: int = 40_000
    ) -> None:
        super().__init__()
        drops = [
            nn.Dropout(drop_rate),
            nn.Dropout(drop_rate),
            DropBlock(drop_rate, ramp=drop_block_ramp),
            DropBlock(drop_rate, ramp=drop_block_ramp),
        ]
        blocks = []
        for index, (width, drop) in enumerate(zip(self.widths, drops, strict=True)):
            blocks.append(ResidualBlock(in_channels, width, pool=index < 3 or last_pooling, drop=drop))
            in_channels = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images)


class Conv64F(nn.Module):
    """Four 3x3 convolutions of 64 channels, each pooled 2x2; the last pooling can be left out: 84 px give 10x10."""

    def __init__(
        self, in_channels: int = 3, last_pooling: bool = False, drop_rate: float = 0.0, drop_block_ramp: int = 1
    ) -> None:
        """`drop_rate` and `drop_block_ramp` are ResNet-12's: four narrow layers are not regularised."""
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
            if index < 3 or last_pooling:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.LeakyReLU(0.1))
            in_channels = 64
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


BACKBONES = {"resnet12": ResNet12, "conv64f": Conv64F}
