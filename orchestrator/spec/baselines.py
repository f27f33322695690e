"""Pairs each row of a sweep's tables with the baseline row that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dmf.config import ExperimentConfig
from orchestrator.spec.plan import SweepPlan
from reports.layouts import TableLayout
from reports.tables import Column, PlannedCell, distance

SCANNED = 50
"""Baseline rows searched for the nearest one when a row has no exact counterpart."""


@dataclass(frozen=True)
class Pair:
    """A row of a table and its baseline row."""

    layout: TableLayout
    cell: PlannedCell
    baseline: PlannedCell
    exact: bool
    """Whether the two differ in nothing but what the rows vary."""

    def name(self, cell: PlannedCell) -> str:
        """The name of one of the two rows."""
        return self.layout.name_of(self.layout.label(cell.config))


def pairs(planned: SweepPlan) -> Iterator[Pair]:
    """Every row that has a baseline in its column; reference rows, of other methods, have none."""
    for layout in planned.layouts:
        cells = [cell for cell in planned.cells if cell.table == layout.name and not layout.is_reference(cell.config)]
        bases = [cell for cell in cells if layout.is_baseline(cell.config)]
        exact = {(cell.config.key, cell.evaluation.key): cell for cell in bases}
        columns: dict[tuple[Column, str], list[PlannedCell]] = {}
        for base in bases:
            column, backbone = place(layout, base)
            # Methods without a backbone, which have "" there, are compared with a baseline of any backbone.
            for name in {backbone, ""}:
                columns.setdefault((column, name), []).append(base)
        for cell in cells:
            if layout.is_baseline(cell.config):
                continue
            twin_key = _twin_key(layout, cell.config)
            twin = exact.get((twin_key, cell.evaluation.key)) if twin_key is not None else None
            nearest = twin or _nearest(layout, cell, columns.get(place(layout, cell), []))
            if nearest:
                yield Pair(layout, cell, nearest, exact=twin is not None)


def place(layout: TableLayout, cell: PlannedCell) -> tuple[Column, str]:
    """A row's column and backbone: rows of equal ones are compared."""
    return Column.of(cell, layout), cell.config.model.backbone_name


def _twin_key(layout: TableLayout, config: ExperimentConfig) -> str | None:
    """The key of the training that differs only in the table's factor; None if there can be no such training."""
    base = layout.baseline if isinstance(layout.baseline, tuple) else (layout.baseline,)
    try:
        return config.with_paths(dict(zip(layout.row_paths, base, strict=True))).key
    except ValueError:
        return None


def _nearest(layout: TableLayout, cell: PlannedCell, bases: Sequence[PlannedCell]) -> PlannedCell | None:
    return min(bases[:SCANNED], key=lambda base: distance(layout, cell, base), default=None)
