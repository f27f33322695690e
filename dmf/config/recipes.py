"""Named recipes: the values that differ from the defaults, which are DMF's released code for miniImageNet."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from dmf.config.experiment import ExperimentConfig
from dmf.config.other_recipes import OTHERS, Recipe

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
RELEASED_CODE = "the code released with Xu et al., CVPR 2021"
OF_PAPER = (
    "Xu et al., CVPR 2021, which does not give the momentum, the number of epochs and episodes, the warm-up or "
    f"DropBlock's ramp: for these, {RELEASED_CODE}, without its warm-up epochs"
)
RECIPES: dict[str, Recipe] = {
    "released": Recipe({}, RELEASED_CODE),
    "paper": Recipe(PAPER, OF_PAPER),
    "released_tiered": Recipe(
        {
            **TIERED,
            "data.resize": "center_crop",
            "augmentation.crop": "resized",
            "training.epochs": 85,
        },
        RELEASED_CODE,
    ),
    "paper_tiered": Recipe({**PAPER, **TIERED, "training.epochs": 80}, OF_PAPER),
    **OTHERS,
}
"""DMF's recipes, and those of the other methods; by name."""


NAMED_IN_ERRORS = 4
"""Recipes that an error names, the first ones; the others are in docs/sweep_files.md."""


def no_recipe(name: str) -> str:
    """What to say of a name that no recipe has."""
    close = difflib.get_close_matches(name, RECIPES, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    first = ", ".join(list(RECIPES)[:NAMED_IN_ERRORS])
    more = len(RECIPES) - NAMED_IN_ERRORS
    return f"{name!r} is not a recipe; {hint}there are {first}, and {more} more in docs/sweep_files.md"


@functools.cache
def recipe(name: str) -> ExperimentConfig:
    """The configuration of the recipe called `name`."""
    if name not in RECIPES:
        raise ValueError(f"base={no_recipe(name)}")
    return ExperimentConfig().with_paths(dict(RECIPES[name].values))


@functools.cache
def recipes_of(method: str) -> tuple[str, ...]:
    """The names of a method's recipes."""
    return tuple(name for name in RECIPES if recipe(name).model.method == method)
