"""Conv64F. Pooling comes before the activation; the two commute (see `dmf.backbones.resnet12`)."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor, nn

from dmf.backbones.config import BackboneConfig


class Conv64F(nn.Module):
    """Four 3x3 convolutions of 64 channels with 2x2 pooling; without the last pooling, 84x84 images become 64x10x10.

    `slope` is that of the LeakyReLUs below 0; with 0, they are ReLUs.
    """

    width: ClassVar[int] = 64

    def __init__(self, in_channels: int = 3, last_pooling: bool = False, slope: float = 0.1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(4):
            layers += [nn.Conv2d(in_channels, self.width, 3, padding=1, bias=False), nn.BatchNorm2d(self.width)]
            if index < 3 or last_pooling:
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
            in_channels = self.width
        self.layers = nn.Sequential(*layers)

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """Build the network that `config` describes; it has no dropout."""
        return cls(in_channels, config.last_pooling, config.conv_slope)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps
