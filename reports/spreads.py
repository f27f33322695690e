"""How much training seeds move the rows of a table: pooled over it, over its sweep, or assumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dmf.records.staleness import Today
from reports.collect import Collected, collect
from reports.layouts import TableLayout
from reports.places import Place, common_seeds, on_both
from reports.statistics.cells import Samples
from reports.statistics.pairs import (
    Estimate,
    Pair,
    PairedTest,
    of_methods,
    of_methods_alone,
    of_methods_assumed,
    paired,
)
from reports.statistics.spread import ENOUGH, Spread, cell_spread, pooled, section_spreads, without_odd_rows
from reports.tables import Column, PlannedCell, Records

ASSUMED_SD = 0.005
"""Over seeds, of a training's residual, where no two rows have two seeds in common: half a point."""


Trained = tuple[PlannedCell, Collected]
SectionKey = tuple[Column, str]
"""Task and episodes."""


class Source(StrEnum):
    """Where the seeds' variance is from; the value is what notes print."""

    TABLE = "this table's rows"
    SWEEP = "the sweep's rows on the same data"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class SeedSpread:
    """The seeds' part in differences and in cells."""

    residual: Spread
    """Of all sections together."""
    of_section: dict[SectionKey, Spread]
    """A section's own where it has enough rows and seeds, else that of all."""
    elsewhere: frozenset[SectionKey]
    """Sections that have not enough, and whose trainings other sections count too, so that `residual` lacks them."""
    source: Source
    odd: frozenset[str]
    """Keys of the trainings of rows that spread more than the others."""
    cell_variance: float
    """Of a cell's accuracy over seeds, in `cell_freedom` degrees of freedom, without odd rows; 0 if assumed."""
    cell_freedom: float

    def of(self, place: Place) -> Spread:
        """The residual spread of a place's section."""
        return self.of_section.get(_key(place), self.residual)

    def of_cell(self, place: Place) -> tuple[float, float]:
        """Variance over seeds of a place's accuracy, and its degrees of freedom; an odd row's is its own."""
        if (
            place.found.accuracies is None
            or len(place.found.seeds) < 2
            or not self.odd & set(place.found.training_keys)
        ):
            return self.cell_variance, self.cell_freedom
        return float(place.found.accuracies.mean(axis=1).var(ddof=1)), len(place.found.seeds) - 1.0

    def is_counted_elsewhere(self, place: Place) -> bool:
        """Whether the variance for a place's section may hold its trainings as they did in another section."""
        return _key(place) in self.elsewhere

    def sd_of(self, place: Place) -> float:
        """Of a training's residual in a place's section."""
        return ASSUMED_SD if self.source is Source.ASSUMED else float(np.sqrt(self.of(place).variance))

    @property
    def sd(self) -> float:
        """Of a training's residual in all sections."""
        return ASSUMED_SD if self.source is Source.ASSUMED else float(np.sqrt(self.residual.variance))


def _key(place: Place) -> SectionKey:
    return dataclasses.replace(place.column, settings=()), _episodes(place.found)


def _episodes(found: Collected) -> str:
    """The bank, and how many of its episodes are tested: those that adapt networks may be fewer than others'."""
    return found.bank if found.accuracies is None else f"{found.bank}, {found.accuracies.shape[1]}"


def spread_of(columns: Iterable[Sequence[Place]], rest_of_sweep: Callable[[], Iterable[Trained]]) -> SeedSpread:
    """That of a table's rows; where they are too few, with `rest_of_sweep`, which is not called else."""
    own = [(place.planned, place.found) for places in columns for place in places if place.planned]
    sections = _sections(own)
    source = Source.TABLE
    if pooled(sections.once).freedom < ENOUGH:
        datasets = {planned.config.data.name for planned, _ in own}
        others = [each for each in rest_of_sweep() if each[0].config.data.name in datasets]
        wider = _sections([*own, *others])
        if pooled(wider.once).freedom > pooled(sections.once).freedom:
            sections, source = wider, Source.SWEEP
    left, odd_rows = without_odd_rows(sections.once)
    odd = {
        key for section, rows in zip(sections.trainings, odd_rows, strict=True) for row in rows for key in section[row]
    }
    residual = pooled(left)
    if not residual.freedom:
        source = Source.ASSUMED
    of_section = dict(zip(sections.keys, section_spreads(sections.without(odd), residual), strict=True))
    variance, freedom = cell_spread(left)
    return SeedSpread(
        residual,
        of_section,
        frozenset(key for key in sections.partly_counted if of_section[key] is residual),
        source,
        frozenset(odd),
        float(variance) if freedom > 0 else ASSUMED_SD**2,
        float(freedom),
    )


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


def _sections(trained: Iterable[Trained]) -> _Sections:
    """Of all trainings that have a seed; raw pixels have none."""
    sections: dict[SectionKey, dict[str, dict[int, tuple[float, str]]]] = {}
    for planned, found in trained:
        if found.accuracies is None or not planned.config.seeded:
            continue
        rows = sections.setdefault((Column.of(planned), _episodes(found)), {})
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
    assumed: bool = False
    """Whether the seeds' standard deviation is."""
    sd_freedom: float | None = None
    """With one seed in common, degrees of freedom of the standard deviation of other rows; None if it is assumed."""
    single: bool = False
    """Whether one of the two is a single training (`Place.shares_one_training`), so that no further seed adds to it."""

    @property
    def seeds(self) -> int:
        """In common; one decides nothing about methods."""
        return self.pair.seeds


def compare(ours: Place, theirs: Place, spread: SeedSpread) -> Compared:
    """Over the seeds that both have, of which there must be one."""
    seeds = common_seeds(ours, theirs)
    pair = paired(*on_both(ours, theirs, seeds))
    if pair.seeds == 1:
        known = spread.source is not Source.ASSUMED
        method = of_methods(pair, spread.of(ours)) if known else of_methods_assumed(pair, ASSUMED_SD)
        single = ours.shares_one_training or theirs.shares_one_training
        freedom = float(spread.of(ours).freedom) if known else None
        return Compared(pair, method, PairedTest.TWO_MODELS, assumed=not known, sd_freedom=freedom, single=single)
    # A method without a seed has no luck to share: the seeds' common part stays in the difference.
    both_seeded = all(place.planned is not None and place.planned.config.seeded for place in (ours, theirs))
    odd = bool(spread.odd & {*ours.found.training_keys, *theirs.found.training_keys})
    # Where other sections count these trainings, the other rows' squares would be the pair's own again.
    if not both_seeded or odd or spread.is_counted_elsewhere(ours):
        return Compared(pair, of_methods_alone(pair), PairedTest.OWN)
    return Compared(pair, of_methods(pair, spread.of(ours)), PairedTest.POOLED)
