"""Conv64F, with the pooling before the activation, which commute (see `dmf.backbones.resnet12`)."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from dmf.backbones.config import BackboneConfig


class Conv64F(nn.Module):
    """Four 3x3 convolutions of 64 channels, each pooled 2x2; the last pooling can be left out: 84 px give 10x10."""

    def __init__(self, in_channels: int = 3, last_pooling: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
            if index < 3 or last_pooling:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.LeakyReLU(0.1))
            in_channels = 64
        self.layers = nn.Sequential(*layers)

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """The network that `config` describes; four narrow layers are not regularised."""
        return cls(in_channels, config.last_pooling)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps
