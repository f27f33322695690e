"""Tables as one HTML page that needs nothing else: no network, no other file, and no script to be read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports.cells import Cell, Section, Table
from reports.notes import of_costs
from reports.render.along import along
from reports.render.behind import behind
from reports.render.columns import Column, Part, printed, title
from reports.render.curves import MOST_SEEDS, Find, accuracy_curves, lines_of, loss_curves
from reports.render.forest import forest
from reports.render.groups import groups
from reports.render.levels import legend, levels
from reports.render.pivot import pivot
from reports.render.summary import MOST_FINDINGS, Claim, claims_for_page, counted, findings, name_of
from reports.render.wrapping import harmless, words
from reports.statistics.verdicts import Verdict
from reports.words import intervals, margins
from reports.words import verdict as word_of

TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("templates/*.*")}
"""Read when a program starts, so that somebody who edits them does not change the report of a sweep that runs."""
PAGE = jinja2.Environment(
    loader=jinja2.DictLoader(TEMPLATES),
    autoescape=True,
    finalize=lambda value: harmless(value) if type(value) is str else value,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


LONGEST_WORD, LONGEST_PIECE = 16, 8
"""As in `reports.render.wrapping`, for a phone and for paper, where a column is narrow."""


def _breakable(text: str) -> Markup:
    """`text` as HTML in which long words may break after punctuation."""
    parts = Markup("")
    for part, spaced in words(text, LONGEST_WORD, LONGEST_PIECE):
        parts += (Markup(" " if spaced else "<wbr>") if parts else Markup("")) + escape(part)
    return parts


PAGE.filters["breakable"] = _breakable
MOST_DRAWN = 6
"""Sections of a table whose curves are drawn."""
MOST_BEHIND = 400
"""Rows of a table whose origins are listed; its JSON has them all."""


class Page:
    """What a page shows of some tables. Its figures are drawn once, whatever the number of pages they are put on."""

    def __init__(
        self, tables: Sequence[Table], find: Find | None = None, runs: Mapping[str, str] | None = None
    ) -> None:
        """`find` reads the curves of a training by its key; `runs` has the MLflow runs of trainings by key."""
        self._shown = [_shown(table, find, runs or {}) for table in tables]

    def of_all(self, heading: str, about: str = "", claims: Sequence[Claim] = ()) -> str:
        """The page of all tables, with a summary and `claims`."""
        return self._render(self._shown, heading, about, claims)

    def of(self, number: int) -> str:
        """The page of one table."""
        shown = self._shown[number]
        return self._render([shown], str(shown["title"]), "", ())

    def _render(self, shown: Sequence[dict[str, object]], heading: str, about: str, claims: Sequence[Claim]) -> str:
        return PAGE.get_template("page.html.jinja").render(
            page_title=heading,
            about=about,
            tables=shown,
            claims=claims_for_page(claims),
            claims_counted=counted(claims) if claims else "",
            most_findings=MOST_FINDINGS,
        )


def to_html(
    tables: Sequence[Table],
    page_title: str,
    about: str = "",
    claims: Sequence[Claim] = (),
    find: Find | None = None,
    runs: Mapping[str, str] | None = None,
) -> str:
    """Render tables as a self-contained page; see `Page` for `find` and `runs`."""
    return Page(tables, find, runs).of_all(page_title, about, claims)


def _shown(table: Table, find: Find | None, runs: Mapping[str, str]) -> dict[str, Any]:
    name = name_of(table)
    columns = printed(table, roomy=True)
    costs = [c for c in columns if c.part is Part.COST]
    main = [c for c in columns if c not in costs]
    known = _known(table, name)
    return {
        "table": table,
        "name": name,
        "title": title(table),
        "columns": [_heading(column) for column in main],
        "costs": [_heading(column) for column in [*(c for c in main if c.of_row), *costs]] if costs else [],
        "sections": _sections(table, main, costs, [id_ for id_, _, _ in known[:MOST_BEHIND]], name),
        "pivot": pivot(table),
        "findings": findings(table),
        "margins": margins(table),
        "intervals": intervals(table),
        "of_costs": of_costs(table.sections),
        "forest": forest(table, f"forest-{name}"),
        "along": along(table, f"along-{name}"),
        "of_models": any(
            cell.to_baseline and cell.to_baseline.is_of_models for section in table.sections for cell in section.cells
        ),
        "levels": [
            {"label": section.label, "svg": figure, "legend": legend(table, section)}
            for number, section in enumerate(table.sections)
            if (figure := levels(table, section, f"levels-{name}-{number}"))
        ],
        "curves": _curves(table, name, find) if find else [],
        "most_seeds": MOST_SEEDS,
        "behind": [{"id": id_, **behind(section, cell, runs)} for id_, section, cell in known[:MOST_BEHIND]],
        "behind_left_out": max(0, len(known) - MOST_BEHIND),
    }


def _known(table: Table, name: str) -> list[tuple[str, Section, Cell]]:
    """The rows whose origins are known, each with the id of what the page says of them."""
    return [
        (f"behind-{name}-{number}-{place}", section, cell)
        for number, section in enumerate(table.sections)
        for place, cell in enumerate(section.cells)
        if cell.origins
    ]


def _curves(table: Table, name: str, find: Find) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number, section in enumerate(table.sections[:MOST_DRAWN]):
        lines = lines_of(section, find)
        figures = [
            loss_curves(section, lines, f"loss-{name}-{number}"),
            accuracy_curves(section, lines, f"validation-{name}-{number}"),
        ]
        if any(figures):
            found.append({"label": section.label, "lines": lines, "figures": [each for each in figures if each]})
    return found


def _heading(column: Column) -> dict[str, object]:
    return {"text": column.heading, "left": column.left, "of_row": column.of_row}


def _sections(
    table: Table, main: list[Column], costs: list[Column], ids: Sequence[str], name: str
) -> list[dict[str, Any]]:
    known = set(ids)
    named = [column for column in main if column.of_row]
    shown: list[dict[str, Any]] = []
    for number, section in enumerate(table.sections):
        rows: list[dict[str, Any]] = []
        for place, cell in enumerate(section.cells):
            id_ = f"behind-{name}-{number}-{place}"
            costly = any(not column.is_empty(cell) for column in costs)
            rows.append(
                {
                    "classes": _row_classes(cell),
                    "texts": [_entry(column, cell) for column in main],
                    "costs": [_entry(column, cell) for column in [*named, *costs]] if costly else [],
                    "behind": id_ if id_ in known else "",
                }
            )
        left = iter(rows)
        found = [
            {"heading": heading, "rows": list(itertools.islice(left, len(cells)))}
            for heading, cells in groups(table, section.cells)
        ]
        shown.append({"label": section.label, "groups": found, "has_costs": any(row["costs"] for row in rows)})
    return shown


def _row_classes(cell: Cell) -> str:
    return f"{cell.state.name.lower().replace('_', '-')}{' empty' if cell.accuracy is None else ''}"


def _entry(column: Column, cell: Cell) -> dict[str, object]:
    """A cell of the page's table: its text, classes, and the number that it is sorted by."""
    text = column.text(cell)
    order = column.order(cell) if column.order else None
    entry: dict[str, object] = {
        "text": _unbroken(text) if column.unbroken else text,
        "classes": _classes(column, cell),
        "strong": column.is_strong(cell),
        "order": "" if order is None else f"{order:.6g}",
        "word": "",
        "links": column.ours,
    }
    against = cell.to_baseline
    if column.verdict and against and against.verdict:
        word = word_of(against)
        entry |= {"word": word, "kind": against.verdict.value, "text": text.removeprefix(word).removeprefix(", ")}
    return entry


def _unbroken(text: str) -> str:
    """A number with its interval, which breaks between the two at most."""
    return text.replace(" ±", "\u00a0±").replace("± ", "±\u00a0").replace(", ", ",\u00a0")


def _classes(column: Column, cell: Cell) -> str:
    """The CSS classes of a table cell."""
    classes = ["left"] if column.left else []
    if column.ours:
        classes.append("ours")
    if column.unbroken and (not column.ours or cell.accuracy is not None):
        classes.append("unbroken")
    if column.verdict:
        classes.append("verdict")
    elif " (" in column.text(cell) and not column.unbroken:
        classes.append("compared")
    if column.is_empty(cell):
        classes.append("none")
    said = cell.to_baseline.verdict if cell.to_baseline else None
    if column.verdict and said in (Verdict.BETTER, Verdict.WORSE):
        classes.append(said.name.lower())
    return " ".join(classes)
