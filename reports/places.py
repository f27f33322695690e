"""A table's places: what is planned for each row of each section, and what its records hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.collect import Collected
from reports.tables import Column, PlannedCell, Row, TableLayout


@dataclass(frozen=True, eq=False)
class Place:
    """A row in a column, with the cell planned for it and what its records hold."""

    column: Column
    row: Row
    planned: PlannedCell | None
    found: Collected


def is_baseline(layout: TableLayout, row: Row) -> bool:
    """Whether the others of its section are compared with a row."""
    return not row.reference and row.value == layout.baseline


def baseline_of(layout: TableLayout, place: Place, section: Sequence[Place]) -> Place | None:
    """The baseline's row that a place is compared with; None if there is none.

    It has the same backbone, or any if the place's method has none (raw pixels). Of several, it is the one that is
    trained, pre-trained and tested most alike.
    """
    assert place.planned is not None
    ours = place.planned

    rows = [
        (layout.distance(ours, p.planned), p)
        for p in section
        if p.planned and is_baseline(layout, p.row) and place.row.backbone in (p.row.backbone, "")
    ]
    return min(rows, key=lambda row: row[0])[1] if rows else None


def common_seeds(ours: Collected, theirs: Collected) -> tuple[int, ...]:
    """The seeds that two cells have, in the order of `ours`."""
    there = set(theirs.seeds)
    return tuple(seed for seed in ours.seeds if seed in there)
