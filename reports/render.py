"""Renders a filled table as terminal text, Markdown, LaTeX, CSV, HTML and JSON. The same table gives the same bytes.

`columns` defines the columns of all formats except JSON, which is the table itself with unrounded numbers. In all other
formats, fractions become percent with two decimals; everywhere before this module, they are fractions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from dmf.values import printable
from reports.cells import Cell, Section, Table
from reports.published import BACKBONES
from reports.statistics.verdicts import Verdict
from reports.words import explained, interval, percent, verdict

Fields = dict[str, str | int | None]
"""CSV fields by name. Numbers are percent or percentage points with two decimals; None is an empty field."""
NOTHING = "–"
"""Printed if a column has no value for a cell."""
LONGEST_REASON = 24
"""Longest reason that a table prints, in characters; longer ones go to its notes."""
WIDE = 140
"""Terminal width, in characters, from which a table is printed as a single grid."""


def _plain(fraction: float | None) -> str | None:
    """Percent for CSV, with a hyphen as minus sign."""
    return None if fraction is None else percent(fraction).replace("−", "-")


def _number(value: float, ci95: float | None) -> str:
    return percent(value) if ci95 is None else f"{percent(value)} ± {percent(ci95)}"


def _label(cell: Cell) -> str:
    return ", ".join((cell.label, *cell.variant))


def _backbone(cell: Cell) -> str:
    return BACKBONES.get(cell.backbone, cell.backbone) or "-"


def _published(cell: Cell) -> str:
    return _number(cell.published.accuracy, cell.published.ci95) if cell.published else NOTHING


def _published_fields(cell: Cell) -> Fields:
    number = cell.published
    return {
        "paper_percent": _plain(number.accuracy) if number else None,
        "paper_ci95": _plain(number.ci95) if number else None,
        "paper_dataset": number.dataset if number else None,
        "paper_backbone": number.backbone if number else None,
        "paper_source": number.source if number else None,
    }


def _library(cell: Cell) -> str:
    """The distinct numbers on LibFewShot's pages."""
    return " / ".join(dict.fromkeys(percent(number.accuracy) for number in cell.library)) or NOTHING


def _library_fields(cell: Cell) -> Fields:
    return {
        "libfewshot_percent": " / ".join(percent(number.accuracy) for number in cell.library),
        "libfewshot_source": " / ".join(number.source for number in cell.library),
    }


def _ours(cell: Cell) -> str:
    if cell.accuracy is not None:
        return _number(cell.accuracy, cell.ci95)
    text = "; ".join(cell.reasons)
    return text if len(text) <= LONGEST_REASON else f"{cell.state} (see notes)"


def _ours_fields(cell: Cell) -> Fields:
    return {
        "state": cell.state,
        "reason": "; ".join(cell.reasons),
        "stale": "; ".join(cell.doubts),
        "accuracy_percent": _plain(cell.accuracy),
        "ci95": _plain(cell.ci95),
        "best": "yes" if cell.best else "no",
    }


def _seed_sd(cell: Cell) -> str:
    return NOTHING if cell.seed_sd is None else f"{percent(cell.seed_sd)} (n={len(cell.seeds_done)})"


def _total(cell: Cell) -> str:
    return NOTHING if cell.total_ci95 is None else f"± {percent(cell.total_ci95)}"


def _episodes(cell: Cell) -> str:
    return NOTHING if cell.episodes is None else f"{cell.episodes:,}"


def _seeds(cell: Cell) -> str:
    return f"{len(cell.seeds_done)} of {len(cell.seeds_planned)}" if cell.seeds_planned else NOTHING


def _to_published(cell: Cell) -> str:
    comparison = cell.to_published
    if comparison is None:
        return NOTHING
    if comparison.difference is None:
        return comparison.words
    number = f"{percent(comparison.difference, signed=True)} ± {percent(comparison.ci95 or 0)}"
    return f"{number} {comparison.words}"


def _to_published_fields(cell: Cell) -> Fields:
    comparison = cell.to_published
    return {
        "minus_paper": _plain(comparison.difference) if comparison else None,
        "minus_paper_ci95": _plain(comparison.ci95) if comparison else None,
        "minus_paper_verdict": comparison.words if comparison else None,
        "departures": "; ".join(comparison.departures) if comparison else None,
    }


