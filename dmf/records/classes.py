"""Which classes a bank's episodes draw, and what a test leaves of them: sums per class for tables to work with."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from dmf.config import EvaluationConfig
from dmf.draws import bank_seed, drawn_ways

KEPT_DRAWS = 64
"""Banks whose draws stay in memory: 80 KB each for 2,000 episodes, which take a tenth of a second to draw."""


def drawn_classes(config: EvaluationConfig, classes: int, episodes: int | None = None) -> NDArray[np.int64]:
    """The classes that each episode of a bank draws from a split of `classes` classes, in order: [E, N], read only.

    They depend only on the number of classes, so a record determines them without the images. `episodes` is the number
    of episodes if it is not that of the settings.
    """
    return _drawn(
        bank_seed(config.seed, config.split), config.tested if episodes is None else episodes, classes, config.way
    )


@functools.lru_cache(KEPT_DRAWS)
def _drawn(seed: int, episodes: int, classes: int, way: int) -> NDArray[np.int64]:
    drawn = np.stack([drawn_ways(seed, index, classes, way) for index in range(episodes)]).astype(np.int64)
    drawn.flags.writeable = False
    return drawn


def sums_by_class(drawn: NDArray[np.int64], totals: NDArray[np.int64], classes: int) -> tuple[int, ...]:
    """For each of `classes` classes the sum of `totals` [E] over the episodes that draw it, of `drawn` [E, N].

    Sums of several trainings add up to those of their episodes, so a difference of rows needs no episode again.
    """
    sums = np.bincount(drawn.ravel(), np.repeat(totals, drawn.shape[1]), classes)
    return tuple(sums.astype(np.int64).tolist())
