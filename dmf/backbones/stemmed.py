"""What the strided residual networks share: a 3x3 stem, the blocks after it, and their initial weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from torch import Tensor, nn

from dmf.backbones.config import BackboneConfig


class StemmedResNet(nn.Module):
    """A stem of `widths[0]` channels, without stride or pooling, and residual blocks; it has no settings."""

    widths: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)

    def __init__(self, in_channels: int, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        width = self.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """Build the network, which has no settings."""
        return cls(in_channels)  # type: ignore[call-arg]  # each network makes its own blocks

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(self.stem(images))
        return maps
