"""A table's places: what is planned for each row of each section, and what its records hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dmf.config import ExperimentConfig
from dmf.records.staleness import Today
from reports.collect import Collected, State, collect
from reports.layouts import TableLayout
from reports.statistics.cells import Samples
from reports.tables import Column, PlannedCell, Records, Row, arrange, distance

NOT_PLANNED = Collected(State.NOT_PLANNED, (State.NOT_PLANNED.value,))


@dataclass(frozen=True, eq=False)
class Place:
    """A row in a column, with the cell planned for it and what its records hold."""

    column: Column
    row: Row
    planned: PlannedCell | None
    found: Collected

    @property
    def shares_one_training(self) -> bool:
        """Whether all its seeds are one training, whose luck they do not show.

        Its pre-training has a fixed seed, or its weights come from a file. Raw pixels are one training too, but no luck
        is in it.
        """
        config = self.planned.config if self.planned else None
        return config is not None and not config.seeded and (config.stage is not None or any(config.weights))

    @property
    def has_no_luck(self) -> bool:
        """Whether nothing in it is drawn at random, as in raw pixels: it is the same for every seed."""
        return self.planned is not None and not self.planned.config.seeded and not self.shares_one_training

    @property
    def shared_start(self) -> tuple[str | None, ...]:
        """As `shared_start` has it."""
        return shared_start(self.planned.config) if self.planned else ()

    @property
    def independent_seeds(self) -> int:
        """How many of its seeds show luck of their own: one if they all share a start."""
        return 1 if self.shared_start else len(self.found.seeds)

    def of_seeds(self, seeds: tuple[int, ...]) -> Samples:
        """Accuracies [len(seeds), E]; without luck, those of any seed."""
        if self.has_no_luck and self.found.accuracies is not None:
            return np.repeat(self.found.accuracies[:1], len(seeds), axis=0)
        return self.found.of_seeds(seeds)


def shared_start(config: ExperimentConfig) -> tuple[str | None, ...]:
    """What all seeds of a training start from, and whose luck they therefore do not show; empty if nothing.

    The key of a pre-training with a fixed seed, or the file of the weights.
    """
    if config.start is not None and config.start.seed is not None:
        return (config.stages[0].key,)
    return config.weights if any(config.weights) else ()


def places_of(
    layout: TableLayout, cells: Iterable[PlannedCell], records: Records | None, today: Today | None = None
) -> list[list[Place]]:
    """The places of each column of a table; without `records`, nothing has been found for any of them."""
    missing = Collected(State.MISSING)

    def found(cell: PlannedCell | None) -> Collected:
        if cell is None:
            return NOT_PLANNED
        return collect(cell, records, today) if records is not None else missing

    return [
        [Place(column, row, cell, found(cell)) for row, cell in rows.items()]
        for column, rows in arrange(layout, cells).items()
    ]


def baseline_of(layout: TableLayout, place: Place, section: Sequence[Place]) -> Place | None:
    """The baseline's row that a place is compared with; None if there is none."""
    return nearest(layout, place, [other for other in section if other.row.is_baseline])


def nearest(layout: TableLayout, place: Place, rows: Sequence[Place]) -> Place | None:
    """The one of several rows that a place is compared with; None if there is none.

    It has the same backbone, or any if either method has none (raw pixels). Of several, it is the one that is trained,
    pre-trained and tested most alike.
    """
    assert place.planned is not None
    ours = place.planned
    found = [
        (distance(layout, ours, row.planned), row)
        for row in rows
        if row.planned and (place.row.backbone == row.row.backbone or "" in (place.row.backbone, row.row.backbone))
    ]
    return min(found, key=lambda each: each[0])[1] if found else None


def common_seeds(ours: Place, theirs: Place) -> tuple[int, ...]:
    """The seeds that two places have, in the order of `ours`: the other's if one has no luck.

    It is one seed if either is a single training, or if the seeds of either start from something that the other does
    not start from.
    """
    if ours.has_no_luck != theirs.has_no_luck:
        seeds = (theirs if ours.has_no_luck else ours).found.seeds
    else:
        there = set(theirs.found.seeds)
        seeds = tuple(seed for seed in ours.found.seeds if seed in there)
    return seeds[:1] if is_single(ours, theirs) else seeds


def is_single(ours: Place, theirs: Place) -> bool:
    """Whether a comparison rests on the luck of one training or pre-training, however many seeds there are."""
    one = ours.shares_one_training or theirs.shares_one_training
    return one or ours.shared_start != theirs.shared_start


def on_both(ours: Place, theirs: Place, seeds: tuple[int, ...]) -> tuple[Samples, Samples]:
    """Accuracies [S, E] of two places for `seeds`, on the episodes that both have, the first ones of their bank."""
    mine, others = ours.of_seeds(seeds), theirs.of_seeds(seeds)
    episodes = min(mine.shape[1], others.shape[1])
    return mine[:, :episodes], others[:, :episodes]
