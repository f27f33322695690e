"""Checkpoints of the released DMF code (`.pth.tar`), read and written without running pickled code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmf.backbones import build_backbone
from dmf.machine.files import replacing
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.config import DMFConfig
from dmf.methods.dmf.model import DMF
from dmf.records.checkpoints import load_weights

HEAD = {
    "global_classifier.weight": "global_clasifier.weight",  # as spelt there
    "global_classifier.bias": "global_clasifier.bias",
    "meta_filter.offset_conv.weight": "dw_gen.off_conv.weight",
    "meta_filter.filter_conv.weight": "dw_gen.kernel_conv.weight",
}
"""Our names of the head's weights, and the released ones."""
MOST_CLASSES = 100_000
"""Of a global classifier: a checkpoint can name any size in a few bytes."""

# The released scripts save an accuracy beside the weights, a NumPy number: `scalar` makes it, and runs no code. Its
# module has two names, NumPy 1's and NumPy 2's.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


def load(source: str | Path | Mapping[str, Any]) -> DMF:
    """The DMF model of a released checkpoint, given as a path or as a state dict already in memory.

    The number of groups and of base classes is read off the shapes. Keys may carry `module.` prefixes, and the state
    dict may lie under `state_dict`. Raises ValueError when keys are missing, unknown or of another shape.
    """
    where = "the state dict"
    if isinstance(source, (str, Path)):
        where = str(source)
        source = _read(Path(source))
    state = source.get("state_dict", source)
    if not (isinstance(state, Mapping) and all(isinstance(key, str) for key in state)):
        raise ValueError(f"{where}: its state_dict is a {type(state).__name__}, expected tensors by name")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    missing = [name for name in HEAD.values() if name not in state]
    if missing:
        raise ValueError(f"{where} is no checkpoint of the released DMF: it lacks {', '.join(missing)}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: {name} is a {type(value).__name__}, expected a tensor")
    model = _model_of(state, where)
    ours = {key: state.pop(name) for key, name in _names(model).items() if name in state}
    # Blocks 1 and 2 count forwards for a DropBlock that they do not have.
    unknown = [name for name in state if not re.fullmatch(r"base\.layer[12]\.0\.num_batches_tracked", name)]
    absent = [name for key, name in _names(model).items() if key not in ours]
    if unknown or absent:
        raise ValueError(f"{where}: unknown keys {unknown or 'none'}, missing keys {absent or 'none'}")
    load_weights(model, ours, where)
    broken = [_names(model)[key] for key, value in ours.items() if not value.isfinite().all()]
    if broken:
        told = f"{len(broken)} tensors hold NaN or infinity, first {broken[0]}; take another checkpoint"
        raise ValueError(f"{where}: {told}")
    return model


def _model_of(state: Mapping[str, Tensor], where: str) -> DMF:
    """A model with as many groups and base classes as the state dict's shapes say."""
    classifier, kernels = state["global_clasifier.weight"], state["dw_gen.kernel_conv.weight"]
    if classifier.dim() < 2 or kernels.dim() < 2:
        raise ValueError(f"{where}: the head's weights have no two sides; expected those of the released DMF")
    groups, channels = kernels.shape[0], DMFConfig().channels
    if not groups or channels % groups:
        raise ValueError(f"{where}: {groups} groups do not divide the {channels} channels of the released backbone")
    if not 0 < classifier.shape[0] <= MOST_CLASSES:
        raise ValueError(f"{where}: {classifier.shape[0]} base classes, expected 1 to {MOST_CLASSES}")
    config = DMFConfig(groups=groups)
    return DMF.build(build_backbone(config, in_channels=3), config, classifier.shape[0])


def save(model: DMF, path: str | Path) -> None:
    """Write `model` for the released code. Raises ValueError for a model that it cannot express."""
    state = to_state_dict(model)
    with replacing(path) as aside:
        torch.save({"state_dict": state}, aside)


def to_state_dict(model: DMF) -> dict[str, Tensor]:
    """The released keys, with our weights."""
    ours = model.state_dict()
    names = _names(model)
    strange = sorted(set(ours) - set(names)) + sorted(set(names) - set(ours))
    other = [] if strange else _departures(model)
    if strange or other:
        raise ValueError(
            "the released code has ResNet-12 without last pooling, dynamic sampling, the ODE by rk4 with k=1, "
            f"rectified, and normalised class weights; this model differs in {', '.join(strange + other)}"
        )
    state = {name: ours[key].detach().cpu() for key, name in names.items()}
    for layer in (1, 2):
        state[f"base.layer{layer}.0.num_batches_tracked"] = state["base.layer3.0.num_batches_tracked"].clone()
    return state


def _departures(model: DMF) -> list[str]:
    """What a state dict does not show."""
    same = {
        "alignment": model.alignment == Alignment(),
        "class_weight": model.class_weight == "normalised",
        "last_pooling": isinstance(model.backbone.get_submodule("blocks.3.pool"), nn.Identity),
    }
    return [name for name, equal in same.items() if not equal]


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for what is no checkpoint; all are the file's fault
        raise ValueError(f"{path} is no checkpoint that holds only tensors and numbers: {_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return content


def _reason(error: Exception) -> str:
    """What is wrong with a checkpoint, without PyTorch's advice to load it with code and all."""
    told = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return told.splitlines()[0].split(". ")[0]


def _names(model: DMF) -> dict[str, str]:
    """Our keys, and the released ones, of a ResNet-12 DMF."""
    names = dict(HEAD)
    for key in model.backbone.state_dict():
        match = re.fullmatch(r"blocks\.(\d)\.(.+)", key)
        if match is None:
            continue
        layer, rest = int(match[1]) + 1, match[2]
        rest = rest.replace("shortcut.", "downsample.").replace("drop.forwards", "num_batches_tracked")
        names[f"backbone.{key}"] = f"base.layer{layer}.0.{rest}"
    return names
