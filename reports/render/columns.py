"""The columns of a table, defined once for all formats. JSON has none: it is the table itself, unrounded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from reports.cells import Cell, Table
from reports.render import fields, groups, texts
from reports.render.fields import Fields, plain
from reports.render.texts import NOTHING


class Part(Enum):
    """What a column is about. The columns of a part may go to a table of their own."""

    RESULT = "result"
    COMPARISON = "comparison"
    """It compares a row with another one or with the paper."""
    COST = "cost"
    """It says what trainings and tests take; formats with little room leave it out, unless methods are compared."""


@dataclass(frozen=True)
class Column:
    """A column: its text for a cell, and the CSV fields that correspond to it."""

    heading: str
    text: Callable[[Cell], str]
    fields: Callable[[Cell], Fields]
    short: str = ""
    """The heading where there is little room and a caption says the rest; empty: as `heading`."""
    order: Callable[[Cell], float | None] | None = None
    """What a page sorts by, if not the text; None for a cell comes last."""
    left: bool = False
    """Whether it is aligned left."""
    of_row: bool = False
    """Whether it identifies the row."""
    ours: bool = False
    """Whether it holds our accuracy, which is bold if it is among the best."""
    verdict: bool = False
    """Whether HTML pages colour its values better and worse."""
    part: Part = Part.RESULT
    unbroken: bool = False
    """Whether its text stays on one line."""
    optional: bool = False
    """Whether it is left out if no cell has a value."""
    roomy: bool = False
    """Whether only formats with room for it have it: HTML, Markdown and CSV."""

    def is_empty(self, cell: Cell) -> bool:
        """Whether the column has no value for a cell."""
        return self.text(cell) == NOTHING

    def is_strong(self, cell: Cell) -> bool:
        """Whether a cell's text is bold."""
        return self.ours and cell.best


def columns(table: Table) -> list[Column]:
    """All columns of a table, in the order that every format uses."""
    return [
        *_names(table),
        Column("backbone", texts.backbone, lambda cell: {"backbone": cell.backbone}, left=True, of_row=True),
        Column("protocol", texts.protocol, lambda cell: {"protocol": cell.protocol or None}, left=True, optional=True),
        Column(
            table.published_header,
            texts.published,
            fields.published,
            short="paper",
            order=lambda cell: cell.published.accuracy if cell.published else None,
            unbroken=True,
            optional=True,
        ),
        Column("LibFewShot", texts.library, fields.library, optional=True),
        Column("ours", texts.ours, fields.ours, order=lambda cell: cell.accuracy, ours=True, unbroken=True),
        Column(
            "sd of seeds",
            texts.seed_sd,
            lambda cell: {"sd_of_seeds": plain(cell.seed_sd)},
            order=lambda cell: cell.seed_sd,
            unbroken=True,
            optional=True,
        ),
        Column(
            "total",
            texts.total,
            lambda cell: {"total_ci95": plain(cell.total_ci95)},
            order=lambda cell: cell.total_ci95,
            unbroken=True,
            optional=True,
        ),
        Column(
            "other classes",
            texts.over_classes,
            lambda cell: {"other_classes_ci95": plain(cell.classes_ci95)},
            order=lambda cell: cell.classes_ci95,
            unbroken=True,
            optional=True,
            roomy=True,
        ),
        Column(
            "episodes", texts.episodes, lambda cell: {"episodes": cell.episodes}, order=lambda cell: cell.episodes or 0
        ),
        Column(
            "seeds",
            texts.seeds,
            lambda cell: {"seeds_done": len(cell.seeds_done), "seeds_planned": len(cell.seeds_planned)},
            order=lambda cell: len(cell.seeds_done),
            unbroken=True,
        ),
        *_comparisons(table),
        *_costs(),
    ]


def _names(table: Table) -> list[Column]:
    """The row's name or, in a table of several components, one column for each."""
    names = (table.row_header,) if not table.components else table.components
    found = []
    for place, heading in enumerate(names):
        text = functools.partial(texts.component, place) if table.components else texts.label
        found.append(Column(heading, text, _row_fields if place == 0 else _no_fields, left=True, of_row=True))
    return found


