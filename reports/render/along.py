"""Differences from the baseline along a number in which a table's sections differ, such as the length of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from reports.cells import AgainstBaseline, Cell, Section, Table
from reports.render import texts
from reports.render.drawing import COLOURS, band, cleaned, svg
from reports.render.forest import ends, number
from reports.statistics.verdicts import Verdict
from reports.words import verdict as word_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_VALUES, MOST_LINES = 3, 6
"""Values of the number that make a figure, and the rows that it shows."""
HEIGHT = 2.5
APART = 0.07
"""Distance of the rows' points at one value, as a part of the distance between values."""

Line = dict[float, AgainstBaseline]


def along(table: Table, name: str) -> list[tuple[str, list[str], str]]:
    """The figures of a table, one for each task, as label of the task, names of the rows, and `<svg>`.

    There are none if sections differ in anything but one number, or a task has fewer than `LEAST_VALUES` of it.
    """
    figures = []
    for count, (task, sections) in enumerate(_tasks(table)):
        lines = _lines(sections)
        values = sorted({value for line in lines.values() for value in line})
        if len(values) >= LEAST_VALUES and len(lines) <= MOST_LINES:
            title = f"Difference from {table.baseline} against {table.columns[0]}, {task}"
            drawn = svg(f"{name}-{count}", title, _description(lines), HEIGHT, _draw(table.columns[0], lines, values))
            figures.append((task, list(lines), drawn))
    return figures


def _tasks(table: Table) -> Iterator[tuple[str, list[Section]]]:
    """The sections of each data set, way and shot, if they are told apart by one number."""
    if len(table.columns) != 1:
        return
    tasks: dict[tuple[str, int, int], list[Section]] = {}
    for section in table.sections:
        tasks.setdefault((section.dataset, section.way, section.shot), []).append(section)
    for (dataset, way, shot), sections in tasks.items():
        values = [section.settings[0] for section in sections]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(set(numbers)) == len(values):
            of_several = f"{dataset}, " if len({at for at, _, _ in tasks}) > 1 else ""
            yield f"{of_several}{way}-way {shot}-shot", sections


def _lines(sections: list[Section]) -> dict[str, Line]:
    """The differences of each row by the number; rows that have none are left out."""
    lines: dict[str, Line] = {}
    several = len({texts.backbone(cell) for section in sections for cell in section.cells if cell.to_baseline}) > 1
    for section in sections:
        value = section.settings[0]
        assert isinstance(value, (int, float))
        for cell in section.cells:
            if cell.to_baseline and cell.to_baseline.difference is not None:
                lines.setdefault(_name(cell, several), {})[float(value)] = cell.to_baseline
    return lines


def _name(cell: Cell, several: bool) -> str:
    return f"{texts.label(cell)}, {texts.backbone(cell)}" if several else texts.label(cell)


def _description(lines: dict[str, Line]) -> str:
    return " ".join(
        f"{name}: {'; '.join(f'{value:g}: {number(line[value])}, {word_of(line[value])}' for value in sorted(line))}."
        for name, line in lines.items()
    )


def _draw(what: str, lines: dict[str, Line], values: list[float]) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.19, 0.85, 0.75))
        least = [min(line[value].margin for line in lines.values() if value in line) for value in values]
        sides = [place + side for place in range(len(values)) for side in (-0.5, 0.5)]
        band(axes.fill_between, sides, [margin for margin in least for _ in range(2)])
        axes.axhline(0, color=COLOURS["quiet"], linewidth=0.9)
        places = {value: place for place, value in enumerate(values)}
        for count, line in enumerate(lines.values()):
            colour = COLOURS[f"line-{count}"]
            offset = APART * (count - (len(lines) - 1) / 2)
            at = {value: places[value] + offset for value in sorted(line)}
            heights = {value: 100 * (line[value].difference or 0) for value in at}
            axes.plot(list(at.values()), list(heights.values()), color=colour)
            for value, place in at.items():
                low, high = ends(line[value])
                decided = line[value].verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.SAME)
                axes.plot([place, place], [100 * low, 100 * high], color=colour, linewidth=1.2)
                axes.plot(
                    [place],
                    [heights[value]],
                    marker="o",
                    markersize=6,
                    color=colour,
                    markerfacecolor=colour if decided else COLOURS["raised"],
                    markeredgewidth=1.4,
                )
        axes.set_xticks(range(len(values)), [f"{value:,g}" for value in values])
        axes.set_xlim(sides[0], sides[-1])
        axes.margins(y=0.1)
        axes.grid(axis="y")
        axes.set_xlabel(cleaned(what, 60))
        axes.set_ylabel("difference, points")

    return draw
