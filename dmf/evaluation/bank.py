"""Episode banks: the pinned episodes that all who compare share, and the episodes that select an epoch."""

from __future__ import annotations

import numpy as np

from dmf.config import AnyTraining, EvaluationConfig, ExperimentConfig, Task
from dmf.config.sections import USUAL_QUERIES, USUAL_SHOT, USUAL_WAY
from dmf.data.sets import ImageSplit
from dmf.episodes import EpisodeIndices, EpisodeSampler, derived_seed, drawn_ways


def episode_bank(split: ImageSplit, config: EvaluationConfig) -> EpisodeIndices:
    """The pinned episodes of a split: a function of its labels, N, K, Q and seed, shared by all that compare."""
    if config.shot is None:
        raise ValueError("the number of shots is open: call EvaluationConfig.resolve with the training's configuration")
    try:
        sampler = EpisodeSampler(split.labels, config.way, config.shot, config.queries, _seed(config))
    except ValueError as error:
        raise ValueError(f"episodes of the {split.name} split: {error}") from None
    return sampler(range(config.episodes))


def drawn_classes(config: EvaluationConfig, classes: int) -> np.ndarray:
    """Which classes of a split of so many `classes` each episode of a bank draws, in the episode's order: int64 [E, N].

    They follow from the number of classes alone, so a record tells them without the images.
    """
    return np.stack([drawn_ways(_seed(config), index, classes, config.way) for index in range(config.episodes)])


def _seed(config: EvaluationConfig) -> int:
    return derived_seed(config.seed, *config.split.encode())


def validation_task(config: AnyTraining, split: ImageSplit) -> Task:
    """The episodes that select a training's epoch.

    What `config.validation` leaves open is as in training, with 15 queries per class, or as much of that as the
    validation split allows. ValueError for what it asks for and the split does not allow.
    """
    asked, sizes = config.validation, np.bincount(split.labels)
    fewest = int(sizes.min())
    trained = config.episodes if isinstance(config, ExperimentConfig) else None
    way = asked.way or min(trained.way if trained else USUAL_WAY, len(sizes))
    shot = asked.shot or max(1, min(trained.shot if trained else USUAL_SHOT, fewest - (asked.queries or 1)))
    queries = asked.queries or max(1, min(USUAL_QUERIES, fewest - shot))
    if way > len(sizes) or shot + queries > fewest:
        raise ValueError(
            f"validation of {way}-way {shot}-shot episodes with {queries} queries per class needs {way} classes of "
            f"{shot + queries} images, the {split.name} split has {len(sizes)} classes and the smallest {fewest} "
            "images; set validation.way, validation.shot or validation.queries lower"
        )
    return Task(way=way, shot=shot, queries=queries)


def validation_bank(split: ImageSplit, task: Task, episodes: int) -> EpisodeIndices:
    """So many validation episodes of a task."""
    config = EvaluationConfig(split="val", episodes=episodes, way=task.way, shot=task.shot, queries=task.queries)
    return episode_bank(split, config)
