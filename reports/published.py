"""Published numbers with their sources (`published.csv`), and the protocol behind them.

Accuracies and intervals are fractions, as everywhere before `render`. For some methods, LibFewShot's pages disagree; we
keep all numbers, each with its page.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmf.backbones.config import CHANNELS
from dmf.config import NOT_IDENTITY, RECIPES, ExperimentConfig, recipe, recipes_of
from dmf.config.methods import has
from dmf.values import Value

NUMBERS = Path(__file__).with_name("published.csv").read_text(encoding="utf-8")
LIBRARY = "LibFewShot"

DATASETS = {"mini_imagenet": "miniImageNet", "tiered_imagenet": "tieredImageNet"}
"""The paper's data sets -> the paper's names for them."""
BACKBONES = {
    "conv64f": "Conv4",
    "conv32f": "Conv4 of 32 channels",
    "conv4_relu": "Conv4 with ReLU",
    "wrn28": "WRN-28",
    "resnet18": "ResNet-18",
    "resnet18_imagenet": "ResNet-18 of ImageNet",
    "resnet12": "ResNet-12",
    "resnet12_can": "ResNet-12 of CAN",
}
"""Our backbones -> their names in tables, which are the paper's where it has them, in the order of its Table 1."""
SAME_IN_PAPER = {"conv32f": "conv64f", "conv4_relu": "conv64f", "resnet12_can": "resnet12"}
"""Backbones that the paper's Table 1 calls by the name of another: its Conv4 and ResNet-12 have several variants."""
ABLATED = ("mini_imagenet", "resnet12")
"""Data set and backbone of Table 2."""
IMAGE_SIZE = 84
"""Side of the paper's images, in pixels."""
QUERIES = 15
"""Queries per class in the paper's test episodes."""
FULL_SIZE = frozenset({"tiered_imagenet"})
"""Data sets whose published numbers use full-size images; copies at `IMAGE_SIZE` score several points lower."""
FULL_MODEL = {"model.dynamic_sampling": True, "model.last_pooling": False, "model.alignment": "ode"}
"""The model that the paper proposes; its groups are in FULL_GROUPS."""
FULL_GROUPS = {
    ("mini_imagenet", 1): 64,
    ("mini_imagenet", 5): 160,
    ("tiered_imagenet", 1): 64,
    ("tiered_imagenet", 5): 320,
}
"""Groups of the full model by data set and shot."""


class Published(Value):
    """One published number. Accuracy and ci95 (half-width; None if not published) are fractions in [0, 1]."""

    method: str
    """The paper's name; rows of Table 2 have names such as `DMF groups=64`."""
    backbone: str
    dataset: str
    way: int
    shot: int
    accuracy: float
    ci95: float | None
    source: str
    """The paper or web page, and the table."""


@functools.cache
def numbers() -> tuple[Published, ...]:
    """Every number in `published.csv`, in the file's order, which is that of the paper's tables."""
    return tuple(_number(row) for row in csv.DictReader(NUMBERS.splitlines()))


def _number(row: dict[str, str]) -> Published:
    return Published(
        method=row["method"],
        backbone=row["backbone"],
        dataset=row["dataset"],
        way=int(row["way"]),
        shot=int(row["shot"]),
        accuracy=float(row["accuracy"]),
        ci95=float(row["ci95"]) if row["ci95"] else None,
        source=row["source"],
    )


def _matching(method: str, backbone: str, dataset: str, way: int, shot: int, library: bool) -> tuple[Published, ...]:
    place = (method, backbone, dataset, way, shot)
    return tuple(
        n
        for n in numbers()
        if (n.method, n.backbone, n.dataset, n.way, n.shot) == place and n.source.startswith(LIBRARY) == library
    )


def in_paper(method: str, backbone: str, dataset: str, way: int, shot: int) -> Published | None:
    """The paper's number for a row of its tables, or None."""
    found = _matching(method, backbone, dataset, way, shot, library=False)
    return found[0] if found else None


def in_library(method: str, backbone: str, dataset: str, way: int, shot: int) -> tuple[Published, ...]:
    """LibFewShot's numbers for a row of the paper's tables, one from each page that has one."""
    return _matching(method, backbone, dataset, way, shot, library=True)


def backbone_in_paper(backbone: str) -> str:
    """The backbone under whose name the paper lists numbers of `backbone`."""
    return SAME_IN_PAPER.get(backbone, backbone)


def of_paper(dataset: str, way: int, shot: int) -> tuple[Published, ...]:
    """All the paper's numbers for a data set and a task."""
    return tuple(
        n for n in numbers() if (n.dataset, n.way, n.shot) == (dataset, way, shot) and not n.source.startswith(LIBRARY)
    )


def methods_of_table_1() -> tuple[tuple[str, str], ...]:
    """(method, backbone) of every row of the paper's Table 1, in order."""
    return tuple(dict.fromkeys((n.method, n.backbone) for n in numbers() if n.source.endswith("Table 1")))


