"""Backbones by name. They map images [P, 1 or 3, h, w] to feature maps [P, C, H, W]."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from dmf.backbones.config import BackboneConfig

BACKBONES = {
    "resnet12": "ResNet12",
    "conv64f": "Conv64F",
    "conv32f": "Conv32F",
    "conv4_relu": "Conv4ReLU",
    "resnet12_can": "ResNet12CAN",
    "resnet18": "ResNet18",
    "resnet18_imagenet": "ResNet18ImageNet",
    "wrn28": "WRN28",
}
"""Name -> class, in the module of that name. `build_backbone` imports only the one it needs."""


def build_backbone(config: BackboneConfig, in_channels: int) -> nn.Module:
    """Build the backbone that `config` describes, for images of `in_channels` channels."""
    kind = getattr(importlib.import_module(f"dmf.backbones.{config.backbone}"), BACKBONES[config.backbone])
    backbone: nn.Module = kind.build(config, in_channels)
    return backbone


def map_shape(config: BackboneConfig, in_channels: int, image_size: int) -> tuple[int, ...]:
    """The shape [C, H, W] of the backbone's maps of images [`in_channels`, `image_size`, `image_size`]."""
    import torch

    with torch.device("meta"), torch.no_grad():
        images = torch.empty(1, in_channels, image_size, image_size)
        return tuple(build_backbone(config, in_channels).eval()(images).shape[1:])


def image_flops(config: BackboneConfig, in_channels: int, image_size: int) -> int:
    """Floating-point operations of one image [`in_channels`, `image_size`, `image_size`] through the backbone.

    Forward, convolutions and matrix products alone, a multiply-add counts as two. Nothing is computed.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dmf.machine.device import shapes_only

    with shapes_only(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_backbone(config, in_channels).eval()(torch.empty(1, in_channels, image_size, image_size))
    return int(counter.get_total_flops())


__all__ = ["BACKBONES", "build_backbone", "image_flops", "map_shape"]
