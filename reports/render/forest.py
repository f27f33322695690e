"""A forest plot: each row's difference from its baseline with its interval, and the paper's difference beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.cells import AgainstBaseline, Cell, Section, Table
from reports.render import texts
from reports.render.drawing import COLOURS, band, cleaned, svg
from reports.statistics.verdicts import Verdict
from reports.words import interval, percent
from reports.words import verdict as word_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 60
"""Rows that one figure shows; a table with more has them in its columns only."""
ROW, HEADING, AXIS = 0.34, 0.3, 0.5
"""Heights in inches."""
LONGEST_NAME = 34
WIDEST = 3.0
"""How far the axis reaches, in multiples of the largest difference; intervals that go further end in an arrow."""

Rows = list[tuple[Section, list[tuple[Cell, AgainstBaseline]]]]


def forest(table: Table, name: str) -> str:
    """The figure of a table as `<svg>`; empty if it has no difference, or more than `MOST_ROWS`."""
    rows = _rows(table)
    count = sum(len(found) for _, found in rows)
    if not 0 < count <= MOST_ROWS:
        return ""
    height = ROW * count + HEADING * len(rows) + AXIS
    title = f"Differences from {table.baseline}, in percentage points"
    return svg(name, title, _description(rows), height, lambda figure: _draw(figure, rows, height))


def _rows(table: Table) -> Rows:
    found: Rows = []
    for section in table.sections:
        pairs = [(c, c.to_baseline) for c in section.cells if c.to_baseline and c.to_baseline.difference is not None]
        if pairs:
            found.append((section, pairs))
    return found


def _description(rows: Rows) -> str:
    return " ".join(
        f"{section.label}, {texts.label(cell)}: {number(against)}"
        + (
            f", in the paper {percent(against.published_difference, signed=True)}"
            if against.published_difference is not None
            else ""
        )
        + f", {word_of(against)}."
        for section, found in rows
        for cell, against in found
    )


def number(against: AgainstBaseline) -> str:
    """A difference with its interval, as `ends` has it."""
    low, high = ends(against)
    return f"{percent(against.difference or 0, signed=True)} {interval(low, high)}"


def ends(against: AgainstBaseline) -> tuple[float, float]:
    """The interval of the methods; with one seed, under the sd that is taken for the seeds."""
    low = against.method_low if against.method_low is not None else against.low
    high = against.method_high if against.method_high is not None else against.high
    assert low is not None and high is not None
    return low, high


def _axis(rows: Rows) -> tuple[float, float]:
    """The ends of the axis, which holds every difference and margin, and of the intervals what `WIDEST` allows."""
    every = [against for _, found in rows for _, against in found]
    numbers = [each.difference or 0 for each in every] + [each.published_difference or 0 for each in every]
    margin = max(each.margin for each in every)
    low, high = min([*numbers, -2 * margin]), max([*numbers, 2 * margin])
    furthest = WIDEST * max(-low, high)
    low = max(min([low, *(ends(each)[0] for each in every)]), -furthest)
    high = min(max([high, *(ends(each)[1] for each in every)]), furthest)
    space = 0.03 * (high - low)
    return low - space, high + space


def _draw(figure: Figure, rows: Rows, height: float) -> None:
    axes = figure.add_axes((0.02, (AXIS - 0.04) / height, 0.96, 1 - (AXIS - 0.04) / height))
    axis = _axis(rows)
    axes.set_xlim(100 * axis[0], 100 * axis[1])
    axes.set_ylim(height - AXIS, 0)
    _draw_band(axes, rows)
    axes.axvline(0, color=COLOURS["quiet"], linewidth=0.9)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference from the baseline, percentage points")
    place = 0.0
    for section, found in rows:
        _text(axes, 0, place + 0.2, section.label, "left", fontweight="bold")
        place += HEADING
        for cell, against in found:
            _draw_row(axes, cell, against, place, axis)
            place += ROW


def _draw_band(axes: Any, rows: Rows) -> None:
    """Each row's margin, which a section's heading shares with its first row."""
    sides, margins, place = [], [], 0.0
    for _, found in rows:
        heading = HEADING
        for _, against in found:
            sides += [place, place := place + heading + ROW]
            margins += [against.margin] * 2
            heading = 0.0
    band(axes.fill_betweenx, sides, margins)


def _draw_row(axes: Any, cell: Cell, against: AgainstBaseline, place: float, axis: tuple[float, float]) -> None:
    label = cleaned(texts.label(cell), LONGEST_NAME)
    _text(axes, 0, place + 0.1, label, "left")
    _text(axes, 1, place + 0.1, number(against), "right", color=COLOURS["quiet"])
    at, decided = place + 0.22, against.verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.SAME)
    low, high = ends(against)
    _line(axes, (low, high), at, axis, 1.6)
    if against.is_of_models and against.low is not None and against.high is not None:
        _line(axes, (against.low, against.high), at, axis, 4)
    if against.published_difference is not None:
        axes.plot(
            [100 * against.published_difference],
            [at],
            marker="D",
            markersize=6,
            color=COLOURS["paper"],
            markerfacecolor="none",
            markeredgewidth=1.4,
        )
    axes.plot(
        [100 * (against.difference or 0)],
        [at],
        marker="o",
        markersize=6,
        color=COLOURS["ours"],
        markerfacecolor=COLOURS["ours"] if decided else COLOURS["raised"],
        markeredgewidth=1.4,
    )


def _line(axes: Any, ends: Sequence[float], at: float, axis: tuple[float, float], width: float) -> None:
    """An interval; an end beyond the axis is an arrow at its edge."""
    low, high = max(ends[0], axis[0]), min(ends[1], axis[1])
    axes.plot([100 * low, 100 * high], [at, at], color=COLOURS["ours"], linewidth=width)
    for beyond, edge, marker in ((ends[0] < axis[0], low, "<"), (ends[1] > axis[1], high, ">")):
        if beyond:
            axes.plot([100 * edge], [at], marker=marker, markersize=5, color=COLOURS["ours"], clip_on=False)


def _text(axes: Any, x: float, y: float, text: str, align: str, **how: Any) -> None:
    """Text at a fraction `x` of the width, on the line `y` inches from the top."""
    axes.text(x, y, cleaned(text), ha=align, va="baseline", transform=axes.get_yaxis_transform(), **how)
