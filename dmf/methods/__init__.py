"""Few-shot methods by name. Each has a folder with its settings in `config.py` and its class in `model.py`.

To add a method, add such a folder, a line in METHODS and its configuration in `dmf.config.methods`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from dmf.config import AnyMethod, DataConfig
    from dmf.methods.base import FewShotMethod

METHODS = {
    "dmf": "DMF",
    "proto_net": "ProtoNet",
    "classifier_baseline": "ClassifierBaseline",
    "baseline": "Baseline",
    "baseline_pp": "BaselinePP",
    "negative_margin": "NegativeMargin",
    "rfs": "RFS",
    "maml": "MAML",
    "anil": "ANIL",
    "r2d2": "R2D2",
    "metaoptnet_ridge": "MetaOptNetRidge",
    "metaoptnet_svm": "MetaOptNetSVM",
    "raw_pixels": "RawPixels",
}
"""Name -> name of the class in `model.py` of the method's folder. `build_method` imports only the one it needs."""


def build_method(config: AnyMethod, data: DataConfig, base_classes: int) -> FewShotMethod:
    """Build the method that `config` describes, for images as in `data` and `base_classes` training classes.

    Its weights are in channels-last layout, like the images in `FewShotMethod.maps`.
    """
    import torch
    from torch import nn

    from dmf.backbones import build_backbone
    from dmf.backbones.config import BackboneConfig

    backbone = build_backbone(config, data.channels) if isinstance(config, BackboneConfig) else nn.Identity()
    kind = getattr(importlib.import_module(f"dmf.methods.{config.method}.model"), METHODS[config.method])
    sizes = (_map_size(backbone, data),) if kind.reads_map_size else ()
    method: FewShotMethod = kind.build(backbone, config, base_classes, *sizes)
    return method.to(memory_format=torch.channels_last)


def _map_size(backbone: nn.Module, data: DataConfig) -> int:
    """Positions of the backbone's feature maps of images as in `data`."""
    import torch

    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, data.channels, data.image_size, data.image_size))
    backbone.train()
    return int(maps.shape[2:].numel())


__all__ = ["METHODS", "build_method"]
