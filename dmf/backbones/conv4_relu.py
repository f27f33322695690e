"""The Conv4 of Associative Alignment (Afrasiyabi et al., ECCV 2020): Conv64F with ReLU and other initial weights."""

from __future__ import annotations

from typing import Self

from torch import nn

from dmf.backbones.config import BackboneConfig
from dmf.backbones.conv64f import Conv64F


class Conv4ReLU(Conv64F):
    """Four 3x3 convolutions of 64 channels with 2x2 pooling; with the last pooling, 84x84 images become 64x5x5.

    Convolutions have no bias. The released code's have one, before a normalisation: its gradient is zero, computed as
    rounding noise, which Adam divides by its own size, so that it wanders by up to the learning rate in every step. A
    bias subtracted from the running mean gives the same function (`dmf.released_associative`).
    """

    def __init__(self, in_channels: int = 3, last_pooling: bool = False) -> None:
        super().__init__(in_channels, last_pooling, slope=0.0)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """Build the network that `config` describes; it has no dropout."""
        return cls(in_channels, config.last_pooling)
