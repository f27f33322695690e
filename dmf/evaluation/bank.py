"""Episode banks: fixed episodes, the same for all models that are compared, and those that select an epoch."""

from __future__ import annotations

import numpy as np

from dmf.config import EvaluationConfig, Task
from dmf.episodes import EpisodeIndices, EpisodeSampler, derived_seed, drawn_ways
from dmf.evaluation.tasks import Labelled, check_bank


def episode_bank(split: Labelled, config: EvaluationConfig) -> EpisodeIndices:
    """The fixed episodes of a split: a function of its labels, N, K, Q and seed, so that all models share them."""
    check_bank(split, config)
    assert config.shot is not None
    sampler = EpisodeSampler(split.labels, config.way, config.shot, config.queries, _seed(config))
    return sampler(range(config.episodes))


def drawn_classes(config: EvaluationConfig, classes: int) -> np.ndarray:
    """The classes that each episode of a bank draws from a split of `classes` classes, in order: int64 [E, N].

    They depend only on the number of classes, so a record determines them without the images.
    """
    return np.stack([drawn_ways(_seed(config), index, classes, config.way) for index in range(config.episodes)])


def _seed(config: EvaluationConfig) -> int:
    return derived_seed(config.seed, *config.split.encode())


def validation_bank(split: Labelled, task: Task, episodes: int) -> EpisodeIndices:
    """A bank of `episodes` validation episodes."""
    config = EvaluationConfig(split="val", episodes=episodes, way=task.way, shot=task.shot, queries=task.queries)
    return episode_bank(split, config)
