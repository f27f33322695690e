"""Configurations of record format 1, which hold every default and, whatever the method, every field of DMF."""

from __future__ import annotations

import functools
from typing import Any

from dmf.config.methods import METHODS
from dmf.config.sections import AugmentationConfig, DataConfig, EpisodeConfig, TrainingConfig
from dmf.methods.config import EmbeddingMethodConfig
from dmf.methods.dmf.config import LOSS_WEIGHTS, OF_FILTERS, DMFConfig
from dmf.values import digest

UNREAD_BY_OTHERS = frozenset(DMFConfig.model_fields) - set(EmbeddingMethodConfig.model_fields) - set(LOSS_WEIGHTS)
ASIDE = {"data": {"root"}, "training": {"threads", "device"}}
"""Fields that no identity includes."""


def is_of_format_1(data: Any) -> bool:
    """Whether plain data is a configuration of format 1, which has DMF's loss weights in its `training` section."""
    if not isinstance(data, dict):
        return False
    training, model = data.get("training"), data.get("model")
    return isinstance(training, dict) and isinstance(model, dict) and {*LOSS_WEIGHTS, "nesterov"} <= training.keys()


def of_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """The same configuration in today's format: fields move to their method, and fields that it ignores are dropped."""
    training = {name: value for name, value in data["training"].items() if name not in LOSS_WEIGHTS}
    model = {**data["model"], **{name: data["training"][name] for name in LOSS_WEIGHTS}}
    kind = METHODS.get(model.get("method", "dmf"))
    fields = kind.model_fields if kind else model
    return {**data, "training": training, "model": {name: value for name, value in model.items() if name in fields}}


def key_of_format_1(data: dict[str, Any], seed: int) -> str:
    """The key that format 1 gave the training that this configuration describes with `seed`."""
    identity = {}
    for section, values in data.items():
        left = {name: value for name, value in values.items() if name not in ASIDE.get(section, ())}
        if section == "model":
            left = {name: value for name, value in left.items() if name not in _unread(left)}
        if section == "training":
            left["seed"] = seed
        if left := {name: value for name, value in left.items() if value != _defaults()[section][name]}:
            identity[section] = left
    return digest(identity)


def _unread(model: dict[str, Any]) -> frozenset[str]:
    if model["method"] != "dmf":
        return UNREAD_BY_OTHERS
    if model["alignment"] == 0:
        return frozenset(OF_FILTERS)
    return frozenset() if model["alignment"] == "ode" else frozenset({"solver"})


@functools.cache
def _defaults() -> dict[str, dict[str, Any]]:
    """Format 1's defaults: today's, since a default never changes."""
    sections = (DataConfig(), AugmentationConfig(), EpisodeConfig(), DMFConfig(), TrainingConfig())
    names = ("data", "augmentation", "episodes", "model", "training")
    found = {name: section.model_dump(mode="json") for name, section in zip(names, sections, strict=True)}
    found["training"] |= {name: found["model"].pop(name) for name in LOSS_WEIGHTS}
    return found
