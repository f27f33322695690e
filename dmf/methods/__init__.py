"""Few-shot methods by name. A new one is a file here, its entry in METHODS and its name in `dmf.config`."""

from __future__ import annotations

import torch

from dmf.backbones import BACKBONES
from dmf.config import DataConfig, ModelConfig
from dmf.methods.base import FewShotMethod
from dmf.methods.dmf import DMF
from dmf.methods.proto_net import ProtoNet
from dmf.methods.raw_pixels import RawPixels

METHODS = {"dmf": DMF, "proto_net": ProtoNet, "raw_pixels": RawPixels}


def build_method(config: ModelConfig, data: DataConfig, base_classes: int) -> FewShotMethod:
    """The method that `config` names, for images of `data` and a global classifier over `base_classes`.

    Weights lie channels last, as `FewShotMethod.maps` has the images.
    """
    if config.method == "raw_pixels":
        return RawPixels()
    backbone = BACKBONES[config.backbone](
        in_channels=data.channels,
        last_pooling=config.last_pooling,
        drop_rate=config.drop_rate,
        drop_block_ramp=config.drop_block_ramp,
    )
    return METHODS[config.method].build(backbone, config, base_classes).to(memory_format=torch.channels_last)


__all__ = ["METHODS", "FewShotMethod", "build_method"]
