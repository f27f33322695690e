"""Few-shot methods by name. Each has a folder with its settings in `config.py` and its class in `model.py`.

To add a method, add such a folder, a line in METHODS and its configuration in `dmf.config.methods`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    method: FewShotMethod = method_class(config).build(backbone, config, base_classes)
    return method.to(memory_format=torch.channels_last)


def method_class(config: AnyMethod) -> Any:
    """The class of the method that `config` describes."""
    return getattr(importlib.import_module(f"dmf.methods.{config.method}.model"), METHODS[config.method])


__all__ = ["METHODS", "build_method", "method_class"]
