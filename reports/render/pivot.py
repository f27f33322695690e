"""A table of several sections at a glance: its rows against its sections, as Table 1 of papers is laid out.

Pages shade each accuracy by its place between the lowest and the highest, so that a second axis reads as a heat map.
"""

from __future__ import annotations

from dataclasses import dataclass

from reports.cells import Cell, Table
from reports.render import texts
from reports.render.texts import NOTHING

MOST_SECTIONS = 16
"""A table of more sections has no pivot: it would not fit."""


@dataclass(frozen=True)
class Entry:
    """One row in one section."""

    ours: str
    """Our accuracy, or why there is none; NOTHING where nothing is planned."""
    paper: str
    """The paper's; empty if it has none."""
    strong: bool = False
    level: float | None = None
    """Place of our accuracy between the table's lowest, 0, and highest, 1."""


@dataclass(frozen=True)
class Pivot:
    """Rows by backbone and name, and their entry in each section."""

    sections: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Entry, ...]], ...]
    """Backbone, name and entries; rows of one backbone follow each other."""


def pivot(table: Table) -> Pivot | None:
    """The table's rows against its sections; None for a single section, or too many."""
    if not 1 < len(table.sections) <= MOST_SECTIONS:
        return None
    names = [(texts.backbone(cell), texts.label(cell)) for section in table.sections for cell in section.cells]
    backbones = list(dict.fromkeys(backbone for backbone, _ in names))
    ordered = sorted(dict.fromkeys(names), key=lambda name: backbones.index(name[0]))
    found = [{(texts.backbone(cell), texts.label(cell)): cell for cell in section.cells} for section in table.sections]
    done = [cell.accuracy for cells in found for cell in cells.values() if cell.accuracy is not None]
    low, high = (min(done), max(done)) if done else (0.0, 0.0)
    rows = tuple((*name, tuple(_entry(cells.get(name), low, high) for cells in found)) for name in ordered)
    return Pivot(tuple(section.label for section in table.sections), rows)


def _entry(cell: Cell | None, low: float, high: float) -> Entry:
    if cell is None:
        return Entry(NOTHING, "")
    level = None
    if cell.accuracy is not None:
        level = (cell.accuracy - low) / (high - low) if high > low else 1.0
    paper = texts.published(cell) if cell.published else ""
    return Entry(texts.ours(cell) if cell.seeds_planned else NOTHING, paper, cell.best, level)