def assumed_ci95(number: Published) -> float | None:
    """The number's half-width; for Table 2, which gives none, that of Table 1's DMF row with the same shot."""
    if number.ci95 is not None:
        return number.ci95
    full = in_paper("DMF", number.backbone, number.dataset, number.way, number.shot)
    return full.ci95 if full else None


def departures(config: ExperimentConfig, row_paths: Sequence[str]) -> tuple[str, ...]:
    """In what a training departs from the nearest published recipe of its method, leaving out `row_paths`.

    Settings as `path=value`, then what the recipe itself states to differ from its source, in words. The seed does not
    count; nor do, where the recipe leaves them open, the shot and, for DMF, the full model's groups, which depend on
    data set and shot (`FULL_GROUPS`).
    """
    method = config.model.method
    if not recipes_of(method):
        return (f"no published recipe of {method} is known",)
    found = [(_departing(config, name, row_paths), RECIPES[name].differences) for name in recipes_of(method)]
    settings, stated = min(found, key=lambda each: _distance(each[0]))
    return settings + stated


def trained_for(config: ExperimentConfig, shot: int) -> bool:
    """Whether a training is for tests with `shot` shots: it has as many, or as a published one for such tests has."""
    recipes = [RECIPES[name] for name in recipes_of(config.model.method)]
    own = config.episodes.shot
    return own == shot or any(shot in each.tested and each.values["episodes.shot"] == own for each in recipes)


def _distance(departing: Sequence[str]) -> tuple[int, int]:
    """How near a recipe is: in data set and backbone first, which published numbers are of."""
    paths = [each.partition("=")[0] for each in departing]
    return sum(path in ("data.name", "model.backbone") for path in paths), len(paths)


def _departing(config: ExperimentConfig, name: str, row_paths: Sequence[str]) -> tuple[str, ...]:
    """Settings, as `path=value`, in which a training departs from the recipe called `name`."""
    expected = recipe(name)
    usual: dict[str, Any] = {"training.seed": config.training.seed}
    if "episodes.shot" not in RECIPES[name].values:
        usual["episodes.shot"] = config.episodes.shot
    groups = FULL_GROUPS.get((config.data.name, config.episodes.shot))
    if config.model.method == "dmf" and groups is not None and CHANNELS[config.model.backbone_name] % groups == 0:
        usual["model.groups"] = groups
    usual |= {path: config.at(path) for path in row_paths if has(config.model.method, path)}
    return _differences(config, expected.with_paths(usual))


def found_otherwise(dataset: str, sizes: str) -> bool:
    """Whether images of these sizes, such as "84x84" or "56x40..500x375", are not those of the published numbers.

    They are not where the largest is below `IMAGE_SIZE`, or is a copy of that size and the paper's were not.
    """
    largest = max(map(int, re.findall(r"\d+", sizes)), default=IMAGE_SIZE + 1)
    return largest < IMAGE_SIZE or (largest == IMAGE_SIZE and dataset in FULL_SIZE)


def parts_of(departures: Sequence[str]) -> tuple[str, ...]:
    """The parts of the protocol that `departures` are of: recipe, and selection of the epoch that is tested."""
    return tuple(sorted({"selection" if "validat" in each.partition("=")[0] else "recipe" for each in departures}))


def _differences(config: ExperimentConfig, expected: ExperimentConfig) -> tuple[str, ...]:
    ours, theirs = _settings(config), _settings(expected)
    return tuple(f"{path}={ours[path]}" for path in ours if path in theirs and ours[path] != theirs[path])


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """As `identity`, with the settings of the pre-training in place of its key."""
    read = {path: value for path, value in config.flat().items() if path not in config.unread}
    start = {path: value for path, value in read.items() if path.startswith("start.")}
    if config.start is not None:
        start["start.augmentation"] = "the training's" if config.start.augmentation is None else "its own"
    return identity(config) | {"start": "pre-trained" if config.start else "random"} | start


def identity(config: ExperimentConfig) -> dict[str, Any]:
    """Dotted path -> value of the settings that identify a training, without the seed.

    Settings that a training does not read are left out, so two trainings may have different paths. `start` names the
    pre-training by its key, or says that the weights are random.
    """
    aside = {"training.seed", "model.weights", "model.weights_sha256", *config.unread}
    aside |= {f"{section}.{name}" for section, names in NOT_IDENTITY.items() for name in names}
    flat = {path: value for path, value in config.flat().items() if path not in aside}
    return {path: value for path, value in flat.items() if not path.startswith("start")} | {"start": start_of(config)}


def start_of(config: ExperimentConfig) -> str:
    """`pre-trained KEY` (of the pre-training without its seed) or `weights HASH` (of a file), of 8 digits; `random`.

    Earlier trainings of the method follow from its own settings, such as IDeMe-Net's `model.rounds`.
    """
    for stage in config.replace(training__seed=0).stages:
        if stage.kind == "pretraining":
            return f"pre-trained {stage.key[:8]}"
    return f"weights {content[:8]}" if (content := config.weights[1]) else "random"
