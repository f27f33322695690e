"""Backbones by name: images [B, 1 or 3, h, w] to feature maps [B, C, H, W]."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from dmf.backbones.config import BackboneConfig

BACKBONES = {"resnet12": "ResNet12", "conv64f": "Conv64F"}
"""The class of each backbone, in the module of its name: only the one that is asked for is imported."""


def build_backbone(config: BackboneConfig, in_channels: int) -> nn.Module:
    """The backbone that `config` describes, for images of `in_channels` channels."""
    kind = getattr(importlib.import_module(f"dmf.backbones.{config.backbone}"), BACKBONES[config.backbone])
    backbone: nn.Module = kind.build(config, in_channels)
    return backbone


__all__ = ["BACKBONES", "build_backbone"]
