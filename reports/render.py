"""One filled table as terminal, Markdown, LaTeX, CSV, HTML and JSON: the same values, byte for byte the same each time.

Here, and nowhere before, fractions become percent with two decimals. JSON keeps every number unrounded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import jinja2
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from reports.cells import Cell, Section, Table
from reports.published import BACKBONES

NOTHING = "–"
LONGEST_REASON = 24
"""Characters that a table has room for; longer reasons stand in its notes."""
WIDE = 140
"""Characters of a terminal from which on a table stands in one piece."""


def percent(fraction: float, signed: bool = False) -> str:
    """0.6776 -> 67.76, signed +67.76; halves are rounded away from zero, as on paper."""
    value = (Decimal(repr(fraction)) * 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
    text = f"{abs(value)}" if value == 0 else f"{value}"
    if signed and value > 0:
        text = f"+{text}"
    return text.replace("-", "−")


def _number(value: float, ci95: float | None) -> str:
    return percent(value) if ci95 is None else f"{percent(value)} ± {percent(ci95)}"


def _label(cell: Cell) -> str:
    return ", ".join((cell.label, *cell.variant))


def _backbone(cell: Cell) -> str:
    return BACKBONES.get(cell.backbone, cell.backbone) or "-"


def _paper(cell: Cell) -> str:
    return _number(cell.published.accuracy, cell.published.ci95) if cell.published else NOTHING


def _library(cell: Cell) -> str:
    """Every number that LibFewShot's pages give, each once."""
    return " / ".join(dict.fromkeys(percent(number.accuracy) for number in cell.library)) or NOTHING


def _ours(cell: Cell) -> str:
    if cell.accuracy is not None:
        return _number(cell.accuracy, cell.ci95)
    text = "; ".join(cell.reasons)
    return text if len(text) <= LONGEST_REASON else f"{cell.state} (see notes)"


def _seed_sd(cell: Cell) -> str:
    return NOTHING if cell.seed_sd is None else percent(cell.seed_sd)


def _episodes(cell: Cell) -> str:
    return NOTHING if cell.episodes is None else f"{cell.episodes:,}"


def _seeds(cell: Cell) -> str:
    return f"{len(cell.seeds_done)} of {len(cell.seeds_planned)}" if cell.seeds_planned else NOTHING


def _to_published(cell: Cell) -> str:
    comparison = cell.to_published
    if comparison is None:
        return NOTHING
    if comparison.difference is None:
        return comparison.verdict
    marked = ", protocol differs" if comparison.departures else ""
    number = f"{percent(comparison.difference, signed=True)} ± {percent(comparison.ci95 or 0)}"
    return f"{number} {comparison.verdict}{marked}"


def _to_baseline(cell: Cell) -> str:
    comparison = cell.to_baseline
    if comparison is None or comparison.low is None or comparison.difference is None or comparison.high is None:
        return NOTHING
    interval = f"[{percent(comparison.low, signed=True)}, {percent(comparison.high, signed=True)}]"
    return f"{percent(comparison.difference, signed=True)} {interval}"


def _in_paper(cell: Cell) -> str:
    comparison = cell.to_baseline
    if comparison is None or comparison.published_difference is None:
        return NOTHING
    return percent(comparison.published_difference, signed=True)


def _p(cell: Cell) -> str:
    comparison = cell.to_baseline
    if comparison is None or comparison.p_holm is None:
        return NOTHING
    return "<0.001" if comparison.p_holm < 0.001 else f"{comparison.p_holm:.3f}"


def _verdict(cell: Cell) -> str:
    if cell.is_baseline:
        return "baseline"
    return cell.to_baseline.verdict if cell.to_baseline else NOTHING


@dataclass(frozen=True)
class Heading:
    """A printed column: its heading, and how a cell fills it."""

    text: str
    value: Callable[[Cell], str]
    left: bool = False
    of_row: bool = False
    """Says which row it is."""
    comparison: bool = False
    unbroken: bool = False
    """On one line each."""
    optional: bool = False
    """Left out where no cell has a value for it."""


