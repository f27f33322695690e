"""Reads and writes checkpoints of the released DMF code (`.pth.tar`) without running pickled code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmf.backbones import build_backbone
from dmf.machine.files import replacing
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.config import DMFConfig
from dmf.methods.dmf.model import DMF
from dmf.records.checkpoints import load_weights
from dmf.records.foreign import read_foreign
from dmf.values import shown

HEAD = {
    "global_classifier.weight": "global_clasifier.weight",  # the released code's spelling
    "global_classifier.bias": "global_clasifier.bias",
    "meta_filter.offset_conv.weight": "dw_gen.off_conv.weight",
    "meta_filter.filter_conv.weight": "dw_gen.kernel_conv.weight",
}
"""Our names of the head's weights -> the released code's."""
MOST_CLASSES = 100_000
"""Upper limit for the global classifier, because a few bytes of a checkpoint can declare any size."""

KEYS_TOLD = 3
"""Keys that an error names of a checkpoint with others."""


def load(source: str | Path | Mapping[str, Any]) -> DMF:
    """Load the DMF model of a released checkpoint, given as a path or as a state dict in memory.

    The numbers of groups and of base classes follow from the shapes. Keys can have a common prefix, such as `module.`,
    and the state dict can be nested under any name. Raises ValueError if keys are missing or unknown or have another
    shape.
    """
    where = "the state dict"
    if isinstance(source, (str, Path)):
        where = str(source)
        source = read_foreign(Path(source))
    inner = [value for value in source.values() if isinstance(value, Mapping) and _prefix(value) is not None]
    state = source.get("state_dict", inner[0] if inner and _prefix(source) is None else source)
    if not (isinstance(state, Mapping) and all(isinstance(key, str) for key in state)):
        raise ValueError(f"{where}: its state_dict is a {type(state).__name__}, expected a dict of tensors by name")
    prefix = _prefix(state) or "module."
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    missing = [name for name in HEAD.values() if name not in state]
    if missing:
        held = ", ".join(map(shown, list(state)[:KEYS_TOLD])) + (", ..." if len(state) > KEYS_TOLD else "")
        raise ValueError(
            f"{where} is not a checkpoint of the released DMF: it lacks {', '.join(missing)}; it holds "
            f"{f'{len(state)} entries, {held}' if state else 'nothing'}"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: {name} is a {type(value).__name__}, expected a tensor")
    model = _model_of(state, where)
    ours = {key: state.pop(name) for key, name in _names(model).items() if name in state}
    # Blocks 1 and 2 of the released code count forward passes although they have no DropBlock.
    unknown = [name for name in state if not re.fullmatch(r"base\.layer[12]\.0\.num_batches_tracked", name)]
    absent = [name for key, name in _names(model).items() if key not in ours]
    if unknown or absent:
        raise ValueError(f"{where}: unknown keys {unknown or 'none'}, missing keys {absent or 'none'}")
    load_weights(model, ours, where)
    broken = [_names(model)[key] for key, value in ours.items() if not value.isfinite().all()]
    if broken:
        told = f"{len(broken)} tensors hold NaN or infinity, first {broken[0]}; use another checkpoint"
        raise ValueError(f"{where}: {told}")
    return model


def _prefix(state: Mapping[Any, Any]) -> str | None:
    """What the keys of a state dict have before the released code's names; None if they are other names."""
    end = next(iter(HEAD.values()))
    return next((key.removesuffix(end) for key in state if isinstance(key, str) and key.endswith(end)), None)


def _model_of(state: Mapping[str, Tensor], where: str) -> DMF:
    """A new model with the numbers of groups and base classes that the state dict's shapes imply."""
    classifier, kernels = state["global_clasifier.weight"], state["dw_gen.kernel_conv.weight"]
    if classifier.dim() < 2 or kernels.dim() < 2:
        raise ValueError(f"{where}: the head's weights are not matrices; expected those of the released DMF")
    groups, channels = kernels.shape[0], DMFConfig().channels
    if not groups or channels % groups:
        raise ValueError(f"{where}: {groups} groups do not divide the {channels} channels of the released backbone")
    if not 0 < classifier.shape[0] <= MOST_CLASSES:
        raise ValueError(f"{where}: {classifier.shape[0]} base classes, expected 1 to {MOST_CLASSES}")
    config = DMFConfig(groups=groups)
    return DMF.build(build_backbone(config, in_channels=3), config, classifier.shape[0])


def save(model: DMF, path: str | Path) -> None:
    """Write `model` as a checkpoint for the released code. Raises ValueError if that code cannot express the model."""
    state = to_state_dict(model)
    with replacing(path) as aside:
        torch.save({"state_dict": state}, aside)


def to_state_dict(model: DMF) -> dict[str, Tensor]:
    """Our weights under the released code's keys."""
    ours = model.state_dict()
    names = _names(model)
    strange = sorted(set(ours) - set(names)) + sorted(set(names) - set(ours))
    other = [] if strange else _departures(model)
    if strange or other:
        raise ValueError(
            "the released code has only ResNet-12 without last pooling, dynamic sampling, the rectified ODE by rk4 "
            f"with k=1, and normalised class weights; this model differs in {', '.join(strange + other)}"
        )
    state = {name: ours[key].detach().cpu() for key, name in names.items()}
    for layer in (1, 2):
        state[f"base.layer{layer}.0.num_batches_tracked"] = state["base.layer3.0.num_batches_tracked"].clone()
    return state


def _departures(model: DMF) -> list[str]:
    """Settings that differ from the released code and that a state dict does not show."""
    same = {
        "alignment": model.alignment == Alignment(),
        "class_weight": model.class_weight == "normalised",
        "last_pooling": isinstance(model.backbone.get_submodule("blocks.3.pool"), nn.Identity),
    }
    return [name for name, equal in same.items() if not equal]


def _names(model: DMF) -> dict[str, str]:
    """Our keys -> the released code's, for DMF with ResNet-12."""
    names = dict(HEAD)
    for key in model.backbone.state_dict():
        match = re.fullmatch(r"blocks\.(\d)\.(.+)", key)
        if match is None:
            continue
        layer, rest = int(match[1]) + 1, match[2]
        rest = rest.replace("shortcut.", "downsample.").replace("drop.forwards", "num_batches_tracked")
        names[f"backbone.{key}"] = f"base.layer{layer}.0.{rest}"
    return names
