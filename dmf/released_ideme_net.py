"""Reads checkpoints of the released IDeMe-Net without running pickled code: `softRandom.t7` and `metaNet_*.t7`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dmf.config import DataConfig
from dmf.methods import build_method
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.methods.ideme_net.model import IDeMeNet
from dmf.records.checkpoints import load_weights
from dmf.records.foreign import read_foreign

IMAGE_SIZE = 224
"""Side of the images of the released models, in pixels."""
OURS = {"attentionNet.": "deformation.", "toWeight.0.": "deformation.to_weights.", "fc.": "classifier."}
"""Beginnings of the released names of a whole model -> ours; the embedding's follow below."""
EMBEDDINGS = ("CNet.resnet.convnet.", "CNet.", "convnet.")
"""What the released names of the embedding begin with. A whole model has it twice, as the same tensors."""
OUR_OWN = re.compile(r"gallery\.|kept_features$|.*\.num_batches_tracked$")
"""What released checkpoints do not hold, or need not: images of the gallery, their embeddings, and counters."""


def load(source: str | Path | Mapping[str, Any], config: IDeMeNetConfig | None = None) -> IDeMeNet:
    """The model of a released checkpoint, given as a path or as a state dict in memory.

    `softRandom.t7` holds an embedding and its classifier only: the model then deforms no image. The gallery, which is
    in no checkpoint, is still to be filled (`dmf.methods.ideme_net.gallery`); the released protocol then wants
    `keep_gallery_features`, which passes it through the embedding. Counters of batch normalisation, which files of
    PyTorch before 0.4.1 lack, are 0 then. `config` says how many images of it there
    are and how many deformed ones; backbone, grid and numbers of branches and blocks are the released ones. Raises
    ValueError if keys are missing or unknown or have another shape.
    """
    where = "the state dict"
    if isinstance(source, str | Path):
        where, source = str(source), read_foreign(Path(source))
    state = {str(name).removeprefix("module."): value for name, value in source.items()}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: {name} is a {type(value).__name__}, expected a tensor")
        if not value.isfinite().all():
            raise ValueError(f"{where}: {name} holds NaN or infinity; use another checkpoint")
    alone = not any(name.startswith("CNet.") for name in state)
    weights = {_ours(name, alone): value for name, value in state.items() if _ours(name, alone)}
    if "classifier.weight" not in weights or "backbone.conv1.weight" not in weights:
        raise ValueError(f"{where} is no checkpoint of the released IDeMe-Net: it has neither fc nor an embedding")
    if "scale" in weights:
        weights["scale"] = weights["scale"].reshape(())
    fixed: dict[str, Any] = {"backbone": "resnet18_imagenet", "deform_branches": 1, "deform_blocks": 5}
    cells = weights.get("deformation.to_weights.weight")
    if cells is not None:
        fixed["deform_grid"] = math.isqrt(len(cells))
    if alone:
        fixed["deformed_images"] = 0
    config = (config or IDeMeNetConfig()).with_paths(fixed)
    model = build_method(config, DataConfig(image_size=IMAGE_SIZE), len(weights["classifier.weight"]))
    assert isinstance(model, IDeMeNet)
    own = {name: value for name, value in model.state_dict().items() if _is_ours(name, alone)}
    load_weights(model, own | weights, where)
    return model


def _ours(theirs: str, alone: bool) -> str:
    """Our name of a released weight; empty for one that is of no use: a second copy, or the pre-training's classifier.

    `alone` says whether the checkpoint holds the embedding alone, whose classifier is then the one that counts.
    """
    if alone and theirs.startswith("convnet.fc."):
        return theirs.replace("convnet.fc.", "classifier.")
    for start, own in OURS.items():
        if theirs.startswith(start):
            return own + theirs.removeprefix(start)
    if theirs.startswith("CNet.resnet."):
        return ""
    for start in EMBEDDINGS:
        if theirs.startswith(start):
            return "backbone." + theirs.removeprefix(start)
    return theirs


def _is_ours(name: str, alone: bool) -> bool:
    """Whether a released checkpoint lacks a weight of our model."""
    return bool(OUR_OWN.match(name)) or (alone and (name == "scale" or name.startswith("deformation.")))
