r"""Tables in LaTeX, with the rules of booktabs and the numbers of siunitx, in two variants.

`to_latex` fills the two columns of a paper (6.875 in) with everything that other formats print, and its notes;
`to_latex_column` fills one (3.25 in) with what a paper shows: rows, the published number, ours, and the difference.
Both take the width they are given (`\textwidth`, `\columnwidth`); the names of rows take what the numbers leave.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reports.cells import Cell, Table
from reports.notes import for_other_classes, of_costs
from reports.render import texts
from reports.render.columns import Column, Part, printed
from reports.render.groups import groups
from reports.render.tex import latex_text
from reports.render.texts import NOTHING
from reports.words import intervals

PACKAGES = r"% Needs \usepackage{booktabs,siunitx,tabularx}"
NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?")
UNCERTAIN = re.compile(r"(\S+) ± (\S+)")
INTERVAL = re.compile(r"(\S+) \[(\S+), (\S+)\]")
SETUP = (
    r"\sisetup{retain-explicit-plus, separate-uncertainty, detect-weight, group-separator={,}, group-minimum-digits=4}"
)
TEXT = r">{\raggedright\arraybackslash\hspace{0pt}}X"
"""A column whose lines break; the zero space lets its first word be hyphenated."""


@dataclass(frozen=True)
class _Printed:
    """A column of a LaTeX table."""

    heading: str
    text: Callable[[Cell], str]
    wraps: bool = False
    """Whether its text goes over several lines; the columns that do share the width that others leave."""
    ours: bool = False
    share: float = 1.0
    """Its part of that width, relative to 1."""


def to_latex(table: Table) -> str:
    r"""Render a `table*` for two columns: accuracies, then comparisons, then of methods costs, then the notes."""
    shown = [column for column in printed(table) if column.part is not Part.COST or table.of_methods]
    named = [column for column in shown if column.of_row]
    parts = [[_of(c) for c in [*named, *(c for c in shown if c.part is part and not c.of_row)]] for part in Part]
    parts = [part for part in parts if len(part) > len(named)]
    costs = of_costs(table.sections) if table.of_methods else ()
    said = (*_headings(table, shown), *for_other_classes(table.sections), *table.notes, *costs)
    notes = [latex_text(note) for note in said]
    return (
        "\n".join(
            [
                *_head(table, f"{table.title}. {table.verdict}", "table*", "footnotesize", 4),
                *(line for part in parts for line in (*_grid(table, part, r"\textwidth"), r"\medskip")),
                r"\begin{minipage}{\textwidth}\scriptsize\raggedright",
                *(rf"{note}\par" for note in notes),
                r"\end{minipage}",
                r"\end{table*}",
            ]
        )
        + "\n"
    )


def to_latex_column(table: Table) -> str:
    """Render a `table` for one column, as a paper prints it: the caption says what is compared, there are no notes."""
    named = _name if any(column.text is texts.backbone for column in printed(table)) else texts.label
    shown = [
        _Printed(table.row_header, named, wraps=True),
        _Printed("paper", _published),
        _Printed("ours", _ours, ours=True),
        _Printed("difference", texts.to_baseline),
    ]
    cells = [cell for section in table.sections for cell in section.cells]
    shown = [column for column in shown if column.wraps or any(column.text(cell) != NOTHING for cell in cells)]
    return (
        "\n".join(
            [
                *_head(table, _caption(table, shown), "table", "scriptsize", 2.5),
                *_grid(table, shown, r"\columnwidth"),
                r"\end{table}",
            ]
        )
        + "\n"
    )


def _caption(table: Table, shown: Sequence[_Printed]) -> str:
    """What the columns shown hold."""
    texts_of = [column.text for column in shown]
    caption = (
        f"{table.title}: accuracy in %. Ours: mean and 95 % interval over test episodes; bold: not shown to be below "
        "the best."
    )
    if _published in texts_of:
        of = f" of {table.published_header.removeprefix('paper ').strip('()')}" if "(" in table.published_header else ""
        caption += f" Paper: published numbers{of}."
    if texts.to_baseline in texts_of:
        caption += f" Difference: from {table.baseline}, with {intervals(table)}."
    return caption


def _head(table: Table, caption: str, environment: str, size: str, gap: float) -> list[str]:
    return [
        PACKAGES,
        rf"\begin{{{environment}}}[t]",
        r"\centering\sloppy",
        rf"\{size}",
        SETUP,
        rf"\setlength{{\tabcolsep}}{{{gap:g}pt}}",
        r"\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{latex_text(caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', table.name)}}}",
    ]


def _headings(table: Table, shown: Sequence[Column]) -> list[str]:
    """What the short headings stand for."""
    return [f"{column.short}: {column.heading}." for column in shown if column.short not in ("", column.heading)]


def _of(column: Column) -> _Printed:
    return _Printed(
        column.short or column.heading,
        column.text,
        wraps=column.left or column.text in (texts.to_published, texts.library),
        ours=column.ours,
        share=1.5 if column.text in (texts.label, texts.verdict) else 1.0,
    )


def _name(cell: Cell) -> str:
    return texts.label(cell) if not cell.backbone else f"{texts.label(cell)}, {texts.backbone(cell)}"


def _published(cell: Cell) -> str:
    return texts.number(cell.published.accuracy, None) if cell.published else NOTHING


def _ours(cell: Cell) -> str:
    """The number, or the cell's state in a word or two."""
    return texts.number(cell.accuracy, cell.ci95) if cell.accuracy is not None else cell.state


