"""One episode of a training's test, seen by its model: images and maps of some queries and of their own classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import ImageSplit, open_for
from dmf.episodes import Episode
from dmf.evaluate import trained
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import load_trained
from dmf.machine.device import set_up
from dmf.methods.dmf.model import DMF
from dmf.records.records import EVALUATIONS, RECORD, EvaluationRecord, TrainingRecord

MOST_CLASSES = MOST_SHOTS = 5
"""Classes and support images that fit into a column of a page."""

Pixels = NDArray[np.uint8]
"""[h, w, 3] or [h, w]."""


@dataclass(frozen=True)
class Pair:
    """A query and its own class."""

    name: str
    """The class, as the data set calls it."""
    query: Pixels
    support: tuple[Pixels, ...]
    query_map: Tensor
    """[C, H, W]"""
    class_map: Tensor
    """[C, H, W]"""


@dataclass(frozen=True)
class Seen:
    """The first query of each of the first classes of an episode."""

    key: str
    """The training's key."""
    number: int
    """The episode's, from 0."""
    task: EvaluationConfig
    method: DMF
    pairs: tuple[Pair, ...]
    weights: str
    """SHA-256 of the model's weights; empty for records of format 1."""


def look(folder: Path, number: int, root: str | None = None) -> Seen:
    """Episode `number` of the training's test, as the model in its folder sees it; on a CPU, in float32.

    The bank is that of the training's test with the most episodes; of an untested training, the default one. `root` is
    where the images are, if not where they were in training.

    Raises:
        ValueError: the folder has no weights, the method has no alignment, the images are others, or there is no such
            episode.
    """
    config = trained(folder)
    if config.model.method != "dmf" or config.model.alignment == 0:
        what = config.model.method if config.model.method != "dmf" else "dmf with model.alignment=0"
        raise ValueError(
            f"training {config.key} is {what}, which aligns nothing; give a training of dmf with 1, 2, 3 or ode as "
            "model.alignment"
        )
    task = _task(folder, config)
    if not 0 <= number < task.episodes:
        raise ValueError(
            f"--episode {number}: the test of training {config.key} has {task.episodes:,} episodes; give a number from "
            f"0 to {task.episodes - 1}"
        )
    if root is not None:
        config = config.with_paths({"data.root": root})
    set_up(config.training.threads)
    data = open_for(config)
    method, _ = load_trained(folder, config, data)
    assert isinstance(method, DMF)
    augment = Augmentation(config.augmentation, config.data)
    pairs = _pairs(method, data.split(task.split), augment, task, number)
    return Seen(config.key, number, task, method, pairs, TrainingRecord.read(folder / RECORD).weights)


def _task(folder: Path, config: ExperimentConfig) -> EvaluationConfig:
    paths = sorted(folder.glob(f"{EVALUATIONS}/[!.]*.json"))
    tests = [EvaluationRecord.read(path).config for path in paths]
    return max(tests, key=lambda test: test.episodes, default=EvaluationConfig().resolve(config))


def _pairs(
    method: DMF, split: ImageSplit, augment: Augmentation, task: EvaluationConfig, number: int
) -> tuple[Pair, ...]:
    bank = episode_bank(split, task.replace(episodes=max(2, number + 1)))  # a bank has two or more
    rows = bank[number : number + 1]

    def pixels(indices: Tensor) -> Tensor:
        found: Tensor = split.pixels(indices.flatten()).unflatten(0, indices.shape)
        return found

    support, query = pixels(rows.support), pixels(rows.query)  # [1, N, K, S, S, 3] and [1, Q, S, S, 3]
    images = Episode(
        augment.evaluate(support.flatten(0, 2)).unflatten(0, support.shape[:3]),
        augment.evaluate(query.flatten(0, 1)).unflatten(0, query.shape[:2]),
        rows.targets,
        rows.targets,
    )
    method.eval()
    with torch.inference_mode():
        maps = method.features(images)
    first = [way * task.queries for way in range(min(task.way, MOST_CLASSES))]
    return tuple(
        Pair(
            split.classes[split.labels[int(rows.support[0, way, 0])]],
            _shown(query[0, row]),
            tuple(_shown(image) for image in support[0, way, :MOST_SHOTS]),
            maps.query[0, row],
            maps.support[0, way].mean(0),
        )
        for way, row in enumerate(first)
    )


def _shown(image: Tensor) -> Pixels:
    pixels: Pixels = image.squeeze(-1).numpy()
    return pixels
