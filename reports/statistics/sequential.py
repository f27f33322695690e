"""A table that is looked at after every further seed: at which level each look tests, and what looks cost.

A comparison of two rows is looked at with S = 2, 3, ... seeds until its interval decides it. Looking often gives luck
more chances, so the level is spent in parts, by a function that is fixed before the first look (Lan and DeMets). A
comparison begins with an equal part of its table's level. Once it is decided it is not looked at again, and what it has
not spent goes, in equal parts, to those still undecided: all looks at a table together spend no more than its level.

The estimates of several looks share their first seeds: over S seeds they move like a Brownian motion at time S. What
one look lets through, later looks mostly let through too. So the nominal level of a look is that at which the chance of
deciding falsely here and not before is the part to be spent. It is found for the normal distribution and used as a
level of Student's t with the look's degrees of freedom. What the choice of episodes adds to a difference stays from
look to look, so that looks are more alike than assumed, which errs on the safe side.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL, Estimate, Numbers, freedom_of_methods
from reports.statistics.verdicts import Verdict

FIRST = 2
"""Seeds at the first look: one decides nothing."""
SPENDING_POWER = 1.0
"""Of the share of seeds that are there, in the share of the level that is spent."""
PASSING = (Verdict.BETTER, Verdict.WORSE)
"""Verdicts after which a row leaves a share of what it has not spent to the others."""
LEFT_BY_DECIDED = 0.5
"""That share: the other half stands for the one end of its intervals that may have called the row the same falsely."""
FARTHEST = 9.0
"""In standard deviations: beyond it, a Brownian motion is taken not to be."""


def spent_by(seeds: int, at_most: int) -> float:
    """The share of a comparison's level that is spent when it has so many seeds of `at_most`."""
    return float(min(seeds / at_most, 1.0) ** SPENDING_POWER)


@dataclass(frozen=True)
class Account:
    """One comparison's part of its table's level, and the looks that it was spent on."""

    level: float
    """What it may spend in all: the chance of being decided falsely."""
    at_most: int
    spent: float = 0.0
    looks: tuple[tuple[int, float], ...] = ()
    """Seeds and two-sided nominal level of each look."""

    @classmethod
    def opened(cls, at_most: int, comparisons: int, level: float = LEVEL) -> Self:
        """One of a table's `comparisons`, before the first look."""
        if at_most < FIRST or comparisons < 1:
            raise ValueError(f"looks need at_most >= {FIRST} and a comparison, got {at_most} and {comparisons}")
        return cls(level / comparisons, at_most)

    @property
    def left(self) -> float:
        """What has not been spent; looks beyond `at_most` spend more than there is."""
        return max(self.level - self.spent, 0.0)

    def looked(self, seeds: int) -> Account:
        """After the next look, with so many seeds.

        Beyond `at_most` nothing is left to spend: such a look takes the level of the look before, and spends what it
        does not have.
        """
        before = self.looks[-1][0] if self.looks else 0
        if seeds < FIRST or seeds <= before:
            raise ValueError(f"a look needs more seeds than the one before, and {FIRST} or more; got {seeds}")
        walk, gone = _walked(self.looks), spent_by(before, self.at_most)
        if gone < 1:
            part = self.left * (spent_by(seeds, self.at_most) - gone) / (1 - gone)
            nominal = float(2 * ndtr(-walk.bound(seeds, part / 2)))
        else:
            nominal = self.looks[-1][1]
            part = 2 * walk.beyond(seeds, float(-ndtri(nominal / 2)))
        return replace(self, spent=self.spent + part, looks=(*self.looks, (seeds, nominal)))


def passed_on(accounts: Sequence[Account], decided: Sequence[bool], still_open: Sequence[bool]) -> list[Account]:
    """Accounts after those newly `decided`, better or worse, left half of what they had to those `still_open`.

    A row has one true difference. Where that is none, it is decided better or worse only by the error that its level
    covers; else only one end of its intervals can lead to a false verdict, at half the level. So half of a decided
    row's level may cover others.
    """
    heirs = sum(still_open)
    legacies = [account.left * LEFT_BY_DECIDED * closes for account, closes in zip(accounts, decided, strict=True)]
    if not heirs:
        return list(accounts)
    return [
        replace(account, level=account.level - legacy + sum(legacies) / heirs * stays)
        for account, legacy, stays in zip(accounts, legacies, still_open, strict=True)
    ]


