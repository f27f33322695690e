"""Rows under the names of their backbones, as Table 1 of papers is laid out, where a table has several."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from reports.cells import Cell, Table
from reports.published import BACKBONES, backbone_in_paper

WITHOUT = "no backbone"


def heading_of(cell: Cell) -> str:
    """The name that the paper has for a row's backbone; variants of a backbone share it."""
    name = backbone_in_paper(cell.backbone)
    return BACKBONES.get(name, name) or WITHOUT


def are_grouped(table: Table) -> bool:
    """Whether the table has rows of several such names."""
    return len({heading_of(cell) for cell in _cells(table)} - {WITHOUT}) > 1


def need_column(table: Table) -> bool:
    """Whether the headings, or their absence, leave open which backbone a row has."""
    backbones = {cell.backbone for cell in _cells(table)} - {""}
    return len(backbones) > len({heading_of(cell) for cell in _cells(table)} - {WITHOUT})


def groups(table: Table, cells: Iterable[Cell]) -> list[tuple[str, list[Cell]]]:
    """Rows of a section by heading, in their order; one group without a heading if the table has none."""
    if not are_grouped(table):
        return [("", list(cells))]
    return [(heading, list(found)) for heading, found in itertools.groupby(cells, heading_of)]


def _cells(table: Table) -> list[Cell]:
    return [cell for section in table.sections for cell in section.cells]
