"""Which episodes a split allows, and those that select an epoch. Needs no PyTorch, so that a plan can tell."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dmf.config import AnyTraining, EvaluationConfig, ExperimentConfig, Task
from dmf.config.sections import USUAL_QUERIES, USUAL_SHOT, USUAL_WAY
from dmf.methods.config import AlignmentConfig, check_base_classes


class Labelled(Protocol):
    """The labels of a split: what decides which episodes it allows. `ImageSplit` and `CountedSplit` are such."""

    @property
    def name(self) -> str:
        """train, val or test."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [M], from 0 within the split."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""


def check_task(split: Labelled, task: Task, where: str) -> None:
    """Raise ValueError, naming the settings `where`, if a split has too few classes or images for episodes."""
    sizes = np.bincount(split.labels)
    if task.way > len(sizes):
        raise ValueError(
            f"episodes of the {split.name} split: way={task.way} needs {task.way} classes, but the split has "
            f"{len(sizes)}; lower {where}.way"
        )
    smallest, needed = int(sizes.argmin()), task.shot + task.queries
    if needed > sizes[smallest]:
        raise ValueError(
            f"episodes of the {split.name} split: shot={task.shot} and queries={task.queries} need {needed} images per "
            f"class, but the smallest class has {sizes[smallest]} ({split.classes[smallest]!r}); lower {where}.shot or "
            f"{where}.queries"
        )


def check_episodes(config: ExperimentConfig, split: Labelled) -> None:
    """Raise ValueError if the training split does not allow the training's episodes or its method."""
    config.model.check_base_classes(np.bincount(split.labels).tolist())
    asked = config.episodes
    check_task(split, Task(way=asked.way, shot=asked.shot, queries=asked.queries), "episodes")


def check_bank(split: Labelled, config: EvaluationConfig) -> None:
    """Raise ValueError if a split does not allow an evaluation's episodes."""
    if config.shot is None:
        raise ValueError("shot is None; call EvaluationConfig.resolve with the training's configuration first")
    check_task(split, Task(way=config.way, shot=config.shot, queries=config.queries), "evaluation")


def check_base(config: ExperimentConfig, evaluation: EvaluationConfig, split: Labelled) -> None:
    """Raise ValueError if a method that aligns to base classes finds too few in the training split."""
    if isinstance(config.model, AlignmentConfig):
        check_base_classes(evaluation.way, config.model.related_classes, len(np.unique(split.labels)))


def reduced(config: AnyTraining, task: Task) -> bool:
    """Whether a training's validation `task` is smaller than it would be in a larger split."""
    asked, trained = config.validation, config.episodes if isinstance(config, ExperimentConfig) else None
    usual = (trained.way, trained.shot) if trained else (USUAL_WAY, USUAL_SHOT)
    whole = asked.way or usual[0], asked.shot or usual[1], asked.queries or USUAL_QUERIES
    return (task.way, task.shot, task.queries) != whole


def validation_task(config: AnyTraining, split: Labelled) -> Task:
    """The kind of episodes that select a training's best epoch.

    Values that `config.validation` leaves open are those of the training, with 15 queries per class, each reduced to
    what the validation split allows. Raises ValueError if the split does not allow the values that are given.
    """
    asked, sizes = config.validation, np.bincount(split.labels)
    fewest = int(sizes.min())
    trained = config.episodes if isinstance(config, ExperimentConfig) else None
    way = asked.way or min(trained.way if trained else USUAL_WAY, len(sizes))
    shot = asked.shot or max(1, min(trained.shot if trained else USUAL_SHOT, fewest - (asked.queries or 1)))
    queries = asked.queries or max(1, min(USUAL_QUERIES, fewest - shot))
    if way > len(sizes) or shot + queries > fewest:
        raise ValueError(
            f"validation on {way}-way {shot}-shot episodes with {queries} queries per class needs {way} classes of "
            f"{shot + queries} images, but the {split.name} split has {len(sizes)} classes and the smallest has "
            f"{fewest} images ({split.classes[int(sizes.argmin())]!r}); lower validation.way, validation.shot or "
            "validation.queries"
        )
    return Task(way=way, shot=shot, queries=queries)
