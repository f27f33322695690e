"""Means, intervals and tests over episodes and seeds.

Accuracies come as [S, E]: S training seeds, each tested on the same E episodes. The interval over episodes covers the
choice of episodes, given the trained models; it covers neither the training seed nor the choice of test classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.05
"""Significance level; intervals are 95 %."""
MARGIN = 0.005
"""Differences within half a point count as none."""
BOOTSTRAP_SEEDS = 3
"""From as many common seeds on, seeds are resampled too: two say next to nothing about their spread."""

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval [low, high] and two-sided p; all but p in accuracy."""

    mean: float
    low: float
    high: float
    p: float
    test: str


def mean_ci95(accuracies: ArrayLike) -> tuple[float, float]:
    """Mean and half-width 1.96 * std / sqrt(E) of [E] accuracies, with the std's divisor E, as few-shot papers do."""
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"an interval needs accuracies [E] with E >= 1, got shape {list(values.shape)}")
    return float(values.mean()), float(1.96 * values.std(ddof=0) / np.sqrt(values.size))


def seed_sd(accuracies: Samples) -> float | None:
    """Standard deviation (divisor S - 1) of the S seeds' means of [S, E]; None for one seed."""
    return float(accuracies.mean(axis=1).std(ddof=1)) if len(accuracies) > 1 else None


def paired_difference(ours: Samples, baseline: Samples, seed: int, resamples: int = 2000) -> Difference:
    """`ours` minus `baseline`, both [S, E]: same seeds in the same order, same episodes.

    Below `BOOTSTRAP_SEEDS` seeds a paired t-test over episodes of the seed-averaged accuracies, which covers the
    episodes only; from there on the hierarchical bootstrap, with `seed` for its random numbers.
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"pairs need equal shapes [seeds, episodes], got {ours.shape} and {baseline.shape}")
    differences = ours - baseline
    if len(differences) >= BOOTSTRAP_SEEDS:
        return hierarchical_bootstrap(differences, seed, resamples)
    return paired_t(differences.mean(axis=0))


def paired_t(differences: Samples) -> Difference:
    """Student's t-test and interval over [E] differences of pairs."""
    count = differences.size
    if count < 2:
        raise ValueError(f"a paired test needs at least 2 episodes, got {count}")
    mean = float(differences.mean())
    error = float(differences.std(ddof=1) / np.sqrt(count))
    if error == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, "paired t-test")
    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Difference(mean, mean - half, mean + half, p, "paired t-test")


def hierarchical_bootstrap(differences: Samples, seed: int, resamples: int = 2000) -> Difference:
    """Percentile interval of the mean of [S, E] differences: seeds are drawn again first, then episodes.

    All seeds are tested on one bank, so a resample draws its episodes once, for all the seeds it drew: drawing them
    anew for each would average the episodes' noise away. With counts s_i and e_j of how often each was drawn, the
    resample's mean is sum_ij s_i d_ij e_j / (S E).
    """
    seeds, episodes = differences.shape
    random = np.random.default_rng(seed)
    seed_counts = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    means = np.empty(resamples)
    for i, counts in enumerate(seed_counts):
        episode_counts = np.bincount(random.integers(episodes, size=episodes), minlength=episodes)
        means[i] = counts @ differences @ episode_counts / (seeds * episodes)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    # One more on both sides of the fraction: no p is smaller than the resamples can tell.
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = min(1.0, 2 * (int(tail) + 1) / (resamples + 1))
    return Difference(float(differences.mean()), float(low), float(high), p, "hierarchical bootstrap")


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment: the i-th smallest of m times m - i + 1, never below the one before, at most 1."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(difference: Difference, p_adjusted: float, margin: float = MARGIN) -> str:
    """A row against its baseline: `same within 0.5`, `better`, `worse` or `undecided`.

    The margin is asked first: a difference whose whole interval lies inside it counts as none, significant or not.
    """
    if -margin < difference.low and difference.high < margin:
        return f"same within {100 * margin:g}"
    if p_adjusted < LEVEL:
        return "better" if difference.mean > 0 else "worse"
    return "undecided"


def against_published(
    accuracy: float, ci95: float, sd: float | None, seeds: int, theirs: float, their_ci95: float
) -> tuple[float, float, str]:
    """Ours minus published, unpaired: (difference, half-width of its 95 % interval, verdict).

    Only a summary of the published episodes exists, so variances add: episodes of both sides and, where there are
    several seeds, our seeds' (1.96 sd / sqrt(seeds)). The verdict is `consistent`, `below` or `above`.
    """
    spread = 0.0 if sd is None else 1.96 * sd / float(np.sqrt(seeds))
    half = float(np.sqrt(ci95**2 + their_ci95**2 + spread**2))
    difference = accuracy - theirs
    if abs(difference) <= half:
        return difference, half, "consistent"
    return difference, half, "above" if difference > 0 else "below"