def headings(table: Table) -> list[Heading]:
    """The printed columns of a table. Backbones are told when there is more than one."""
    cells = [cell for section in table.sections for cell in section.cells]
    several = len({cell.backbone for cell in cells} - {""}) > 1
    backbone = [Heading("backbone", _backbone, left=True, of_row=True)] if several else []
    every = [
        Heading(table.row_header, _label, left=True, of_row=True),
        *backbone,
        Heading(table.published_header, _paper, unbroken=True, optional=True),
        Heading("LibFewShot", _library, optional=True),
        Heading("ours", _ours, unbroken=True),
        Heading("sd of seeds", _seed_sd, optional=True),
        Heading("episodes", _episodes),
        Heading("seeds", _seeds),
        Heading("ours − paper", _to_published, comparison=True, optional=True),
        Heading(f"ours − {table.baseline}", _to_baseline, comparison=True, unbroken=True),
        Heading("in paper", _in_paper, comparison=True, optional=True),
        Heading("p (Holm)", _p, comparison=True),
        Heading("verdict", _verdict, left=True, comparison=True),
    ]
    return [h for h in every if not h.optional or any(h.value(cell) != NOTHING for cell in cells)]


def title(table: Table) -> str:
    """Such as `Table 2c: Number of groups`."""
    return f"Table {table.name}: {table.title}"


def to_terminal(table: Table, width: int = WIDE) -> Group:
    """For rich's console of `width` characters; below `WIDE` the comparisons get a grid of their own."""
    columns = headings(table)
    if width >= WIDE:
        grids = [_grid(table, columns)]
    else:
        rows = [h for h in columns if h.of_row]
        grids = [_grid(table, [h for h in columns if not h.comparison])]
        grids.append(_grid(table, rows + [h for h in columns if h.comparison]))
    grids[0].title = title(table)
    notes = [Text(f"- {note}") for note in table.notes]
    return Group(*grids, Text(table.verdict, style="bold"), *notes, Text(""))


def _grid(table: Table, columns: Sequence[Heading]) -> Grid:
    """Rows that say nothing but their name are left out."""
    grid = Grid(title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for heading in columns:
        grid.add_column(
            Text(heading.text),
            justify="left" if heading.left else "right",
            no_wrap=heading.unbroken,
            overflow="fold",
        )
    for section in table.sections:
        grid.add_section()
        grid.add_row(Text(section.label, style="italic"))
        for cell in section.cells:
            if all(h.of_row or h.value(cell) == NOTHING for h in columns):
                continue
            texts = [Text(h.value(cell), style="bold" if cell.best and h.value is _ours else "") for h in columns]
            grid.add_row(*texts)
    return grid


def to_markdown(table: Table) -> str:
    """A pipe table per section, then verdict and notes."""
    columns = headings(table)
    lines = [f"## {title(table)}", ""]
    for section in table.sections:
        lines += [f"### {section.label}", "", _pipes(_markdown(h.text) for h in columns)]
        lines.append(_pipes(":--" if h.left else "--:" for h in columns))
        for cell in section.cells:
            texts = [_markdown(h.value(cell)) for h in columns]
            strong = [f"**{t}**" if cell.best and h.value is _ours else t for t, h in zip(texts, columns, strict=True)]
            lines.append(_pipes(strong))
        lines.append("")
    lines += [f"**{_markdown(table.verdict)}**", "", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _pipes(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown(text: str) -> str:
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
"""Characters that LaTeX would read as something else. A bracket behind `\\\\` would be read as a length."""


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return " ".join("".join(LATEX.get(character, character) for character in text).split())


def to_latex(table: Table) -> str:
    r"""A `table*` with booktabs' rules; the notes stand below it in small print."""
    columns = headings(table)
    lines = [
        r"% Needs \usepackage{booktabs}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.verdict)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{''.join('l' if h.left else 'r' for h in columns)}}}",
        r"\toprule",
        _ampersands(latex_text(h.text) for h in columns),
    ]
    for section in table.sections:
        lines += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{latex_text(section.label)}}}}} \\"]
        for cell in section.cells:
            texts = [latex_text(h.value(cell)) for h in columns]
            marked = [
                rf"\textbf{{{t}}}" if cell.best and h.value is _ours else t for t, h in zip(texts, columns, strict=True)
            ]
            lines.append(_ampersands(marked))
    lines += [r"\bottomrule", r"\end{tabular}", r"\begin{flushleft}", r"\scriptsize"]
    lines += [rf"{latex_text(note)}\\" for note in table.notes[:-1]] + [latex_text(n) for n in table.notes[-1:]]
    return "\n".join([*lines, r"\end{flushleft}", r"\end{table*}"]) + "\n"


def _ampersands(texts: Iterable[str]) -> str:
    return f"{' & '.join(texts)} \\\\"


