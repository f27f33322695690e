"""ResNet-18 for images of about 224 pixels (He et al., CVPR 2016): torchvision's, without its classifier."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torchvision.models import resnet18  # type: ignore[import-untyped]

from dmf.backbones.config import BackboneConfig


class ResNet18ImageNet(nn.Module):
    """A 7x7 stem with stride 2, a pooling, and four stages of two blocks; 224x224 images become 512x7x7.

    Names and shapes of its weights are torchvision's.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        for name, layer in resnet18().named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, layer)
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def build(cls, config: BackboneConfig, in_channels: int) -> Self:
        """Build the network, which has no settings."""
        return cls(in_channels)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.children():
            images = layer(images)
        return images
