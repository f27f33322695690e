"""How much training seeds move the rows of a table: pooled over it, over its sweep, or assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from reports.collect import Collected
from reports.places import Place, common_seeds
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
from reports.statistics.spread import Spread, cell_spread, pool
from reports.tables import Column, PlannedCell

ENOUGH = 6
"""Degrees of freedom from which on a table's own rows do; below, those of its sweep on the same data sets count too."""
ASSUMED_SD = 0.005
"""Over seeds, of a training's residual, where no two trainings differ in their seed alone: half a point."""


class Source(StrEnum):
    """Where the seeds' variance is from; the value is what notes print."""

    TABLE = "this table's rows"
    SWEEP = "the sweep's rows on the same data"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class SeedSpread:
    """The seeds' part in differences and in cells."""

    residual: Spread
    source: Source
    odd: frozenset[str]
    """Trainings (keys of their evaluations) of rows that spread more than the others."""
    cell_variance: float
    """Of a cell's accuracy over seeds, in `cell_freedom` degrees of freedom; 0 where it is assumed."""
    cell_freedom: float

    @property
    def sd(self) -> float:
        """Of a training's residual."""
        return ASSUMED_SD if self.source is Source.ASSUMED else float(np.sqrt(self.residual.variance))


Trained = tuple[PlannedCell, Collected]


def spread_of(columns: Iterable[Sequence[Place]], rest_of_sweep: Callable[[], Iterable[Trained]]) -> SeedSpread:
    """That of a table's rows; where they are too few, with `rest_of_sweep`, which is not called else."""
    own = [(place.planned, place.found) for places in columns for place in places if place.planned]
    means, names = _sections(own)
    residual, odd = pool(means)
    source = Source.TABLE
    if residual.freedom < ENOUGH:
        datasets = {planned.config.data.name for planned, _ in own}
        others = [pair for pair in rest_of_sweep() if pair[0].config.data.name in datasets]
        means, names = _sections([*own, *others])
        wider, wider_odd = pool(means)
        if wider.freedom > residual.freedom:
            residual, odd, source = wider, wider_odd, Source.SWEEP
    if not residual.freedom:
        source = Source.ASSUMED
    variance, freedom = cell_spread(means)
    return SeedSpread(
        residual,
        source,
        frozenset(name for section, rows in zip(names, odd, strict=True) for row in rows for name in section[row]),
        float(variance) if freedom > 0 else ASSUMED_SD**2,
        float(freedom),
    )


def _sections(trained: Iterable[Trained]) -> tuple[list[Samples], list[list[list[str]]]]:
    """Means [K, S] of rows with the same test episodes, and the names of each row's evaluations.

    Each training counts once, in the first row that has it. Methods without a seed have no place here.
    """
    rows: dict[tuple[Column, str], dict[str, dict[int, tuple[float, str]]]] = {}
    seen = set[str]()
    for planned, found in trained:
        if found.accuracies is None or not planned.config.seeded:
            continue
        section = rows.setdefault((Column.of(planned), found.bank), {})
        row = section.setdefault(planned.config.replace(training__seed=0).key, {})
        for seed, mean, name in zip(found.seeds, found.accuracies.mean(axis=1), found.records, strict=True):
            training = name.partition("/")[0]
            if training not in seen:
                seen.add(training)
                row[seed] = float(mean), name
    matrices, names = [], []
    for section in rows.values():
        kept = [row for row in section.values() if row]
        seeds = {seed: number for number, seed in enumerate(sorted({seed for row in kept for seed in row}))}
        matrix = np.full((len(kept), len(seeds)), np.nan)
        for number, row in enumerate(kept):
            for seed, (mean, _) in row.items():
                matrix[number, seeds[seed]] = mean
        matrices.append(matrix)
        names.append([[name for _, name in row.values()] for row in kept])
    return matrices, names


@dataclass(frozen=True)
class Compared:
    """A row less another one."""

    pair: Pair
    method: Estimate
    """Of the methods; with one seed in common by the variance of other rows, or by the assumed one."""
    test: PairedTest

    @property
    def seeds(self) -> int:
        """In common; one decides nothing about methods."""
        return self.pair.seeds


def compare(ours: Place, theirs: Place, spread: SeedSpread) -> Compared:
    """Over the seeds that both have, of which there must be one."""
    seeds = common_seeds(ours.found, theirs.found)
    pair = paired(ours.found.of_seeds(seeds), theirs.found.of_seeds(seeds))
    if pair.seeds == 1:
        known = spread.source is not Source.ASSUMED
        method = of_methods(pair, spread.residual) if known else of_methods_assumed(pair, ASSUMED_SD)
        return Compared(pair, method, PairedTest.TWO_MODELS)
    # A method without a seed has no luck to share: the seeds' common part stays in the difference.
    both_seeded = all(place.planned is not None and place.planned.config.seeded for place in (ours, theirs))
    if not both_seeded or spread.odd.intersection((*ours.found.records, *theirs.found.records)):
        return Compared(pair, of_methods_alone(pair), PairedTest.OWN)
    return Compared(pair, of_methods(pair, spread.residual), PairedTest.POOLED)
