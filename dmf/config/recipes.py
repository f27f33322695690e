"""Named starting points: dotted paths that differ from the defaults, which are the released code's on miniImageNet."""

from __future__ import annotations

import functools
from typing import Any

from dmf.config.experiment import ExperimentConfig

PAPER: dict[str, Any] = {
    "model.solver": "dopri5",
    "model.rectified": False,
    "model.score_border": 0,
    "model.class_weight": "pooled",
    "model.global_input": "aligned",
    "model.few_shot_weight": 1.0,
    "model.global_weight": 0.5,
    "model.drop_block_counts_validation": False,
    "training.nesterov": False,
    "training.warmup_epochs": 0,
    "training.epochs": 90,
}
TIERED: dict[str, Any] = {
    "data.name": "tiered_imagenet",
    "training.learning_rate": 0.05,
    "training.episodes_per_epoch": 13_980,
}
RECIPES: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": PAPER,
    "released_tiered": {
        **TIERED,
        "data.resize": "center_crop",
        "augmentation.crop": "resized",
        "training.epochs": 85,
    },
    "paper_tiered": {**PAPER, **TIERED, "training.epochs": 80},
}
"""The paper says nothing of momentum, the number of epochs and episodes, a warm-up or DropBlock's ramp: in `paper` and
`paper_tiered` these are our choice, the released code's without its warm-up epochs."""


@functools.cache
def recipe(name: str) -> ExperimentConfig:
    """The configuration of a named recipe."""
    if name not in RECIPES:
        raise ValueError(f"base={name!r} is no recipe; there are {', '.join(RECIPES)}")
    return ExperimentConfig().with_paths(RECIPES[name])
