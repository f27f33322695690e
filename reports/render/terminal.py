"""Tables for terminals: as many grids below each other as the width asks for, without breaking a word."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from reports.cells import Cell, Table
from reports.notes import for_other_classes, of_costs
from reports.render.columns import Column, Part, printed, title
from reports.render.groups import groups
from reports.render.wrapping import harmless, narrowest, shared_out, wrapped

WIDE = 140
"""Width, in characters, if none is given."""
GAP = 2
"""Spaces between columns."""
ROOM_FOR_TEXT = 24
"""Width, in characters, that names and verdicts get if they need it, rather than several short lines."""
SIGN = "*"
"""Stands before what is bold elsewhere, where there is no bold."""
MEANING = f"{SIGN} before a number stands for bold, which this output cannot show."


def to_terminal(table: Table, width: int = WIDE, plain: bool = False) -> Group:
    """Render for a console of `width` characters; `plain` if it shows no styles, as a pipe or a file.

    Columns that do not fit beside each other go to further grids, with the rows' names repeated. What a training costs
    is left to the other formats, unless methods are compared.
    """
    shown = [column for column in printed(table) if column.part is not Part.COST or table.of_methods]
    sheets = [_Grid(table, columns, width, plain) for columns in _grids(table, shown, width, plain)]
    lines = [
        Text(harmless(title(table)), style="bold"),
        Text(""),
        *(line for sheet in sheets for line in sheet.lines()),
    ]
    if plain and any(cell.best for section in table.sections for cell in section.cells):
        lines += [*map(Text, wrapped(MEANING, width))]
    lines += [Text(line, style="bold") for line in wrapped(table.verdict, width)]
    costs = of_costs(table.sections) if table.of_methods else ()
    for note in (*for_other_classes(table.sections), *table.notes, *costs):
        first, *others = wrapped(note, width - 2)
        lines += [Text(f"- {first}"), *(Text(f"  {line}") for line in others)]
    return Group(*lines, Text(""))


def _grids(table: Table, shown: Sequence[Column], width: int, plain: bool) -> list[list[Column]]:
    """The columns of each grid: all in one if they fit, else comparisons apart, and each part as often as needed."""
    names = [column for column in shown if column.of_row]
    others = [column for column in shown if not column.of_row]

    def fit(columns: Sequence[Column]) -> bool:
        return _Grid(table, [*names, *columns], width, plain).fits

    if fit(others):
        return [[*names, *others]]
    grids: list[list[Column]] = []
    parts = ([c for c in others if c.part is part] for part in Part)
    for part in parts:
        grids.append([])
        for column in part:
            if grids[-1] and not fit([*grids[-1], column]):
                grids.append([])
            grids[-1].append(column)
    return [[*names, *columns] for columns in grids if columns]


class _Grid:
    """Some columns of a table, with their widths."""

    def __init__(self, table: Table, columns: Sequence[Column], width: int, plain: bool) -> None:
        self._table, self._columns, self._width, self._plain = table, columns, width, plain
        self._cells = [
            [cell for cell in section.cells if not all(c.of_row or c.is_empty(cell) for c in columns)]
            for section in table.sections
        ]
        self._least = [self._narrowest(column) for column in columns]
        self.fits = sum(self._least) + GAP * (len(columns) - 1) <= width

    def _texts(self, column: Column) -> list[str]:
        return [self._text(column, cell) for cells in self._cells for cell in cells]

    def _text(self, column: Column, cell: Cell) -> str:
        text = harmless(column.text(cell))
        return f"{SIGN}{text}" if self._plain and column.is_strong(cell) else text

    def _narrowest(self, column: Column) -> int:
        texts = self._texts(column)
        longest = max(map(cell_len, texts), default=0)
        if column.unbroken:
            return max(longest, narrowest(column.heading))
        least = max(map(narrowest, [column.heading, *texts]))
        return max(least, min(longest, ROOM_FOR_TEXT)) if column.left else least

    def lines(self) -> list[Text]:
        """The heading, and the rows by section."""
        headings = [harmless(column.heading) for column in self._columns]
        texts = [[heading, *self._texts(column)] for heading, column in zip(headings, self._columns, strict=True)]
        most = [max(map(cell_len, found)) for found in texts]
        room = self._width - GAP * (len(self._columns) - 1)
        widths = shared_out(self._least, most, room)
        lines = self._row(headings, widths, at_bottom=True)
        lines.append(Text("─" * min(self._width, sum(widths) + GAP * (len(widths) - 1)), style="dim"))
        for section, cells in zip(self._table.sections, self._cells, strict=True):
            lines += [Text(line, style="italic") for line in wrapped(section.label, self._width)]
            for heading, group in groups(self._table, cells):
                lines += [Text(line) for line in wrapped(f"── {heading}", self._width) if heading]
                for cell in group:
                    strong = [column.is_strong(cell) for column in self._columns]
                    lines += self._row([self._text(column, cell) for column in self._columns], widths, strong)
        return [*lines, Text("")]

    def _row(
        self, texts: Sequence[str], widths: Sequence[int], strong: Sequence[bool] = (), at_bottom: bool = False
    ) -> list[Text]:
        parts = [
            [text] if column.unbroken and cell_len(text) <= width else wrapped(text, width)
            for column, text, width in zip(self._columns, texts, widths, strict=True)
        ]
        height = max(map(len, parts))
        if at_bottom:
            parts = [[""] * (height - len(part)) + part for part in parts]
        lines = []
        for number in range(height):
            line = Text(no_wrap=True, overflow="ignore")
            for place, (column, part, width) in enumerate(zip(self._columns, parts, widths, strict=True)):
                text = part[number] if number < len(part) else ""
                spaces = " " * max(0, width - cell_len(text))
                line.append(" " * GAP if place else "")
                bold = "bold" if at_bottom or (strong and strong[place]) else ""
                line.append(text + spaces if column.left else spaces + text, style=bold)
            line.rstrip()
            lines.append(line)
        return lines