def levels(at_most: int, comparisons: int) -> tuple[float, ...]:
    """Nominal levels of the looks with 2, 3, ..., `at_most` seeds, as long as none of the `comparisons` is decided."""
    account = Account.opened(at_most, comparisons)
    for seeds in range(FIRST, at_most + 1):
        account = account.looked(seeds)
    return tuple(level for _, level in account.looks)


def likely_seeds(
    difference: float, error_of_one: float, rows: int, at_most: int, comparisons: int, margin: float, first: int = FIRST
) -> int:
    """With how many seeds a row of a section of `rows` is decided if everything comes out as expected.

    That is where an interval about `difference` first excludes 0, or lies inside the margin. `error_of_one` is the
    standard error that one seed would give, and `first` the next look's number of seeds.
    """
    for seeds, level in enumerate(levels(at_most, comparisons), start=FIRST):
        freedom = freedom_of_methods(seeds - 1, float(max(rows - 2, 0) * (seeds - 1)))
        half = stdtrit(freedom, 1 - level / 2) * error_of_one / np.sqrt(seeds)
        if seeds >= first and half < max(abs(difference), margin - abs(difference)):
            return seeds
    return at_most


def repeated_interval(estimate: Estimate, level: Numbers) -> tuple[Numbers, Numbers]:
    """The interval of a look at a two-sided nominal `level`: those of all looks together hold the true difference."""
    half = stdtrit(estimate.freedom, 1 - level / 2) * estimate.error
    return estimate.mean - half, estimate.mean + half


def shown_by(low: Numbers, high: Numbers, margin: float) -> NDArray[np.str_]:
    """What intervals of differences show: better, worse, same within the margin, or nothing yet."""
    found = np.where(np.asarray(low) > 0, Verdict.BETTER, Verdict.UNDECIDED)
    found = np.where(np.asarray(high) < 0, Verdict.WORSE, found)
    found = np.where((np.asarray(low) > -margin) & (np.asarray(high) < margin), Verdict.SAME, found)
    # Differences that are all equal, as between saturated rows, say nothing about how they vary.
    return np.where(np.asarray(low) < high, found, Verdict.UNDECIDED)


@dataclass(frozen=True)
class _Walk:
    """A Brownian motion, at time S after S seeds, that has not crossed an upper bound: its masses at quadrature nodes.

    It begins at 0. Both directions are alike, and their chances are added as if no comparison could cross both.
    """

    time: int
    places: Samples
    masses: Samples

    def beyond(self, seeds: int, bound: float) -> float:
        """The chance that the first crossing is at `seeds`, where `bound` is in standard deviations."""
        ahead = (bound * np.sqrt(seeds) - self.places) / np.sqrt(seeds - self.time)
        return float(self.masses @ ndtr(-ahead))

    def bound(self, seeds: int, chance: float) -> float:
        """The bound, in standard deviations, that is first crossed at `seeds` with this chance."""
        low, high = -FARTHEST, FARTHEST
        while high - low > 1e-10:
            middle = (low + high) / 2
            low, high = (middle, high) if self.beyond(seeds, middle) > chance else (low, middle)
        return high

    def on(self, seeds: int, bound: float) -> _Walk:
        """At `seeds`, below `bound`."""
        step, top, bottom = np.sqrt(seeds - self.time), bound * np.sqrt(seeds), -FARTHEST * np.sqrt(seeds)
        nodes, weights = _nodes(seeds)
        places = bottom + (top - bottom) * (nodes + 1) / 2
        density = np.exp(-(((places[:, None] - self.places) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        return _Walk(seeds, places, (top - bottom) / 2 * weights * (density @ self.masses))


@functools.cache
def _nodes(seeds: int) -> tuple[Samples, Samples]:
    """Gauss-Legendre: fine enough for a motion that has spread over sqrt(S) and goes on in steps of 1."""
    return np.polynomial.legendre.leggauss(60 + 30 * int(np.ceil(np.sqrt(seeds))))


@functools.lru_cache(maxsize=4096)
def _walked(looks: tuple[tuple[int, float], ...]) -> _Walk:
    """The motion that none of these looks has stopped."""
    if not looks:
        return _Walk(0, np.zeros(1), np.ones(1))
    *before, (seeds, level) = looks
    return _walked(tuple(before)).on(seeds, float(-ndtri(level / 2)))