def to_csv(table: Table) -> str:
    """One line for each row and section; percent and points with two decimals, nothing where there is nothing."""
    records = [_record(table, section, cell) for section in table.sections for cell in section.cells]
    lines = io.StringIO()
    writer = csv.DictWriter(lines, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return lines.getvalue()


def _record(table: Table, section: Section, cell: Cell) -> dict[str, str | int | None]:
    paper, to_paper, to_base = cell.published, cell.to_published, cell.to_baseline
    return {
        "table": table.name,
        "section": section.label,
        "dataset": section.dataset,
        "way": section.way,
        "shot": section.shot,
        "row": _label(cell),
        "backbone": cell.backbone,
        "state": cell.state,
        "reason": "; ".join(cell.reasons),
        "stale": "; ".join(cell.doubts),
        "accuracy_percent": _plain(cell.accuracy),
        "ci95": _plain(cell.ci95),
        "sd_of_seeds": _plain(cell.seed_sd),
        "episodes": cell.episodes,
        "seeds_done": len(cell.seeds_done),
        "seeds_planned": len(cell.seeds_planned),
        "best": "yes" if cell.best else "no",
        "paper_percent": _plain(paper.accuracy) if paper else None,
        "paper_ci95": _plain(paper.ci95) if paper else None,
        "paper_dataset": paper.dataset if paper else None,
        "paper_backbone": paper.backbone if paper else None,
        "paper_source": paper.source if paper else None,
        "libfewshot_percent": " / ".join(percent(number.accuracy) for number in cell.library),
        "libfewshot_source": " / ".join(number.source for number in cell.library),
        "minus_paper": _plain(to_paper.difference) if to_paper else None,
        "minus_paper_ci95": _plain(to_paper.ci95) if to_paper else None,
        "minus_paper_verdict": to_paper.verdict if to_paper else None,
        "departures": "; ".join(to_paper.departures) if to_paper else None,
        "baseline": to_base.baseline if to_base else None,
        "minus_baseline": _plain(to_base.difference) if to_base else None,
        "minus_baseline_low": _plain(to_base.low) if to_base else None,
        "minus_baseline_high": _plain(to_base.high) if to_base else None,
        "minus_baseline_in_paper": _plain(to_base.published_difference) if to_base else None,
        "p": f"{to_base.p:.3g}" if to_base and to_base.p is not None else None,
        "p_holm": f"{to_base.p_holm:.3g}" if to_base and to_base.p_holm is not None else None,
        "test": to_base.test if to_base else None,
        "also_differs": "; ".join(to_base.also_differs) if to_base else None,
        "verdict": _verdict(cell).replace(NOTHING, ""),
        "parameters": cell.parameters,
        "records": " ".join(cell.records),
    }


def _plain(fraction: float | None) -> str | None:
    return None if fraction is None else percent(fraction).replace("−", "-")


def to_json(table: Table) -> str:
    """Every number unrounded (accuracies as fractions), with the keys of the records behind it."""
    return table.model_dump_json(indent=1) + "\n"


@dataclass(frozen=True)
class Strip:
    """Where a row's numbers lie on its section's axis: percent of the axis' width."""

    low: float
    width: float
    """Of the interval, from `low` on."""
    mean: float
    paper: float | None


def strips(section: Section) -> list[Strip | None]:
    """A picture of every row's interval, on an axis from the section's lowest to its highest number."""
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
    """The paper's number, where it is of the section's data set and the row's backbone."""
    paper = cell.published
    same = paper is not None and (paper.dataset, paper.backbone) == (section.dataset, cell.backbone)
    return paper.accuracy if paper and same else None


PAGE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def to_html(tables: Sequence[Table], page_title: str, about: str = "") -> str:
    """One page of one or more tables, with nothing outside it."""
    shown = [
        {
            "table": table,
            "title": title(table),
            "columns": [{"text": h.text, "left": h.left} for h in headings(table)],
            "sections": [_section_for_page(table, section) for section in table.sections],
        }
        for table in tables
    ]
    return PAGE.get_template("page.html.jinja").render(page_title=page_title, about=about, tables=shown)


def _section_for_page(table: Table, section: Section) -> dict[str, object]:
    columns = headings(table)
    rows = [
        {
            "cell": cell,
            "strip": strip,
            "texts": [
                {"text": h.value(cell), "left": h.left, "ours": ours, "strong": cell.best and ours}
                for h, ours in ((h, h.value is _ours) for h in columns)
            ],
        }
        for cell, strip in zip(section.cells, strips(section), strict=True)
    ]
    return {"label": section.label, "rows": rows}
