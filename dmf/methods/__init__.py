"""Few-shot methods by name. Each has a folder with its settings in `config.py` and its class in `model.py`.

To add a method, add such a folder, a line in METHODS and its configuration in `dmf.config.methods`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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
    "matching_net": "MatchingNet",
    "relation_net": "RelationNet",
    "can": "CAN",
    "can_transductive": "CANTransductive",
    "feat": "FEAT",
    "deepemd": "DeepEMD",
    "meta_baseline": "MetaBaseline",
    "ideme_net": "IDeMeNet",
    "fine_tuning": "FineTuning",
    "centroid_alignment": "CentroidAlignment",
    "adversarial_alignment": "AdversarialAlignment",
}
"""Name -> name of the class in `model.py` of the method's folder. `build_method` imports only the one it needs."""


def build_method(config: AnyMethod, data: DataConfig, base_classes: int) -> FewShotMethod:
    """Build the method that `config` describes, for images as in `data` and `base_classes` training classes.

    Its weights are in channels-last layout, like the images in `FewShotMethod.maps`.
    """
    import torch
    from torch import nn

    from dmf.backbones import build_backbone, map_shape
    from dmf.backbones.config import BackboneConfig

    backbone = build_backbone(config, data.channels) if isinstance(config, BackboneConfig) else nn.Identity()
    kind = getattr(importlib.import_module(f"dmf.methods.{config.method}.model"), METHODS[config.method])
    sized: dict[str, tuple[int, ...]] = {}
    if kind.needs_map_shape:
        assert isinstance(config, BackboneConfig)
        sized["map_shape"] = map_shape(config, data.channels, data.image_size)
    if kind.needs_image_shape:
        sized["image_shape"] = (data.channels, data.image_size, data.image_size)
    method: FewShotMethod = kind.build(backbone, config, base_classes, **sized)
    return method.to(memory_format=torch.channels_last)


def base_classes_of(config: AnyMethod, data: DataConfig, weights: Mapping[str, Tensor]) -> int:
    """The number of classes that a model was trained on, from the shapes of its weights; 2 if they do not show it."""
    import torch

    assumed = 2
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in build_method(config, data, assumed).state_dict().items()}
    found = {len(each) for name, each in weights.items() if shapes.get(name, each.shape) != each.shape}
    return found.pop() if len(found) == 1 else assumed


__all__ = ["METHODS", "base_classes_of", "build_method"]
