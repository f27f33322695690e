"""ResNet-12 as in the released DMF code.

Where a pooling follows an activation, the pooling is done first. LeakyReLU is increasing, so it commutes with the
maximum to the bit, and then acts on a quarter of the values. (If the slope's rounding makes two values equal, the
gradient can go to the other one.)
"""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from dmf.backbones.config import BackboneConfig
from dmf.backbones.drop_block import DropBlock


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions and a 1x1 shortcut, then optional 2x2 max pooling (ceil mode) and dropout or DropBlock."""

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
        dropped: Tensor = self.drop(F.leaky_relu(self.pool(out), 0.1))
        return dropped


class ResNet12(nn.Module):
    """Four blocks of 64, 160, 320 and 640 channels; 84x84 images become 640x11x11, or 640x6x6 with the last pooling."""

    widths = (64, 160, 320, 640)

    def __init__(
        self,
        in_channels: int = 3,
        last_pooling: bool = False,
        drop_rate: float = 0.1,
        drop_block_ramp: int = 40_000,
        drop_block_size: int = 5,
    ) -> None:
        super().__init__()
        drops = [
            nn.Dropout(drop_rate),
            nn.Dropout(drop_rate),
            DropBlock(drop_rate, drop_block_size, drop_block_ramp),
            DropBlock(drop_rate, drop_block_size, drop_block_ramp),
        ]
        blocks = []
        for index, (width, drop) in enumerate(zip(self.widths, drops, strict=True)):
            blocks.append(ResidualBlock(in_channels, width, pool=index < 3 or last_pooling, drop=drop))
            in_channels = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """Build the network that `config` describes."""
        return cls(in_channels, config.last_pooling, config.drop_rate, config.drop_block_ramp, config.drop_block_size)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(images)
        return maps
