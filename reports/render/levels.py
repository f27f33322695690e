"""Accuracy against the parameter that a table's rows vary, beside or over the published numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from reports.cells import Cell, Section, Table
from reports.layouts import RowValue
from reports.published import BACKBONES
from reports.render import texts
from reports.render.drawing import COLOURS, cleaned, svg
from reports.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 6
"""Backbones and variants that one figure shows."""
MOST_NAMES, LONGEST_NAME = 8, 10
"""How many values there may be that are no numbers, and the length of their labels."""
HEIGHT = 2.5

Lines = dict[str, list[Cell]]
"""Our cells by backbone and variant, or cells with published numbers by the backbone that these are of."""


def levels(table: Table, section: Section, name: str) -> str:
    """The figure of one section as `<svg>`; empty if its values do not fit, or fewer than two rows are done."""
    lines = _lines(section)
    if not 0 < len(lines) <= MOST_LINES or max(sum(_is_done(cell) for cell in line) for line in lines.values()) < 2:
        return ""
    title = f"Accuracy against {table.row_header}, {section.label}"
    return svg(name, title, _description(table, lines), HEIGHT, lambda figure: _draw(figure, table, lines))


def legend(table: Table, section: Section) -> list[tuple[str, str, str]]:
    """Colour, mark and name of each line of a figure; those of one backbone, ours and the paper's, share a colour."""
    lines = _lines(section)
    several = len(lines) > 1
    ours = [(_colour(lines, name), "●", name if several else "ours") for name in lines]
    papers = _published(lines)
    return ours + [(_colour_in_paper(lines, each), "◇", _paper(table, lines, each)) for each in papers]


def _lines(section: Section) -> Lines:
    """The cells of each backbone and variant, by their values if all are numbers, else in the table's order."""
    cells = [cell for cell in section.cells if cell.value is not None and (_is_done(cell) or cell.published)]
    if _are_numbers(cells):
        cells.sort(key=_number)
    elif len(_values(cells)) > MOST_NAMES or any(len(cell.label) > LONGEST_NAME for cell in cells):
        return {}
    lines: Lines = {}
    for cell in cells:
        lines.setdefault(", ".join((texts.backbone(cell), *cell.variant)), []).append(cell)
    return {name: line for name, line in lines.items() if any(map(_is_done, line))}


def _number(cell: Cell) -> float:
    return float(cell.value) if isinstance(cell.value, (int, float)) else 0.0


def _values(cells: Iterable[Cell]) -> list[RowValue]:
    """The distinct values, in order."""
    return list(dict.fromkeys(cell.value for cell in cells if cell.value is not None))


def _are_numbers(cells: Iterable[Cell]) -> bool:
    return all(isinstance(cell.value, (int, float)) and not isinstance(cell.value, bool) for cell in cells)


def _is_done(cell: Cell) -> bool:
    return cell.accuracy is not None


def _published(lines: Lines) -> Lines:
    """For each backbone that drawn rows have in the paper one cell for each value that the paper has, in order."""
    found: dict[str, dict[RowValue, Cell]] = {}
    for cell in (cell for line in lines.values() for cell in line):
        if cell.published:
            found.setdefault(cell.published.backbone, {})[cell.value] = cell
    order = _order(lines)
    return {backbone: [cells[value] for value in order if value in cells] for backbone, cells in found.items()}


def _paper(table: Table, lines: Lines, backbone: str) -> str:
    """What the published numbers for a backbone are called; the backbone is named where it is not clear."""
    named = BACKBONES.get(backbone, backbone)
    header = table.published_header
    return header if len(lines) == 1 or named in header else f"{header}, {named}"


def _colour(lines: Lines, name: str) -> str:
    return f"line-{list(lines).index(name)}" if len(lines) > 1 else "ours"


def _colour_in_paper(lines: Lines, backbone: str) -> str:
    """That of our first line with the backbone, if the paper's numbers are of several; Table 2 has them for one."""
    if len(_published(lines)) == 1:
        return "paper"
    first = next(n for n, line in lines.items() if any(c.published and c.published.backbone == backbone for c in line))
    return _colour(lines, first)


def _order(lines: Lines) -> list[RowValue]:
    cells = [cell for line in lines.values() for cell in line]
    return _values(sorted(cells, key=_number) if _are_numbers(cells) else cells)


def _description(table: Table, lines: Lines) -> str:
    def listed(cells: Iterable[Cell]) -> str:
        return "; ".join(f"{cell.label}: {texts.ours(cell)}" for cell in cells if _is_done(cell))

    parts = [f"Ours, {name}: {listed(line)}." for name, line in lines.items()]
    for backbone, cells in _published(lines).items():
        numbers = "; ".join(f"{c.label}: {percent(c.published.accuracy)}" for c in cells if c.published)
        parts.append(f"{_paper(table, lines, backbone)}: {numbers}.")
    return " ".join(parts)


def _draw(figure: Figure, table: Table, lines: Lines) -> None:
    axes = figure.add_axes((0.13, 0.19, 0.85, 0.75))
    values = _order(lines)
    cells = [cell for line in lines.values() for cell in line]
    names = {cell.value: f"{cell.value:g}" if _are_numbers(cells) else cell.label for cell in cells}
    joined = "-" if _are_numbers(cells) else "none"
    at = {value: place for place, value in enumerate(values)}
    for backbone, line in _published(lines).items():
        axes.plot(
            [at[cell.value] - 0.05 * (joined == "none") for cell in line if cell.value is not None],
            [100 * cell.published.accuracy for cell in line if cell.published],
            color=COLOURS[_colour_in_paper(lines, backbone)],
            linestyle="--" if joined == "-" else "none",
            marker="D",
            markersize=5,
            markerfacecolor="none",
            markeredgewidth=1.3,
        )
    for number, (name, line) in enumerate(lines.items()):
        done = [cell for cell in line if _is_done(cell)]
        axes.errorbar(
            [at[cell.value] + 0.05 * (number + (joined == "none")) for cell in done if cell.value is not None],
            [100 * (cell.accuracy or 0) for cell in done],
            yerr=[100 * (cell.ci95 or 0) for cell in done],
            color=COLOURS[_colour(lines, name)],
            linestyle=joined,
            marker="o",
            markersize=5,
            capsize=3,
        )
    axes.set_xticks(range(len(values)), [cleaned(names[value]) for value in values])
    axes.margins(x=0.06, y=0.12)
    axes.grid(axis="y")
    axes.set_xlabel(cleaned(table.row_header, 60))
    axes.set_ylabel("accuracy, %")
