"""How much training seeds move the rows of a table: pooled over it, over its sweep, or assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dmf.records.staleness import Today
from reports.collect import Collected, collect
from reports.layouts import TableLayout
from reports.places import Place, common_seeds, is_single, on_both
from reports.statistics.cells import Samples
from reports.statistics.pairs import (
    Estimate,
    Pair,
    PairedTest,
    of_methods,
    of_methods_alone,
    of_methods_given,
    paired,
)
from reports.statistics.spread import ENOUGH, Spread, cell_spread, pooled, section_spreads, without_odd_rows
from reports.tables import Column, PlannedCell, Records

ASSUMED_SD = 0.005
"""Over seeds, of a training's residual, where no two rows have two seeds in common: half a point."""


Trained = tuple[PlannedCell, Collected]
SectionKey = tuple[Column, str]
"""Task and episodes."""
Alike = tuple[str, str, tuple[str, ...]]
"""What trainings of sections have in common if they train alike, as `_training_of` has it."""


class Source(StrEnum):
    """Where the seeds' variance is from; the value is what notes print."""

    TABLE = "this table's rows"
    SWEEP = "the sweep's rows on the same data"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class SpreadOfAlike:
    """The seeds' part in the sections that train alike: the same data, and the same values of the table's `columns`."""

    residual: Spread
    cell_variance: float
    """Of a cell's accuracy over seeds, in `cell_freedom` degrees of freedom, without odd rows; 0 degrees: assumed."""
    cell_freedom: float


@dataclass(frozen=True)
class SeedSpread:
    """The seeds' part in differences and in cells."""

    together: SpreadOfAlike
    """Of all sections together."""
    of_alike: dict[Alike, SpreadOfAlike]
    """Of those that train alike, where they have two seeds: luck weighs less in a longer training, or near 100 %."""
    of_section: dict[SectionKey, Spread]
    """A section's own where it has enough rows and seeds, else that of those that train alike."""
    elsewhere: frozenset[SectionKey]
    """Sections that have not enough, and whose trainings other sections count too, so that what they use instead lacks
    them."""
    source: Source
    odd: frozenset[str]
    """Keys of the trainings of rows that spread more than the others."""

    @property
    def residual(self) -> Spread:
        """Of all sections together."""
        return self.together.residual

    @property
    def sd(self) -> float:
        """Of a training's residual in all sections."""
        return ASSUMED_SD if self.source is Source.ASSUMED else float(np.sqrt(self.residual.variance))

    def of(self, place: Place) -> Spread:
        """The residual spread of a place's section."""
        return self.of_section.get(_key(place), self._alike(place).residual)

    def of_cell(self, place: Place) -> tuple[float, float]:
        """Variance over seeds of a place's accuracy, and its degrees of freedom; an odd row's is its own."""
        accuracies = place.found.accuracies
        if accuracies is not None and len(accuracies) > 1 and self.is_odd(place):
            return float(accuracies.mean(axis=1).var(ddof=1)), len(accuracies) - 1.0
        alike = self._alike(place)
        return alike.cell_variance, alike.cell_freedom

    def of_training(self, place: Place, blocked: bool) -> tuple[float, float]:
        """Variance of one training's luck, and its degrees of freedom, 0 where it is assumed.

        Of the residual alone if the seed is `blocked`: what it adds to all rows cancels.
        """
        if not blocked or self.is_odd(place):
            return self.of_cell(place)
        residual = self.of(place)
        return (float(residual.variance), float(residual.freedom)) if residual.freedom else (ASSUMED_SD**2, 0.0)

    def is_odd(self, place: Place) -> bool:
        """Whether a row spreads more than the others."""
        return bool(self.odd & set(place.found.training_keys))

    def is_counted_elsewhere(self, place: Place) -> bool:
        """Whether the variance for a place's section may hold its trainings as they did in another section."""
        return _key(place) in self.elsewhere

    def _alike(self, place: Place) -> SpreadOfAlike:
        return self.of_alike.get(_training_of(place.column), self.together)


def _training_of(column: Column) -> Alike:
    return column.dataset, column.trained_on, column.settings


def _key(place: Place) -> SectionKey:
    return place.column, _episodes(place.found)


