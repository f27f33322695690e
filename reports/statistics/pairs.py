"""Two rows on the same episodes: their difference, its standard error and its tests.

Accuracies come as [S, E]: S training seeds, each tested on the same E episodes. All of `Pair` and `Estimate` may be
arrays, one entry per pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats' Student's t is these two, and takes a second to import

from reports.statistics.cells import Samples
from reports.statistics.spread import Spread

LEVEL = 0.05
"""Significance level; intervals are 95 %."""
SATTERTHWAITE_FROM, ADDED_BELOW, ADDED_ALONE = 5.5, 0.3, 0.15
"""Degrees of freedom f of the seeds' variance from which on Satterthwaite's n for the sum of both parts count. Below,
f + `ADDED_BELOW` (1 - 1 / f) (n - f) count: with few, the variance may come out so small by chance that the sum would
seem to be known well. By the pair's variance alone, f is the least, and `ADDED_ALONE` takes the place of it."""

OTHERS_SHARE, OTHERS_AT_MOST = 0.25, 1.12
"""The weight of other rows' squares in the variance of a pair, whose own have S - 1: so much of their degrees of
freedom, but not more than `OTHERS_AT_MOST` / S^(1/4); docs/statistics.md says why."""

Numbers = float | Samples


class PairedTest(StrEnum):
    """How a difference is tested; the value is what tables print."""

    TWO_MODELS = "two models, paired over episodes"
    POOLED = "seeds as blocks, pooled variance"
    OWN = "seeds as blocks, the pair's own variance"


@dataclass(frozen=True)
class Pair:
    """What the differences d_se of two rows, for S seeds and E episodes, come down to."""

    mean: Numbers
    seeds: int
    episodes: int
    over_seeds: Numbers
    """Variance (divisor S - 1) of the seeds' means d_s.; NaN for one seed."""
    over_episodes: Numbers
    """Variance (divisor E - 1) of the episodes' means d_.e."""
    rest: Numbers
    """Mean square of d_se - d_s. - d_.e + d_.. over (S - 1)(E - 1); NaN for one seed."""

    @property
    def episodes_part(self) -> Numbers:
        """What the choice of episodes adds to the variance of `mean`.

        The variance of the episodes' means holds 1/S of the `rest`, which the seeds' variance holds already. With one
        seed the two cannot be told apart, and it is counted twice.
        """
        own = self.over_episodes - (self.rest / self.seeds if self.seeds > 1 else 0.0)
        part: Numbers = np.maximum(own, 0.0) / self.episodes
        return part


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and the degrees of freedom of that."""

    mean: Numbers
    error: Numbers
    freedom: Numbers
    """Infinite where the error is assumed."""

    @property
    def half(self) -> Numbers:
        """Half-width of the 95 % interval."""
        quantile: Numbers = stdtrit(self.freedom, 1 - LEVEL / 2)
        return quantile * self.error

    @property
    def low(self) -> Numbers:
        return self.mean - self.half

    @property
    def high(self) -> Numbers:
        return self.mean + self.half

    @property
    def p(self) -> Numbers:
        """Two-sided, of the hypothesis that there is no difference."""
        return 2 * self._tail(np.abs(self.mean))

    def p_at_most(self, value: float) -> Numbers:
        """One-sided, of the hypothesis that the difference is at most `value`."""
        return self._tail(self.mean - value)

    def p_at_least(self, value: float) -> Numbers:
        """One-sided, of the hypothesis that the difference is at least `value`."""
        return self._tail(value - self.mean)

    def p_beyond(self, margin: float) -> Numbers:
        """Of the hypothesis that the difference is at least the margin, up or down: two one-sided tests' larger p."""
        return self._tail(margin - np.abs(self.mean))

    def _tail(self, distance: Numbers) -> Numbers:
        """Chance that the mean comes out this far beyond where it should; without an error, 0 or 1, and 1/2 at it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(
                np.asarray(self.error) > 0,
                stdtr(self.freedom, -distance / self.error),
                (1 - np.sign(distance)) / 2,
            )


def paired(ours: Samples, baseline: Samples) -> Pair:
    """`ours` minus `baseline`, both [S, E]: same seeds in the same order, same episodes.

    ValueError for unequal shapes and for fewer than 2 episodes.
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"pairs need equal shapes [seeds, episodes], got {ours.shape} and {baseline.shape}")
    seeds, episodes = ours.shape
    if episodes < 2:
        raise ValueError(f"a paired test needs at least 2 episodes, got {episodes}")
    differences = ours - baseline
    mean, of_seeds, of_episodes = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    if seeds == 1:
        return Pair(float(mean), 1, episodes, np.nan, float(of_episodes.var(ddof=1)), np.nan)
    differences -= of_seeds[:, None]
    differences -= of_episodes - mean
    rest = np.vdot(differences, differences) / ((seeds - 1) * (episodes - 1))
    return Pair(float(mean), seeds, episodes, float(of_seeds.var(ddof=1)), float(of_episodes.var(ddof=1)), float(rest))


