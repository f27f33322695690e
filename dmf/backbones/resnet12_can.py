"""The ResNet-12 of Cross Attention Networks (Hou et al., NeurIPS 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dmf.backbones.stemmed import StemmedResNet


class StridedBlock(nn.Module):
    """Three 3x3 convolutions, the second with stride 2, and a 1x1 shortcut with stride 2."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(maps))


class ResNet12CAN(StemmedResNet):
    """A stem of 64 channels and four blocks of 64, 128, 256 and 512; 84x84 images become 512x6x6.

    It has no pooling and no dropout.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels, map(StridedBlock, (self.widths[0], *self.widths[:-1]), self.widths))