def _episodes(found: Collected) -> str:
    """The bank, and how many of its episodes are tested: those that adapt networks may be fewer than others'."""
    return found.bank if found.accuracies is None else f"{found.bank}, {found.accuracies.shape[1]}"


def spread_of(
    layout: TableLayout, columns: Iterable[Sequence[Place]], rest_of_sweep: Callable[[], Iterable[Trained]]
) -> SeedSpread:
    """That of a table's rows; where they are too few, with `rest_of_sweep`, which is not called else."""
    own = [(place.planned, place.found) for places in columns for place in places if place.planned]
    sections = _sections(layout, own)
    source = Source.TABLE
    if pooled(sections.once).freedom < ENOUGH:
        datasets = {planned.config.data.name for planned, _ in own}
        others = [each for each in rest_of_sweep() if each[0].config.data.name in datasets]
        wider = _sections(layout, [*own, *others])
        if pooled(wider.once).freedom > pooled(sections.once).freedom:
            sections, source = wider, Source.SWEEP
    every: list[Samples] = []
    odd, of_alike, of_section = set[str](), {}, {}
    for alike in dict.fromkeys(_training_of(column) for column, _ in sections.keys):
        numbers = [number for number, (column, _) in enumerate(sections.keys) if _training_of(column) == alike]
        left, odd_rows = without_odd_rows([sections.once[number] for number in numbers])
        for number, rows in zip(numbers, odd_rows, strict=True):
            odd.update(key for row in rows for key in sections.trainings[number][row])
        every += left
        found = _spread_of_alike(left)
        if found.residual.freedom:
            of_alike[alike] = found
    together = _spread_of_alike(every)
    means = sections.without(odd)
    for (column, episodes), own_means in zip(sections.keys, means, strict=True):
        pool = of_alike.get(_training_of(column), together).residual
        (of_section[column, episodes],) = section_spreads([own_means], pool)
    pools = [together.residual, *(each.residual for each in of_alike.values())]
    return SeedSpread(
        together,
        of_alike,
        of_section,
        frozenset(key for key in sections.partly_counted if any(of_section[key] is pool for pool in pools)),
        source if together.residual.freedom else Source.ASSUMED,
        frozenset(odd),
    )


def _spread_of_alike(left: Sequence[Samples]) -> SpreadOfAlike:
    variance, freedom = cell_spread(left)
    return SpreadOfAlike(pooled(left), float(variance) if freedom > 0 else ASSUMED_SD**2, float(freedom))


def trained_elsewhere(
    layout: TableLayout, cells: Iterable[PlannedCell], records: Records, today: Today | None
) -> Iterator[Trained]:
    """What the sweep's other tables have of rows with several seeds."""
    for cell in cells:
        if cell.table != layout.name and len(cell.seeds) > 1:
            yield cell, collect(cell, records, today)


@dataclass(frozen=True)
class _Sections:
    """Rows with the same test episodes, and the keys of each row's trainings."""

    keys: list[SectionKey]
    means: list[Samples]
    """[K, S] each."""
    once: list[Samples]
    """The same without the trainings that a section before has: tested on two banks, they are still one."""
    trainings: list[list[list[str]]]

    @property
    def partly_counted(self) -> list[SectionKey]:
        """Sections of which `once` lacks something."""
        pairs = zip(self.keys, self.means, self.once, strict=True)
        return [key for key, means, once in pairs if not np.array_equal(means, once, equal_nan=True)]

    def without(self, odd: set[str]) -> list[Samples]:
        """The means without rows that have one of these trainings."""
        left = [means.copy() for means in self.means]
        for means, rows in zip(left, self.trainings, strict=True):
            means[[bool(odd.intersection(row)) for row in rows]] = np.nan
        return left


