"""Renders a difference for the terminal, as Markdown, as CSV and as JSON; the same difference gives the same bytes."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable

from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from reports.diff.values import Change, DiffRow, DiffTable, Side
from reports.published import BACKBONES
from reports.render.markdown import escaped
from reports.render.wrapping import harmless
from reports.statistics.verdicts import Verdict
from reports.words import counted, interval, p_field, p_value, percent, points

NOTHING = "–"
P_FROM = 100
"""Width of a terminal, in characters, from which p-values have a column."""


def title(table: DiffTable) -> str:
    """Such as `demo, table 2c: Number of groups, B against A`."""
    return f"{table.sweep}, table {table.name}: {table.title}, B against A"


def outcome(row: DiffRow) -> str:
    """What became of a cell, in words."""
    if row.difference is not None:
        return _verdict(row)
    if row.change is Change.UNTESTED:
        return row.obstacle
    if row.change is Change.IDENTICAL:
        return row.change.value
    return "; ".join([row.change.value, *(f"{name}: {_why(side)}" for name, side in _without(row))])


def _without(row: DiffRow) -> list[tuple[str, Side | None]]:
    return [(name, side) for name, side in (("A", row.a), ("B", row.b)) if side is None or side.accuracy is None]


def _why(side: Side | None) -> str:
    return "not planned" if side is None else "; ".join(side.reasons) or side.state.value


def _verdict(row: DiffRow) -> str:
    found = row.difference
    assert found is not None
    text = found.verdict.value
    if found.verdict is Verdict.SAME:
        text = f"same within {points(found.margin)}"
    text += _over(row)
    if found.of == "models":
        return f"these two models: {text}; method: {Verdict.UNDECIDED} (1 seed)"
    return text


def _over(row: DiffRow) -> str:
    """The seeds and episodes that are compared, where one side has more."""
    found, where = row.difference, []
    assert found is not None and row.a is not None and row.b is not None
    if found.of == "methods" and not set(found.seeds) == set(row.a.seeds) == set(row.b.seeds):
        where.append(f"seeds {', '.join(map(str, found.seeds))}")
    if row.a.episodes != row.b.episodes:
        where.append(f"on the first {found.episodes:,} episodes: {percent(found.b)} − {percent(found.a)}")
    return f" ({', '.join(where)})" if where else ""


def summary(table: DiffTable) -> str:
    """How many cells became what."""
    counts = Counter(row.change for row in table.rows)
    told = [f"{counts[change]} {change.value}" for change in Change if counts[change] and change is not Change.TESTED]
    if tested := [row.difference for row in table.rows if row.difference is not None]:
        of_verdict = Counter(f"{found.verdict.value}{' (models)' if found.of == 'models' else ''}" for found in tested)
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in of_verdict.items())
        told.append(f"{len(tested)} changed: {verdicts}")
    return f"{counted(len(table.rows), 'cell')}: {'; '.join(told)}."


def what_differs(table: DiffTable) -> list[str]:
    """What differs besides the numbers, each once, with the rows where it does unless it does in all that both plan."""
    rows = [row for row in table.rows if row.a and row.b]
    where: dict[str, list[str]] = {}
    for row in rows:
        for text in row.differs:
            where.setdefault(text, []).append(row.label)
    return [
        text if len(labels) == len(rows) else f"{text} (in {', '.join(dict.fromkeys(labels))})"
        for text, labels in where.items()
    ]


def _number(side: Side | None) -> str:
    if side is None or side.accuracy is None or side.ci95 is None:
        return NOTHING
    return f"{percent(side.accuracy)} ± {percent(side.ci95)}"


def _difference(row: DiffRow) -> str:
    found = row.difference
    if found is None:
        return percent(0.0) if row.change is Change.IDENTICAL else NOTHING
    return f"{percent(found.difference, signed=True)} {interval(found.low, found.high)}"


def _p(row: DiffRow) -> str:
    found = row.difference
    if found is None:
        return NOTHING
    return p_value(found.p_holm)


def _columns(table: DiffTable) -> dict[str, Callable[[DiffRow], str]]:
    columns: dict[str, Callable[[DiffRow], str]] = {table.row_header: lambda row: row.label}
    if len({row.backbone for row in table.rows} - {""}) > 1:
        columns["backbone"] = lambda row: BACKBONES.get(row.backbone, row.backbone) or "-"
    return columns | {
        "A": lambda row: _number(row.a),
        "B": lambda row: _number(row.b),
        "B − A": _difference,
        "p (Holm)": _p,
        "outcome": outcome,
    }


def to_terminal(table: DiffTable, width: int = P_FROM) -> Group:
    """Render for a rich console of `width` characters."""
    columns = _columns(table)
    if width < P_FROM:
        del columns["p (Holm)"]
    grids = []
    for section in table.sections:
        grid = Grid(
            title=Text(harmless(section.label)),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 0),
        )
        for heading in columns:
            numeric = heading in ("A", "B", "B − A", "p (Holm)")
            grid.add_column(
                Text(harmless(heading)), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
            )
        for row in section.rows:
            grid.add_row(*(Text(harmless(text(row))) for text in columns.values()))
        grids.append(grid)
    differs = [Text(harmless(f"- differs: {text}")) for text in what_differs(table)]
    notes = [Text(harmless(f"- {note}")) for note in table.notes]
    head, total = (Text(harmless(text), style="bold") for text in (title(table), summary(table)))
    return Group(head, *grids, total, *differs, *notes, Text(""))


def to_markdown(table: DiffTable) -> str:
    """Render one pipe table per section, then what differs and the notes."""
    columns = _columns(table)
    lines = [f"## {escaped(title(table))}", ""]
    for section in table.sections:
        lines += [f"### {escaped(section.label)}", "", _pipes(columns), _pipes(":--" for _ in columns)]
        lines += [_pipes(escaped(text(row)) for text in columns.values()) for row in section.rows]
        lines.append("")
    told = [*(f"differs: {text}" for text in what_differs(table)), *table.notes]
    lines += [f"**{escaped(summary(table))}**", "", *(f"- {escaped(text)}" for text in told)]
    return "\n".join(lines) + "\n"


def _pipes(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def to_csv(table: DiffTable) -> str:
    """Render one line per row; accuracies are percent and differences percentage points, with two decimals."""
    lines = [fields for section in table.sections for fields in (_fields(section.label, row) for row in section.rows)]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _fields(section: str, row: DiffRow) -> dict[str, str]:
    found = row.difference

    def plain(fraction: float | None) -> str:
        return "" if fraction is None else percent(fraction).replace("−", "-")

    fields = {"section": section, "row": row.label, "backbone": row.backbone}
    for name, side in (("a", row.a), ("b", row.b)):
        fields |= {
            f"{name}_state": side.state.value if side else "not planned",
            f"{name}_percent": plain(side.accuracy if side else None),
            f"{name}_ci95": plain(side.ci95 if side else None),
            f"{name}_episodes": str(side.episodes or "") if side else "",
            f"{name}_seeds": " ".join(map(str, side.seeds)) if side else "",
            f"{name}_records": " ".join(side.records) if side else "",
        }
    return fields | {
        "change": row.change.value,
        "episodes": str(found.episodes) if found else "",
        "b_minus_a": plain(found.difference if found else None),
        "low": plain(found.low if found else None),
        "high": plain(found.high if found else None),
        "of": found.of if found else "",
        "p": p_field(found.p) if found else "",
        "p_holm": p_field(found.p_holm) if found else "",
        "p_same_holm": p_field(found.p_same_holm) if found else "",
        "margin": plain(found.margin if found else None),
        "verdict": found.verdict.value if found else "",
        "obstacle": row.obstacle,
        "differs": "; ".join(row.differs),
    }


def to_json(table: DiffTable) -> str:
    """The table itself, with unrounded numbers."""
    return table.model_dump_json(indent=1) + "\n"
