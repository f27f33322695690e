"""Episode banks: fixed episodes, the same for all models that are compared, and the episodes that select an epoch."""

from __future__ import annotations

import numpy as np

from dmf.config import AnyTraining, EvaluationConfig, ExperimentConfig, Task
from dmf.config.sections import USUAL_QUERIES, USUAL_SHOT, USUAL_WAY
from dmf.data.sets import ImageSplit
from dmf.draws import bank_seed
from dmf.episodes import EpisodeIndices, EpisodeSampler


def episode_bank(split: ImageSplit, config: EvaluationConfig) -> EpisodeIndices:
    """The fixed episodes of a split: a function of its labels, N, K, Q and seed, so that all models share them."""
    if config.shot is None:
        raise ValueError("shot is None; call EvaluationConfig.resolve with the training's configuration first")
    try:
        sampler = EpisodeSampler(
            split.labels, config.way, config.shot, config.queries, bank_seed(config.seed, config.split)
        )
    except ValueError as error:
        raise ValueError(f"episodes of the {split.name} split: {error}") from None
    return sampler(range(config.episodes))


def validation_task(config: AnyTraining, split: ImageSplit) -> Task:
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
            f"{fewest} images; lower validation.way, validation.shot or validation.queries"
        )
    return Task(way=way, shot=shot, queries=queries)


def validation_bank(split: ImageSplit, task: Task, episodes: int) -> EpisodeIndices:
    """A bank of `episodes` validation episodes."""
    config = EvaluationConfig(split="val", episodes=episodes, way=task.way, shot=task.shot, queries=task.queries)
    return episode_bank(split, config)
