"""Few-shot methods by name. A new one is a folder here, its entry in METHODS and its name in `dmf.config`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmf.config import DataConfig, ModelConfig
    from dmf.methods.base import FewShotMethod

METHODS = {"dmf": "DMF", "proto_net": "ProtoNet", "raw_pixels": "RawPixels"}
"""The class of each method, in the module of the method's name: only the one that is asked for is imported."""


def build_method(config: ModelConfig, data: DataConfig, base_classes: int) -> FewShotMethod:
    """The method that `config` names, for images of `data` and a global classifier over `base_classes`.

    Weights lie channels last, as `FewShotMethod.maps` has the images.
    """
    import torch

    from dmf.backbones.backbones import BACKBONES

    method = getattr(importlib.import_module(f"dmf.methods.{config.method}.model"), METHODS[config.method])
    if config.method == "raw_pixels":
        return method()
    backbone = BACKBONES[config.backbone](
        in_channels=data.channels,
        last_pooling=config.last_pooling,
        drop_rate=config.drop_rate,
        drop_block_ramp=config.drop_block_ramp,
    )
    return method.build(backbone, config, base_classes).to(memory_format=torch.channels_last)


__all__ = ["METHODS", "build_method"]
