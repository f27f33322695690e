"""Few-shot methods by name. Each is a folder: `config.py` with its settings and `model.py` with its class.

A new method is such a folder, its line in METHODS, and its configuration in `dmf.config.methods`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmf.config import AnyMethod, DataConfig
    from dmf.methods.base import FewShotMethod

METHODS = {
    "dmf": "DMF",
    "proto_net": "ProtoNet",
    "classifier_baseline": "ClassifierBaseline",
    "baseline": "Baseline",
    "raw_pixels": "RawPixels",
}
"""Name -> class, in the module `model` of the method's folder; `build_method` imports only the one it needs."""


def build_method(config: AnyMethod, data: DataConfig, base_classes: int) -> FewShotMethod:
    """The method that `config` describes, for images of `data` and `base_classes` classes to train on.

    Its weights are in channels-last layout, like the images in `FewShotMethod.maps`.
    """
    import torch
    from torch import nn

    from dmf.backbones import build_backbone
    from dmf.backbones.config import BackboneConfig

    backbone = build_backbone(config, data.channels) if isinstance(config, BackboneConfig) else nn.Identity()
    kind = getattr(importlib.import_module(f"dmf.methods.{config.method}.model"), METHODS[config.method])
    method: FewShotMethod = kind.build(backbone, config, base_classes)
    return method.to(memory_format=torch.channels_last)


__all__ = ["METHODS", "build_method"]