def of_two_models(pair: Pair) -> Estimate:
    """What holds for these trained models on other episodes: Student's t over episodes of the seeds' mean."""
    return Estimate(pair.mean, np.sqrt(pair.over_episodes / pair.episodes), float(pair.episodes - 1))


def of_methods(pair: Pair, spread: Spread) -> Estimate:
    """What holds for the methods, on other seeds and episodes; `spread` is that of all rows, of the pair too.

    A training's residual has the variance s2, a difference over S seeds 2 s2 / S and what the episodes add. If all rows
    spread alike, s2 = spread.variance with spread.freedom. They may not, and few seeds do not show it; so the pair's
    own squares outweigh those of the rows besides it.
    """
    own_freedom = pair.seeds - 1
    own = own_freedom * pair.over_seeds if own_freedom else 0.0
    others_freedom = spread.freedom - own_freedom
    if others_freedom <= 0:
        return of_methods_alone(pair)
    # The squares of d_s. about their mean, halved, are the pair's part of the squares of residuals.
    others = 2 * np.maximum(spread.squares - own / 2, 0.0) / others_freedom
    weight = _weight_of_others(own_freedom, others_freedom)
    variance = (weight * others + own) / (weight + own_freedom)
    return _joined(pair, variance / pair.seeds, float(freedom_of_methods(own_freedom, others_freedom)))


def freedom_of_methods(own: Numbers, others: Numbers) -> Numbers:
    """Satterthwaite's degrees of freedom of a pair's variance, of which S - 1 are its `own`; `others` may be 0."""
    weight = _weight_of_others(own, others)
    squared = np.divide(weight**2, others, out=np.zeros(np.shape(weight)), where=np.asarray(others) > 0)
    freedom: Numbers = (own + weight) ** 2 / (own + squared)
    return freedom


def _weight_of_others(own: Numbers, others: Numbers) -> Numbers:
    at_most = OTHERS_AT_MOST / (np.asarray(own, dtype=np.float64) + 1) ** 0.25
    weight: Numbers = np.minimum(OTHERS_SHARE * np.asarray(others, dtype=np.float64), at_most)
    return weight


def of_methods_alone(pair: Pair) -> Estimate:
    """The same by the pair's own variance over seeds, with S - 1 degrees of freedom; needs two seeds."""
    return _joined(pair, pair.over_seeds / pair.seeds, pair.seeds - 1, ADDED_ALONE)


def of_methods_given(pair: Pair, variance: float, freedom: float) -> Estimate:
    """The same if a seed moves the difference with `variance`, of `freedom` degrees; infinite where it is assumed."""
    return _joined(pair, variance / pair.seeds, freedom)


def _joined(pair: Pair, seeds_part: Numbers, freedom: float, added: float = ADDED_BELOW) -> Estimate:
    """Both parts of a variance, the seeds' with few degrees of `freedom` and the episodes' with many.

    The seeds' part is at least what the rest alone, divided by seeds and episodes, adds to it, so that seeds
    whose means agree by chance do not make an error of 0. With few episodes, their degrees of freedom bound the sum's.
    """
    episodes_part = pair.episodes_part
    seeds_part = np.fmax(seeds_part, pair.rest / (pair.seeds * pair.episodes))
    error = np.sqrt(seeds_part + episodes_part)
    uncertainty = seeds_part**2 / freedom + episodes_part**2 / (pair.episodes - 1)
    joined = np.divide(error**4, uncertainty, out=np.full(np.shape(error), float(freedom)), where=uncertainty > 0)
    if freedom < SATTERTHWAITE_FROM:
        joined = freedom + added * (1 - 1 / max(freedom, 1)) * (joined - freedom)
    return Estimate(pair.mean, error, np.minimum(joined, pair.episodes - 1))
