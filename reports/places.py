"""A table's places: what is planned for each row of each section, and what its records hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

    It has the same backbone, or any if the place's method has none (raw pixels). Of several, it is the one that is
    trained, pre-trained and tested most alike.
    """
    assert place.planned is not None
    ours = place.planned
    found = [
        (distance(layout, ours, row.planned), row)
        for row in rows
        if row.planned and place.row.backbone in (row.row.backbone, "")
    ]
    return min(found, key=lambda each: each[0])[1] if found else None


def common_seeds(ours: Place, theirs: Place) -> tuple[int, ...]:
    """The seeds that two places have, in the order of `ours`; one if either is a single training."""
    there = set(theirs.found.seeds)
    seeds = tuple(seed for seed in ours.found.seeds if seed in there)
    return seeds[:1] if ours.shares_one_training or theirs.shares_one_training else seeds


def on_both(ours: Place, theirs: Place, seeds: tuple[int, ...]) -> tuple[Samples, Samples]:
    """Accuracies [S, E] of two places for `seeds`, on the episodes that both have, the first ones of their bank."""
    mine, others = ours.found.of_seeds(seeds), theirs.found.of_seeds(seeds)
    episodes = min(mine.shape[1], others.shape[1])
    return mine[:, :episodes], others[:, :episodes]
