"""How many seeds, or episodes, would decide a row that is undecided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL, Pair, freedom_of_methods

POWER = 0.8
"""Chance of a verdict if the true difference is the one found."""
MOST_SEEDS = 100
"""More seeds than that nobody trains."""


@dataclass(frozen=True)
class Needed:
    """Either seeds beyond those there are, or episodes for each seed; neither where `MOST_SEEDS` would not do."""

    more_seeds: int | None = None
    episodes: int | None = None


def needed(pair: Pair, variance: float, rows: int, comparisons: int, margin: float) -> Needed:
    """For a pair of a section of `rows` in a table of `comparisons`, by a training's residual `variance`.

    A verdict comes with `POWER` where the standard error is small enough for the difference found to be told from 0,
    or from the margin, at this table's level. Where the error that the episodes leave is too large for any number of
    seeds, the answer is the number of episodes at which they leave half of the error that would do. Where difference
    and margin are 0, as at 100 %, nothing would do, nor where nothing varies, as between rows that always agree.
    """
    if not 2 * variance + pair.episodes_part > 0:
        return Needed()
    seeds = np.arange(pair.seeds + 1, MOST_SEEDS + 1)
    own = (seeds - 1).astype(np.float64)
    freedom = np.asarray(freedom_of_methods(own, max(rows - 2, 0) * own))
    enough = _error_that_decides(float(pair.mean), freedom, comparisons, margin)
    error = np.sqrt(2 * variance / seeds + pair.episodes_part)
    doing = seeds[(error <= enough) & (enough > 0)]
    if doing.size:
        return Needed(more_seeds=int(doing[0]) - pair.seeds)
    limit = float(_error_that_decides(float(pair.mean), np.array([np.inf]), comparisons, margin)[0])
    episodes_part = float(pair.episodes_part)
    if limit <= 0 or episodes_part <= limit**2:
        return Needed()
    return Needed(episodes=int(np.ceil(pair.episodes * episodes_part / (limit**2 / 2))))


def _error_that_decides(difference: float, freedom: Samples, comparisons: int, margin: float) -> Samples:
    """The largest standard error with which a true `difference` gets a verdict with `POWER`."""
    level = LEVEL / comparisons
    reserve = stdtrit(freedom, POWER)
    differs = abs(difference) / (stdtrit(freedom, 1 - level / 2) + reserve)
    # Inside the margin both of its ends must be excluded; near 0 either may fail, which costs a little power.
    within = max(margin - abs(difference), 0.0) / (stdtrit(freedom, 1 - level) + stdtrit(freedom, (1 + POWER) / 2))
    found: Samples = np.maximum(differs, within)
    return found