def _sections(layout: TableLayout, trained: Iterable[Trained]) -> _Sections:
    """Of all trainings that have a seed; raw pixels have none. Other tables' are told apart by this one's `columns`."""
    sections: dict[SectionKey, dict[str, dict[int, tuple[float, str]]]] = {}
    for planned, found in trained:
        if found.accuracies is None or not planned.config.seeded:
            continue
        rows = sections.setdefault((Column.of(planned, layout), _episodes(found)), {})
        row = rows.setdefault(planned.config.replace(training__seed=0).key, {})
        for seed, mean, name in zip(found.seeds, found.accuracies.mean(axis=1), found.records, strict=True):
            row[seed] = float(mean), name.partition("/")[0]
    every, every_once, trainings = [], [], []
    seen = set[str]()
    for rows in sections.values():
        seeds = {seed: number for number, seed in enumerate(sorted({seed for row in rows.values() for seed in row}))}
        means = np.full((len(rows), len(seeds)), np.nan)
        once = means.copy()
        for number, row in enumerate(rows.values()):
            for seed, (mean, training) in row.items():
                means[number, seeds[seed]] = mean
                if training not in seen:
                    seen.add(training)
                    once[number, seeds[seed]] = mean
        every.append(means)
        every_once.append(once)
        trainings.append([[training for _, training in row.values()] for row in rows.values()])
    return _Sections(list(sections), every, every_once, trainings)


@dataclass(frozen=True)
class Compared:
    """A row less another one."""

    pair: Pair
    method: Estimate
    """Of the methods; with one seed in common by the variance of other rows, or by the assumed one."""
    test: PairedTest
    seed_variance: float
    """What one seed adds to the variance of the difference."""
    sd: float
    """Of one training's luck, from which that is."""
    pooled: bool
    """Whether it is that of other rows too, with further seeds as well."""
    sd_freedom: float | None = None
    """With one seed in common, degrees of freedom of `sd`; None if it is assumed."""
    single: bool = False
    """Whether it rests on the luck of one training (`is_single`), so that no further seed adds to it."""

    @property
    def seeds(self) -> int:
        """In common; one decides nothing about methods."""
        return self.pair.seeds


def compare(ours: Place, theirs: Place, spread: SeedSpread) -> Compared:
    """Over the seeds that both have, of which there must be one."""
    pair = paired(*on_both(ours, theirs, common_seeds(ours, theirs)))
    # A method without a seed has no luck to share: the seeds' common part stays in the difference.
    blocked = all(place.planned is not None and place.planned.config.seeded for place in (ours, theirs))
    odd = spread.is_odd(ours) or spread.is_odd(theirs)
    if pair.seeds == 1:
        return _of_one_seed(ours, theirs, spread, pair, blocked, pooled=blocked and not odd)
    # Where other sections count these trainings, the other rows' squares would be the pair's own again.
    pooled = blocked and not odd and not spread.is_counted_elsewhere(ours)
    variance = 2 * float(spread.of(ours).variance) if pooled else float(pair.over_seeds)
    method = of_methods(pair, spread.of(ours)) if pooled else of_methods_alone(pair)
    test = PairedTest.POOLED if pooled else PairedTest.OWN
    return Compared(pair, method, test, variance, float(np.sqrt(variance / 2)), pooled)


def _of_one_seed(ours: Place, theirs: Place, spread: SeedSpread, pair: Pair, blocked: bool, pooled: bool) -> Compared:
    single = is_single(ours, theirs)
    lucky = [place for place in (ours, theirs) if not place.has_no_luck]
    parts = [spread.of_training(place, blocked and not single) for place in lucky]
    variance = sum(variance for variance, _ in parts)
    freedom = min((freedom for _, freedom in parts), default=np.inf)
    return Compared(
        pair,
        of_methods_given(pair, variance, freedom or np.inf),
        PairedTest.TWO_MODELS,
        variance,
        float(np.sqrt(variance / max(len(lucky), 1))),
        pooled,
        sd_freedom=freedom or None,
        single=single,
    )


def compare_unpaired(ours: Place, theirs: Place, spread: SeedSpread) -> Estimate:
    """The same of the methods where nothing pairs the two: the variances of both cells add up, over episodes too."""
    difference, variance, known = 0.0, 0.0, np.inf
    for sign, place in ((1, ours), (-1, theirs)):
        accuracies = place.found.accuracies
        assert accuracies is not None
        of_episodes = accuracies.mean(axis=0)
        difference += sign * float(of_episodes.mean())
        variance += float(of_episodes.var(ddof=1)) / len(of_episodes)
        if not place.has_no_luck:
            of_seeds, freedom = spread.of_cell(place)
            variance += of_seeds / place.independent_seeds
            known = min(known, freedom or np.inf)
    return Estimate(difference, float(np.sqrt(variance)), known)
