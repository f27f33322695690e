"""ResNet-18 (He et al., CVPR 2016) for small images: a 3x3 stem without stride or pooling, as in LibFewShot."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from dmf.backbones.stemmed import StemmedResNet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride; the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(maps))


class ResNet18(StemmedResNet):
    """Four stages of two blocks, 64, 128, 256 and 512 channels; 84x84 images become 512x11x11."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels, self._blocks())

    def _blocks(self) -> Iterator[nn.Module]:
        width = self.widths[0]
        for index, channels in enumerate(self.widths):
            yield BasicBlock(width, channels, stride=1 if index == 0 else 2)
            yield BasicBlock(channels, channels, 1)
            width = channels