def _to_baseline(cell: Cell) -> str:
    comparison = cell.to_baseline
    if comparison is None or comparison.is_of_models:
        return NOTHING
    if comparison.low is None or comparison.difference is None or comparison.high is None:
        return NOTHING
    return f"{percent(comparison.difference, signed=True)} {interval(comparison.low, comparison.high)}"


def _to_baseline_fields(cell: Cell) -> Fields:
    comparison = cell.to_baseline
    return {
        "baseline": comparison.baseline if comparison else None,
        "minus_baseline": _plain(comparison.difference) if comparison else None,
        "minus_baseline_low": _plain(comparison.low) if comparison else None,
        "minus_baseline_high": _plain(comparison.high) if comparison else None,
        "minus_baseline_of": ("models" if comparison.is_of_models else "methods")
        if comparison and comparison.test
        else None,
        "minus_baseline_seeds": " ".join(map(str, comparison.seeds)) if comparison else None,
        "method_low": _plain(comparison.method_low) if comparison else None,
        "method_high": _plain(comparison.method_high) if comparison else None,
        "method_sd_used": _plain(comparison.sd_used) if comparison else None,
        "percent_of_seeds": _plain(comparison.accuracy) if comparison else None,
        "baseline_percent_of_seeds": _plain(comparison.baseline_accuracy) if comparison else None,
    }


def _in_paper(cell: Cell) -> str:
    comparison = cell.to_baseline
    if comparison is None or comparison.published_difference is None:
        return NOTHING
    return percent(comparison.published_difference, signed=True)


def _in_paper_fields(cell: Cell) -> Fields:
    comparison = cell.to_baseline
    return {"minus_baseline_in_paper": _plain(comparison.published_difference) if comparison else None}


def _p(cell: Cell) -> str:
    comparison = cell.to_baseline
    if comparison is None or comparison.p_holm is None:
        return NOTHING
    return "<0.001" if comparison.p_holm < 0.001 else f"{comparison.p_holm:.3f}"


def _p_fields(cell: Cell) -> Fields:
    comparison = cell.to_baseline
    return {
        "p": f"{comparison.p:.3g}" if comparison and comparison.p is not None else None,
        "p_holm": f"{comparison.p_holm:.3g}" if comparison and comparison.p_holm is not None else None,
        "p_same_holm": f"{comparison.p_same_holm:.3g}" if comparison and comparison.p_same_holm is not None else None,
        "test": comparison.test if comparison else None,
    }


def _verdict(cell: Cell) -> str:
    if cell.is_baseline:
        return "baseline"
    return explained(cell.to_baseline) if cell.to_baseline else NOTHING


def _verdict_fields(cell: Cell) -> Fields:
    comparison = cell.to_baseline
    return {
        "also_differs": "; ".join(comparison.also_differs) if comparison else None,
        "verdict": "baseline" if cell.is_baseline else verdict(comparison) if comparison else None,
        "margin": _plain(comparison.margin) if comparison and comparison.verdict else None,
        "more_seeds": comparison.more_seeds if comparison else None,
        "episodes_needed": comparison.episodes_needed if comparison else None,
    }


@dataclass(frozen=True)
class Column:
    """A column: its text for a cell, and the CSV fields that correspond to it."""

    heading: str
    text: Callable[[Cell], str]
    fields: Callable[[Cell], Fields]
    left: bool = False
    """Whether it is aligned left."""
    of_row: bool = False
    """Whether it identifies the row."""
    ours: bool = False
    """Whether it holds our accuracy, which is bold if it is among the best."""
    verdict: bool = False
    """Whether HTML pages colour its values better and worse."""
    comparison: bool = False
    """Whether it goes to the second grid in terminals narrower than `WIDE`."""
    unbroken: bool = False
    """Whether its text stays on one line."""
    optional: bool = False
    """Whether it is left out if no cell has a value."""

    def is_empty(self, cell: Cell) -> bool:
        """Whether the column has no value for a cell."""
        return self.text(cell) == NOTHING

    def is_strong(self, cell: Cell) -> bool:
        """Whether a cell's text is bold."""
        return self.ours and cell.best


