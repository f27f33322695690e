"""Means, intervals and tests over episodes and seeds.

Accuracies have shape [S, E]: S training seeds, each tested on the same E episodes. The interval over episodes covers
the choice of episodes, given the trained models; it covers neither the training seed nor the choice of test classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit  # what scipy.stats.t uses, which takes a second to import

LEVEL = 0.05
"""Significance level; intervals are 95 %."""
MARGIN = 0.005
"""Differences within half a percentage point count as none."""
COVERED_SEEDS = 3
"""Number of common seeds from which tests also cover the seeds; two say almost nothing about their spread."""

Samples = NDArray[np.float64]


class PairedTest(StrEnum):
    """A paired test. Tables print the value."""

    OVER_EPISODES = "paired t-test over episodes"
    OVER_SEEDS = "paired t-test over seeds and episodes"


class Verdict(StrEnum):
    """A row compared with its baseline. Tables print the value."""

    BETTER = "better"
    WORSE = "worse"
    SAME = f"same within {100 * MARGIN:g}"
    """The margin is in percentage points."""
    UNDECIDED = "undecided"


class PublishedVerdict(StrEnum):
    """Our number compared with a published one. Tables print the value."""

    CONSISTENT = "consistent"
    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True)
class Difference:
    """A mean difference of accuracies with its 95 % interval [low, high] and two-sided p value."""

    mean: float
    low: float
    high: float
    p: float
    test: PairedTest


def mean_ci95(accuracies: ArrayLike) -> tuple[float, float]:
    """Mean and half-width 1.96 * std / sqrt(E) of [E] accuracies; std has divisor E, as in few-shot papers."""
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"an interval needs accuracies [E] with E >= 1, got shape {list(values.shape)}")
    return float(values.mean()), float(1.96 * values.std(ddof=0) / np.sqrt(values.size))


def means_ci95(accuracies: Samples) -> tuple[Samples, Samples]:
    """`mean_ci95` of each row of [S, E]: means [S] and half-widths [S]."""
    return accuracies.mean(axis=1), 1.96 * accuracies.std(axis=1, ddof=0) / np.sqrt(accuracies.shape[1])


def seed_sd(accuracies: Samples) -> float | None:
    """Standard deviation (divisor S - 1) of the S row means of [S, E]; None for one seed."""
    return float(accuracies.mean(axis=1).std(ddof=1)) if len(accuracies) > 1 else None


def paired_difference(ours: Samples, baseline: Samples) -> Difference:
    """`ours` minus `baseline`, both [S, E] with the same seeds, in the same order, and the same episodes.

    With fewer than `COVERED_SEEDS` seeds, it is Student's t-test over episodes on seed-averaged differences, which
    covers only the episodes; otherwise a Student's t-test that also covers the training seeds. Raises ValueError for
    unequal shapes and for fewer than 2 episodes.
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"pairs need equal shapes [seeds, episodes], got {ours.shape} and {baseline.shape}")
    seeds, episodes = ours.shape
    if episodes < 2:
        raise ValueError(f"a paired test needs at least 2 episodes, got {episodes}")
    differences = ours - baseline
    mean = float(differences.mean())
    variance = float(differences.mean(axis=0).var(ddof=1) / episodes)
    if seeds < COVERED_SEEDS:
        return _student(mean, variance, episodes - 1, PairedTest.OVER_EPISODES)
    # All seeds are tested on the same episodes: d_ij = d + s_i + e_j + r_ij, and the variance of the mean is
    # var(s)/S + var(e)/E + var(r)/(SE). The variance of the seeds' means estimates var(s) + var(r)/E, and that of the
    # episodes' means estimates var(e) + var(r)/S, so adding the two terms counts var(r) twice, which is conservative.
    # With few seeds, the term of the seeds is the uncertain one, hence S - 1 degrees of freedom.
    variance += float(differences.mean(axis=1).var(ddof=1) / seeds)
    return _student(mean, variance, seeds - 1, PairedTest.OVER_SEEDS)


def _student(mean: float, variance: float, freedom: int, test: PairedTest) -> Difference:
    """Student's t-test and interval for a mean whose estimated `variance` has `freedom` degrees of freedom."""
    if variance == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, test)
    error = float(np.sqrt(variance))
    half = t_quantile(freedom) * error
    return Difference(mean, mean - half, mean + half, 2 * float(stdtr(freedom, -abs(mean) / error)), test)


def t_quantile(freedom: int) -> float:
    """Half-width of a 95 % interval, in standard errors."""
    return float(stdtrit(freedom, 1 - LEVEL / 2))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment: the i-th smallest of m p values times m - i + 1, made monotone and at most 1."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(difference: Difference, p_adjusted: float) -> Verdict:
    """The verdict on a row compared with its baseline.

    The margin takes precedence: if the whole interval lies within it, the difference counts as none, even if it is
    significant.
    """
    if difference.low > -MARGIN and difference.high < MARGIN:
        return Verdict.SAME
    if p_adjusted < LEVEL:
        return Verdict.BETTER if difference.mean > 0 else Verdict.WORSE
    return Verdict.UNDECIDED


def against_published(
    accuracy: float, ci95: float, sd: float | None, seeds: int, theirs: float, their_ci95: float
) -> tuple[float, float, PublishedVerdict]:
    """Our accuracy minus a published one, unpaired: (difference, half-width of its 95 % interval, verdict).

    Published episodes are known only by their summary, so the variances of both sides add up, plus, with several seeds,
    that of our seeds (t sd / sqrt(seeds), Student's t with seeds - 1 degrees of freedom).
    """
    spread = 0.0 if sd is None else t_quantile(seeds - 1) * sd / float(np.sqrt(seeds))
    half = float(np.sqrt(ci95**2 + their_ci95**2 + spread**2))
    difference = accuracy - theirs
    if abs(difference) <= half:
        return difference, half, PublishedVerdict.CONSISTENT
    return difference, half, PublishedVerdict.ABOVE if difference > 0 else PublishedVerdict.BELOW