def _grid(table: Table, shown: Sequence[_Printed], width: str) -> list[str]:
    rows = [
        (
            section,
            [cell for cell in section.cells if any(c.text(cell) != NOTHING for c in shown if c.text not in NAMES)],
        )
        for section in table.sections
    ]
    cells = [cell for _, found in rows for cell in found]
    lines = [
        rf"\begin{{tabularx}}{{{width}}}{{@{{}}{''.join(_kinds(shown, cells))}@{{}}}}",
        r"\toprule",
        _ampersands(f"{{{latex_text(column.heading)}}}" for column in shown),
    ]
    for section, found in rows:
        lines += [r"\midrule", _section(len(shown), width, section.label)]
        for heading, group in groups(table, found):
            lines += [_heading(len(shown), heading)] if heading else []
            lines += [_ampersands(_entry(column, cell) for column in shown) for cell in group]
    return [*lines, r"\bottomrule", r"\end{tabularx}", ""]


def _heading(columns: int, heading: str) -> str:
    """A row with the name of the rows below it."""
    return rf"\multicolumn{{{columns}}}{{@{{}}l@{{}}}}{{\quad\emph{{{latex_text(heading)}}}}} \\"


def _section(columns: int, width: str, label: str) -> str:
    """A row with the section's label, over the whole width."""
    return (
        rf"\multicolumn{{{columns}}}{{@{{}}p{{{width}}}@{{}}}}"
        rf"{{\raggedright\hspace{{0pt}}\emph{{{latex_text(label)}}}}} \\"
    )


NAMES = (texts.label, texts.backbone, _name)


def _kinds(shown: Sequence[_Printed], cells: Sequence[Cell]) -> list[str]:
    """The column specifications: siunitx's for numbers, r for other short texts, X for what wraps."""
    total = sum(column.share for column in shown if column.wraps)
    count = sum(column.wraps for column in shown)
    kinds = []
    for column in shown:
        if column.wraps:
            hsize = column.share * count / total
            kinds.append(
                TEXT if hsize == 1 else TEXT.replace(r"\raggedright", rf"\hsize={hsize:.4g}\hsize\raggedright")
            )
        else:
            kinds.append(_number_kind([column.text(cell) for cell in cells]))
    return kinds


def _number_kind(found: Sequence[str]) -> str:
    """`S[table-format=2.2]` for plain numbers, with room for the longest of them; `r` if there is none."""
    numbers = [text for text in found if NUMBER.fullmatch(text)]
    if not numbers:
        return "r"
    signed = any(text[0] in "+−-" for text in numbers)
    parts = [text.lstrip("+−-").replace(",", "").partition(".") for text in numbers]
    before, after = max(len(part[0]) for part in parts), max(len(part[2]) for part in parts)
    return f"S[table-format={'+' if signed else ''}{before}{f'.{after}' if after else ''}]"


def _entry(column: _Printed, cell: Cell) -> str:
    text = column.text(cell)
    strong = column.ours and cell.best
    if column.wraps:
        return latex_text(text)
    if NUMBER.fullmatch(text):
        number = _plain(text)
        return rf"\bfseries {number}" if strong else number
    if found := UNCERTAIN.fullmatch(text):
        entry = rf"\num{{{_plain(found[1])} +- {_plain(found[2])}}}"
    elif found := INTERVAL.fullmatch(text):
        difference, low, high = (rf"\num{{{_plain(number)}}}" for number in found.groups())
        entry = f"{difference} {{[}}{low}, {high}{{]}}"
    else:
        entry = latex_text(text)
    return rf"{{\textbf{{{entry}}}}}" if strong else f"{{{entry}}}"


def _plain(number: str) -> str:
    """A number as siunitx reads it."""
    return number.replace("−", "-").replace(",", "")


def _ampersands(entries: Iterable[str]) -> str:
    return f"{' & '.join(entries)} \\\\"
