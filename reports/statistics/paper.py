"""Our number against a published one, of which there is a single training and a summary over episodes."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from scipy.special import stdtrit

from reports.statistics.pairs import LEVEL
from reports.statistics.spread import NO_SPREAD

PAPER_MARGIN = 0.01
"""A number within a point of the published one reproduces it."""


class PublishedVerdict(StrEnum):
    """Ours against a published number; the value is what tables print."""

    REPRODUCED = "reproduced"
    """The whole interval lies within the margin."""
    ABOVE = "above"
    BELOW = "below"
    UNDECIDED = "undecided"


def total_half(over_episodes: float, variance: float, freedom: float, trainings: float) -> float:
    """Half-width of a 95 % interval over episodes and seeds.

    `over_episodes` is that over episodes alone, `variance` that of a cell's accuracy over seeds, known to `freedom`
    degrees, and `trainings` what it is divided by.
    """
    over_seeds = stdtrit(freedom, 1 - LEVEL / 2) ** 2 * variance / trainings
    return float(np.sqrt(over_episodes**2 + over_seeds))


def against_published(
    difference: float, ours: float, theirs: float, variance: float, freedom: float, seeds: int
) -> tuple[float, PublishedVerdict]:
    """Half-width of the interval of ours minus published, and the verdict.

    `ours` and `theirs` are the half-widths over episodes. Their single training is as much a matter of luck as one of
    ours: the seeds add variance * (1 + 1 / seeds). Where that variance is assumed (`freedom` 0) or nothing
    varies over seeds, nothing is decided.
    """
    half = total_half(float(np.hypot(ours, theirs)), variance, freedom if freedom > 0 else np.inf, 1 / (1 + 1 / seeds))
    if freedom <= 0 or variance < NO_SPREAD:
        return half, PublishedVerdict.UNDECIDED
    if abs(difference) + half < PAPER_MARGIN:
        return half, PublishedVerdict.REPRODUCED
    if abs(difference) <= half:
        return half, PublishedVerdict.UNDECIDED
    return half, PublishedVerdict.ABOVE if difference > 0 else PublishedVerdict.BELOW
