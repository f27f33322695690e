"""Episode banks: fixed episodes, the same for all models that are compared, and those that select an epoch."""

from __future__ import annotations

from dmf.config import EvaluationConfig, Task
from dmf.draws import bank_seed
from dmf.episodes import EpisodeIndices, EpisodeSampler
from dmf.evaluation.tasks import Labelled, check_bank


def episode_bank(split: Labelled, config: EvaluationConfig) -> EpisodeIndices:
    """The fixed episodes of a split: a function of its labels, N, K, Q and seed, so that all models share them."""
    check_bank(split, config)
    assert config.shot is not None
    seed = bank_seed(config.seed, config.split)
    return EpisodeSampler(split.labels, config.way, config.shot, config.queries, seed)(range(config.episodes))


def validation_bank(split: Labelled, task: Task, episodes: int) -> EpisodeIndices:
    """A bank of `episodes` validation episodes."""
    config = EvaluationConfig(split="val", episodes=episodes, way=task.way, shot=task.shot, queries=task.queries)
    return episode_bank(split, config)
