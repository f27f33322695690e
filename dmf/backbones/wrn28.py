"""WRN-28-10 (Zagoruyko and Komodakis, BMVC 2016), in the two variants that few-shot codes use.

`s2m2` (Mangla et al., WACV 2020; also negative margin) is the original: a block's first convolution has the stride, the
shortcut takes the normalised and rectified input, and no convolution has a bias. `feat` (Ye et al., CVPR 2020; also
RFS) has the stride in the second convolution, a shortcut from the raw input, and biases. FEAT's code also gives the
last normalisation a momentum of 0.9, so its running statistics are almost those of the last batch; here it is 0.1.
Neither has dropout here; FEAT's code has a rate of 0.5 between a block's convolutions.
"""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from dmf.backbones.config import BackboneConfig


class WideBlock(nn.Module):
    """Normalisation, ReLU and 3x3 convolution, twice; the shortcut is a 1x1 convolution where channels differ."""

    def __init__(self, in_channels: int, channels: int, stride: int, feat: bool) -> None:
        super().__init__()
        self.feat = feat
        first, second = (1, stride) if feat else (stride, 1)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=first, padding=1, bias=feat)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=second, padding=1, bias=feat)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=feat) if in_channels != channels else None

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.bn1(maps))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        if self.shortcut is None:
            return out + maps
        shortcut: Tensor = self.shortcut(maps if self.feat else active)
        return out + shortcut


class WRN28(nn.Module):
    """A stem of 16 channels and three stages of four blocks, 160, 320 and 640 channels, with strides 1, 2 and 2.

    84x84 images become 640x21x21.
    """

    widths, blocks_per_stage = (160, 320, 640), 4

    def __init__(self, in_channels: int = 3, feat: bool = False) -> None:
        super().__init__()
        width = 16
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=feat)
        stages = []
        for index, channels in enumerate(self.widths):
            stride = 1 if index == 0 else 2
            others = [WideBlock(channels, channels, 1, feat) for _ in range(self.blocks_per_stage - 1)]
            stages.append(nn.Sequential(WideBlock(width, channels, stride, feat), *others))
            width = channels
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """Build the network that `config` describes."""
        return cls(in_channels, feat=config.wrn_variant == "feat")

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.bn(self.stages(self.stem(images))))
