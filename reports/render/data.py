"""Tables for programs: CSV with all columns, and JSON with everything, unrounded."""

from __future__ import annotations

import csv
import io

from reports.cells import Cell, Section, Table
from reports.render.columns import columns
from reports.render.fields import Fields


def to_csv(table: Table) -> str:
    """Render one line per section and row, with all columns; percent and percentage points have two decimals."""
    records = [_record(table, section, cell) for section in table.sections for cell in section.cells]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return lines.getvalue()


def _record(table: Table, section: Section, cell: Cell) -> Fields:
    fields: Fields = {
        "table": table.name,
        "section": section.label,
        "dataset": section.dataset,
        "way": section.way,
        "shot": section.shot,
    }
    for column in columns(table):
        fields |= column.fields(cell)
    return fields | {"records": " ".join(cell.records)}


def to_json(table: Table) -> str:
    """Render the table itself: unrounded numbers, accuracies as fractions, with the keys of the records behind them."""
    return table.model_dump_json(indent=1) + "\n"