def _row_fields(cell: Cell) -> Fields:
    return {"row": texts.label(cell)}


def _no_fields(cell: Cell) -> Fields:
    return {}


def _comparisons(table: Table) -> list[Column]:
    return [
        Column(
            "ours − paper",
            texts.to_published,
            fields.to_published,
            order=lambda cell: cell.to_published.difference if cell.to_published else None,
            part=Part.COMPARISON,
            optional=True,
        ),
        Column(
            "differs from published in",
            texts.departures,
            lambda cell: {"differs_from_published_in": "; ".join(cell.departures or ())},
            part=Part.COMPARISON,
            optional=True,
            roomy=True,
        ),
        Column(
            f"ours − {table.baseline}",
            texts.to_baseline,
            fields.to_baseline,
            short="ours − baseline",
            order=lambda cell: cell.to_baseline.difference if cell.to_baseline else None,
            part=Part.COMPARISON,
            unbroken=True,
            optional=True,
        ),
        Column(
            "in paper",
            texts.in_paper,
            fields.in_paper,
            order=lambda cell: cell.to_baseline.published_difference if cell.to_baseline else None,
            part=Part.COMPARISON,
            optional=True,
        ),
        Column(
            "p (Holm)",
            texts.p_holm,
            fields.p_holm,
            order=lambda cell: cell.to_baseline.p_holm if cell.to_baseline else None,
            part=Part.COMPARISON,
            optional=True,
        ),
        Column("verdict", texts.verdict, fields.verdict, left=True, part=Part.COMPARISON, verdict=True),
        Column(
            f"ours − {table.baseline}, other classes",
            texts.other_classes,
            fields.other_classes,
            part=Part.COMPARISON,
            optional=True,
            roomy=True,
        ),
    ]


def _costs() -> list[Column]:
    return [
        Column(
            "parameters",
            texts.parameters,
            lambda cell: {"parameters": cell.parameters},
            order=lambda cell: cell.parameters,
            part=Part.COST,
            optional=True,
        ),
        Column(
            "GFLOP per image",
            texts.image_gflops,
            lambda cell: {"image_flops": cell.image_flops},
            order=lambda cell: cell.image_flops,
            part=Part.COST,
            optional=True,
        ),
        Column(
            "training",
            texts.training,
            lambda cell: {
                "training_seconds": _rounded(cell.training_seconds),
                "training_minutes": _rounded(cell.training_minutes),
                "minutes_of": None if cell.training_minutes is None else texts.minutes_of(cell),
            },
            order=lambda cell: cell.training_minutes,
            part=Part.COST,
            unbroken=True,
            optional=True,
        ),
        Column(
            "pre-training",
            texts.pre_training,
            lambda cell: {"pre_trained": _yes(cell.pre_trained), "pre_training_minutes": _rounded(cell.stage_minutes)},
            order=lambda cell: cell.stage_minutes,
            part=Part.COST,
            unbroken=True,
            optional=True,
        ),
        Column(
            "ms per test episode",
            texts.episode_time,
            lambda cell: {"test_episode_ms": texts.episode_milliseconds(cell)},
            order=lambda cell: cell.episode_seconds,
            part=Part.COST,
            optional=True,
        ),
        Column(
            "peak memory",
            texts.memory,
            lambda cell: {"peak_bytes": cell.peak_bytes},
            order=lambda cell: cell.peak_bytes,
            part=Part.COST,
            unbroken=True,
            optional=True,
        ),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def printed(table: Table, roomy: bool = False) -> list[Column]:
    """The columns that a table prints: without optional columns that are empty, and without a backbone that is clear.

    It is clear where there is one, and where rows stand under a heading that names theirs (`groups`). `roomy` says
    whether the format has room for all.
    """
    cells = [cell for section in table.sections for cell in section.cells]
    told = groups.need_column(table)
    return [
        column
        for column in columns(table)
        if (told or column.text is not texts.backbone)
        and (roomy or not column.roomy)
        and not (column.optional and all(column.is_empty(cell) for cell in cells))
    ]


def title(table: Table) -> str:
    """The full title, such as `Table 2c: Number of groups`."""
    return f"Table {table.name}: {table.title}"
