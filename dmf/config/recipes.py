"""Named recipes: the values that differ from the defaults, which are the released code's for miniImageNet."""

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
"""The paper does not give the momentum, the number of epochs and episodes, the warm-up or DropBlock's ramp. For these,
`paper` and `paper_tiered` take the released code's values, without its warm-up epochs."""


@functools.cache
def recipe(name: str) -> ExperimentConfig:
    """The configuration of the recipe called `name`."""
    if name not in RECIPES:
        raise ValueError(f"base={name!r} is not a recipe; choose one of {', '.join(RECIPES)}")
    return ExperimentConfig().with_paths(RECIPES[name])