def columns(table: Table) -> list[Column]:
    """All columns of a table, in the order that every format uses."""
    return [
        Column(table.row_header, _label, lambda cell: {"row": _label(cell)}, left=True, of_row=True),
        Column("backbone", _backbone, lambda cell: {"backbone": cell.backbone}, left=True, of_row=True),
        Column(table.published_header, _published, _published_fields, unbroken=True, optional=True),
        Column("LibFewShot", _library, _library_fields, optional=True),
        Column("ours", _ours, _ours_fields, ours=True, unbroken=True),
        Column("sd of seeds", _seed_sd, lambda cell: {"sd_of_seeds": _plain(cell.seed_sd)}, optional=True),
        Column("total", _total, lambda cell: {"total_ci95": _plain(cell.total_ci95)}, unbroken=True, optional=True),
        Column("episodes", _episodes, lambda cell: {"episodes": cell.episodes}),
        Column(
            "seeds",
            _seeds,
            lambda cell: {"seeds_done": len(cell.seeds_done), "seeds_planned": len(cell.seeds_planned)},
        ),
        Column("ours − paper", _to_published, _to_published_fields, comparison=True, optional=True),
        Column(
            f"ours − {table.baseline}", _to_baseline, _to_baseline_fields, comparison=True, unbroken=True, optional=True
        ),
        Column("in paper", _in_paper, _in_paper_fields, comparison=True, optional=True),
        Column("p (Holm)", _p, _p_fields, comparison=True, optional=True),
        Column("verdict", _verdict, _verdict_fields, left=True, comparison=True, verdict=True),
    ]


def printed(table: Table) -> list[Column]:
    """The columns that a table prints: without optional columns that are empty, and without a single backbone."""
    cells = [cell for section in table.sections for cell in section.cells]
    several = len({cell.backbone for cell in cells} - {""}) > 1
    return [
        column
        for column in columns(table)
        if (several or column.text is not _backbone)
        and not (column.optional and all(column.is_empty(cell) for cell in cells))
    ]


def title(table: Table) -> str:
    """The full title, such as `Table 2c: Number of groups`."""
    return f"Table {table.name}: {table.title}"


def to_terminal(table: Table, width: int = WIDE) -> Group:
    """Render for a rich console of `width` characters; below `WIDE`, comparisons go to a second grid."""
    shown = printed(table)
    if width >= WIDE:
        grids = [_grid(table, shown)]
    else:
        grids = [
            _grid(table, [column for column in shown if not column.comparison]),
            _grid(table, [column for column in shown if column.of_row or column.comparison]),
        ]
    grids[0].title = _text(title(table))
    notes = [_text(f"- {note}") for note in table.notes]
    return Group(*grids, _text(table.verdict, style="bold"), *notes, Text(""))


def _text(text: str, style: str = "") -> Text:
    """`text` for rich, which takes brackets in strings for markup."""
    return Text(printable(text), style)


