"""Other test classes: how far an accuracy or a difference would move if the test split had other classes like these.

All episodes of a bank share the C classes of the test split. A class that suits one of two rows moves the difference in
every episode that draws it, so more episodes do not make up for few classes. The jackknife asks how much the difference
depends on each class: it leaves out, for one class at a time, all episodes that draw it.

Per class, what it needs is a sum over the episodes that draw the class. Sums are linear: those of a difference between
rows, or of a mean over seeds, come from the sums of each training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL, SATTERTHWAITE_FROM, Estimate, Numbers, Pair

NOISE_TAKEN_OFF = 0.5
"""Of what the jackknife has too much of the choice of episodes; docs/statistics.md says why not all."""


@dataclass(frozen=True, eq=False)
class ClassDesign:
    """How often a bank of E episodes draws each of the C classes of its split."""

    episodes: int
    draws: NDArray[np.int64]
    """[C]: episodes that draw a class."""
    noise: float
    """How many times the variance of a mean over episodes, if classes made no difference, the jackknife expects."""

    @property
    def classes(self) -> int:
        return len(self.draws)


def class_design(drawn: NDArray[np.int64], classes: int) -> ClassDesign | None:
    """That of the classes `drawn` [E, N] in each episode from a split of `classes`.

    None where the jackknife has nothing to work with: no more than N + 1 classes, so that few are ever left out, or a
    class that all episodes draw, or none does.
    """
    episodes, way = drawn.shape
    absent = np.ones((episodes, classes))
    absent[np.arange(episodes)[:, None], drawn] = 0
    left = absent.sum(axis=0)
    if classes <= way + 1 or left.min() == 0 or left.max() == episodes:
        return None
    # Two means over the episodes that are left without one class and without another have a covariance of
    # (episodes left without either) / (product of those left without each) times the variance of an episode.
    covariance = absent.T @ absent / np.outer(left, left)
    spread = np.trace(covariance) - covariance.sum() / classes
    return ClassDesign(episodes, (episodes - left).astype(np.int64), float(episodes * (classes - 1) / classes * spread))


def jackknife(design: ClassDesign, sums: Samples, total: Numbers) -> Numbers:
    """Variance of a mean over episodes by leaving out one class at a time.

    `sums` [..., C] are those of its values over the episodes that draw a class, and `total` [...] over all episodes.
    """
    left = (np.asarray(total)[..., None] - sums) / (design.episodes - design.draws)
    squares = ((left - left.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    variance: Numbers = (design.classes - 1) / design.classes * squares
    return variance


def classes_part(design: ClassDesign, sums: Samples, mean: Numbers, over_episodes: Numbers) -> Numbers:
    """What the choice of classes and of episodes together adds to the variance of a `mean`.

    It is the jackknife's, less half of what that has too much of the episodes, whose values have the variance
    `over_episodes`; never less than what the choice of episodes adds alone.
    """
    of_episodes = over_episodes / design.episodes
    excess = NOISE_TAKEN_OFF * (design.noise - 1) * of_episodes
    part: Numbers = np.maximum(jackknife(design, sums, mean * design.episodes) - excess, of_episodes)
    return part


def of_other_classes(method: Estimate, pair: Pair, design: ClassDesign, sums: Samples) -> Estimate:
    """What holds for other classes too: `method`, an estimate of `pair`, with the classes' part for the episodes'.

    `sums` [..., C] are those of the pair's difference, averaged over seeds. Classes have C - 1 degrees of freedom,
    seeds those that the estimate gives them, and the sum Satterthwaite's, at most C - 1; where seeds are known too
    poorly for that, theirs if they are fewer.
    """
    own = classes_part(design, sums, pair.mean, pair.over_episodes)
    own = np.maximum(own - (pair.over_episodes / pair.episodes - pair.episodes_part), pair.episodes_part)
    seeds = np.maximum(method.error**2 - pair.episodes_part, 0.0)
    error = np.sqrt(seeds + own)
    most = design.classes - 1
    # Of the estimate's own uncertainty, error^4 / freedom, the episodes' share is the rest of what the seeds' is.
    of_seeds = np.maximum(method.error**4 / method.freedom - pair.episodes_part**2 / (pair.episodes - 1), 0.0)
    uncertainty = np.asarray(of_seeds + own**2 / most)
    joined = np.divide(error**4, uncertainty, out=np.full(np.shape(error), float(most)), where=uncertainty > 0)
    poorly = (seeds > 0) & (method.freedom < SATTERTHWAITE_FROM)
    return Estimate(pair.mean, error, np.minimum(np.where(poorly, method.freedom, joined), most))


def classes_half(design: ClassDesign, sums: Samples, values: Samples) -> float:
    """Half-width of the 95 % interval of a mean of `values` [E] over classes and episodes, given the trained models."""
    part = classes_part(design, sums, float(values.mean()), float(values.var(ddof=1)))
    return float(stdtrit(design.classes - 1, 1 - LEVEL / 2) * np.sqrt(part))