def _grid(table: Table, shown: Sequence[Column]) -> Grid:
    """One grid, without rows that would show only their names."""
    grid = Grid(title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for column in shown:
        grid.add_column(
            _text(column.heading),
            justify="left" if column.left else "right",
            no_wrap=column.unbroken,
            overflow="fold",
        )
    for section in table.sections:
        grid.add_section()
        grid.add_row(_text(section.label, style="italic"))
        for cell in section.cells:
            if all(column.of_row or column.is_empty(cell) for column in shown):
                continue
            grid.add_row(*(_text(c.text(cell), style="bold" if c.is_strong(cell) else "") for c in shown))
    return grid


def to_markdown(table: Table) -> str:
    """Render one pipe table per section, then the verdict and the notes."""
    shown = printed(table)
    lines = [f"## {_markdown(title(table))}", ""]
    for section in table.sections:
        lines += [f"### {_markdown(section.label)}", "", _pipes(_markdown(column.heading) for column in shown)]
        lines.append(_pipes(":--" if column.left else "--:" for column in shown))
        for cell in section.cells:
            texts = ((_markdown(column.text(cell)), column.is_strong(cell)) for column in shown)
            lines.append(_pipes(f"**{text}**" if strong else text for text, strong in texts))
        lines.append("")
    lines += [f"**{_markdown(table.verdict)}**", "", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _pipes(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown(text: str) -> str:
    text = printable(text, lines=True)
    for special in ("\\", "|", "*", "_", "<", "[", "`"):
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "…": r"\dots{}",
    "[": "{[}",
    "]": "{]}",
}
"""Replacements for characters with a special meaning in LaTeX. After `\\\\`, a bracket would start a length."""


def latex_text(text: str) -> str:
    """`text` escaped so that LaTeX prints it literally."""
    shown = printable(text, lines=True)
    return " ".join("".join(LATEX.get(character, character) for character in shown).split())


def to_latex(table: Table) -> str:
    r"""Render a `table*` with booktabs' rules, and the notes below it in small print."""
    shown = printed(table)
    lines = [
        r"% Needs \usepackage{booktabs}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.verdict)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in shown)}}}",
        r"\toprule",
        _ampersands(latex_text(column.heading) for column in shown),
    ]
    for section in table.sections:
        lines += [r"\midrule", rf"\multicolumn{{{len(shown)}}}{{l}}{{\emph{{{latex_text(section.label)}}}}} \\"]
        for cell in section.cells:
            texts = ((latex_text(column.text(cell)), column.is_strong(cell)) for column in shown)
            lines.append(_ampersands(rf"\textbf{{{text}}}" if strong else text for text, strong in texts))
    lines += [r"\bottomrule", r"\end{tabular}", r"\begin{flushleft}", r"\scriptsize"]
    lines += [rf"{latex_text(note)}\\" for note in table.notes[:-1]] + [latex_text(n) for n in table.notes[-1:]]
    return "\n".join([*lines, r"\end{flushleft}", r"\end{table*}"]) + "\n"


def _ampersands(texts: Iterable[str]) -> str:
    return f"{' & '.join(texts)} \\\\"


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
    return fields | {"parameters": cell.parameters, "records": " ".join(cell.records)}


def to_json(table: Table) -> str:
    """Render the table itself: unrounded numbers, accuracies as fractions, with the keys of the records behind them."""
    return table.model_dump_json(indent=1) + "\n"


@dataclass(frozen=True)
class Strip:
    """Positions of a row's numbers on its section's axis, in percent of the axis's width."""

    low: float
    """Lower end of the interval."""
    width: float
    """Width of the interval."""
    mean: float
    paper: float | None


def strips(section: Section) -> list[Strip | None]:
    """Positions of every row's interval on an axis from the section's lowest number to its highest."""
    papers = [_comparable(section, cell) for cell in section.cells]
    ours = [_span(cell) for cell in section.cells]
    ends = [paper for paper in papers if paper is not None] + [end for span in ours if span for end in span]
    if not ends or min(ends) == max(ends):
        return [None] * len(section.cells)
    lowest, length = min(ends), max(ends) - min(ends)

    def at(value: float) -> float:
        return round(100 * (value - lowest) / length, 2)

    return [
        Strip(at(span[0]), round(at(span[1]) - at(span[0]), 2), at(sum(span) / 2), None if paper is None else at(paper))
        if span
        else None
        for span, paper in zip(ours, papers, strict=True)
    ]


def _span(cell: Cell) -> tuple[float, float] | None:
    if cell.accuracy is None or cell.ci95 is None:
        return None
    return cell.accuracy - cell.ci95, cell.accuracy + cell.ci95


def _comparable(section: Section, cell: Cell) -> float | None:
    """The paper's number, if it has the section's data set and the row's backbone."""
    paper = cell.published
    same = paper is not None and (paper.dataset, paper.backbone) == (section.dataset, cell.backbone)
    return paper.accuracy if paper and same else None


PAGE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=lambda value: printable(value, lines=True) if type(value) is str else value,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def to_html(tables: Sequence[Table], page_title: str, about: str = "") -> str:
    """Render one or more tables as a self-contained page."""
    shown = [
        {
            "table": table,
            "title": title(table),
            "columns": [{"text": column.heading, "left": column.left} for column in printed(table)],
            "sections": [_section_for_page(table, section) for section in table.sections],
        }
        for table in tables
    ]
    return PAGE.get_template("page.html.jinja").render(page_title=page_title, about=about, tables=shown)


def _section_for_page(table: Table, section: Section) -> dict[str, object]:
    shown = printed(table)
    rows = [
        {
            "cell": cell,
            "strip": strip,
            "texts": [{"text": c.text(cell), "classes": _classes(c, cell), "strong": c.is_strong(cell)} for c in shown],
        }
        for cell, strip in zip(section.cells, strips(section), strict=True)
    ]
    return {"label": section.label, "rows": rows}


def _classes(column: Column, cell: Cell) -> str:
    """The CSS classes of a table cell."""
    classes = ["left" if column.left else "right"]
    if column.ours:
        classes.append("ours")
    said = cell.to_baseline.verdict if cell.to_baseline else None
    if column.verdict and said in (Verdict.BETTER, Verdict.WORSE):
        classes.append(said.name.lower())
    return " ".join(classes)
