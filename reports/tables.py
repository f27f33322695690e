"""Planned cells, and the place of each in a table: its row, and its column."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, model_validator

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.facts import Curves, Ended, Tested
from dmf.values import Value
from reports import published
from reports.layouts import TABLE_NAME, RowValue, Scalar, TableLayout, is_same
from reports.published import ABLATED, BACKBONES, DATASETS


class PlannedCell(Value):
    """A cell that a sweep plans to fill: `config`, trained once with each of `seeds` and tested as in `evaluation`."""

    table: Annotated[str, Field(pattern=TABLE_NAME)]
    config: ExperimentConfig
    """The training; `seeds` replace its `training.seed`."""
    evaluation: EvaluationConfig
    """The evaluation, with its shot set (`EvaluationConfig.resolve`)."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    former_keys: tuple[str, ...] = ()
    """For a plan of record format 1: the keys of its trainings, if that format computed them differently."""

    @model_validator(mode="after")
    def _is_resolved(self) -> Self:
        if self.evaluation.shot is None:
            raise ValueError("evaluation.shot is None; set it, or use EvaluationConfig.resolve(config)")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} names a seed twice")
        return self

    @property
    def trainings(self) -> tuple[ExperimentConfig, ...]:
        """One training per seed, in the order of `seeds`."""
        return self.config.with_seeds(self.seeds)

    @property
    def training_keys(self) -> tuple[str, ...]:
        """The keys of `trainings`."""
        return self.former_keys or self.config.keys(self.seeds)

    def of_seed(self, seed: int) -> ExperimentConfig:
        """The training with the given seed."""
        return self.config.replace(training__seed=seed)


class Records(Protocol):
    """A source of records for planned cells: the store's ledger, MLflow, or a dict in a test."""

    def how_ended(self, key: str) -> Ended | None:
        """How a training ended; None if it has not ended."""

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        """The results of one evaluation of a training; None if it has not been evaluated."""

    def running(self, key: str) -> bool:
        """Whether a training that has no record yet is running."""

    def curves(self, key: str) -> Curves | None:
        """A training's curves; None if it has not ended."""


@dataclass(frozen=True, order=True)
class Column:
    """The settings that the cells of a section share."""

    dataset: str
    """The data set of the test episodes."""
    way: int
    shot: int
    """Shots of the test episodes."""
    trained_shot: int
    """Shots of the training; `shot` where that is how a method is published (`published.trained_for`)."""
    split: str
    settings: tuple[str, ...] = ()
    """`name value` of each of the layout's `columns`."""
    trained_on: str = ""
    """The data set of the training, if it is another one."""
    values: tuple[Scalar, ...] = dataclasses.field(default=(), compare=False)
    """Those of the layout's `columns`; `settings` has them in words."""

    @classmethod
    def of(cls, cell: PlannedCell, layout: TableLayout | None = None) -> Column:
        """The column that a planned cell belongs to; without a layout, whatever its other settings."""
        test = cell.evaluation
        assert test.shot is not None
        trained_on = cell.config.data.name
        tested_on = test.data.name if test.data else trained_on
        apart = trained_on if tested_on != trained_on else ""
        settings = layout.settings_of(cell.config) if layout else ()
        values = layout.column_values_of(cell.config) if layout else ()
        trained_shot = test.shot if published.trained_for(cell.config, test.shot) else cell.config.episodes.shot
        return cls(tested_on, test.way, test.shot, trained_shot, test.split, settings, apart, values)

    @property
    def dataset_label(self) -> str:
        """The paper's name for the data set."""
        return DATASETS.get(self.dataset, self.dataset)

    @property
    def task(self) -> str:
        """The task in words, such as `5-way 1-shot`."""
        text = f"{self.way}-way {self.shot}-shot"
        if self.trained_shot != self.shot:
            text += f", trained {self.trained_shot}-shot"
        if self.trained_on:
            text += f", trained on {DATASETS.get(self.trained_on, self.trained_on)}"
        text = text if self.split == "test" else f"{text}, {self.split} classes"
        return ", ".join((text, *self.settings))


@dataclass(frozen=True)
class Row:
    """A row: the value of the layout's parameter, the backbone, and what else tells it from rows with its label."""

    label: str
    name: str
    """The label with its meaning, as in `groups 64`."""
    backbone: str
    published: str | None
    """Method in `published.csv`."""
    value: RowValue = None
    """Value of the layout's parameters; None for methods of the paper that are not implemented here."""
    reference: bool = False
    is_baseline: bool = False
    """Whether the others are compared with it."""
    variant: tuple[str, ...] = ()
    """`path=value` of settings without which two planned cells would share a place."""


Grid = dict[Column, dict[Row, PlannedCell | None]]
"""Planned cells by column and row; None for rows of the paper without a planned cell."""


def arrange(layout: TableLayout, cells: Iterable[PlannedCell]) -> Grid:
    """Put every planned cell into its row and column, add the paper's other rows, and sort both."""
    placed = _place(layout, _merge(layout, [cell for cell in cells if cell.table == layout.name]))
    grid: Grid = {}
    datasets = list(DATASETS)
    columns = list(dict.fromkeys(column for column, _ in placed))  # sections of one task stay in the plan's order
    for column in sorted(columns, key=lambda c: (_index(datasets, c.dataset), dataclasses.replace(c, settings=()))):
        rows: dict[Row, PlannedCell | None] = {row: cell for (at, row), cell in placed.items() if at == column}
        known = {(row.published, published.backbone_in_paper(row.backbone)) for row in rows}
        in_paper = _rows_of_paper(layout, column, [cell for (at, _), cell in placed.items() if at == column])
        rows.update({row: None for row in in_paper if (row.published, row.backbone) not in known})
        grid[column] = {row: rows[row] for row in _sorted(layout, rows)}
    return grid


def _merge(layout: TableLayout, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Merge cells of a row that differ only in their seeds into one cell with all the seeds."""
    seeds: dict[tuple[str, str, str], set[int]] = {}
    first: dict[tuple[str, str, str], PlannedCell] = {}
    for cell in cells:
        # Different rows can share a training: without alignment, the number of groups has no effect.
        key = (layout.label(cell.config), cell.config.replace(training__seed=0).key, cell.evaluation.key)
        first.setdefault(key, cell)
        seeds.setdefault(key, set()).update(cell.seeds)
    return [cell.replace(seeds=sorted(seeds[key])) for key, cell in first.items()]


def _place(layout: TableLayout, cells: Sequence[PlannedCell]) -> dict[tuple[Column, Row], PlannedCell]:
    """Cells by place. If cells share a place, their row is split in all columns by the settings that differ."""
    by_row: dict[Row, list[PlannedCell]] = {}
    for cell in cells:
        reference = layout.is_reference(cell.config)
        label = layout.label(cell.config)
        row = Row(
            label=label,
            name=label if reference else layout.name_of(label),
            backbone=cell.config.model.backbone_name,
            published=layout.published(cell.config),
            value=layout.value_of(cell.config),
            reference=reference,
            is_baseline=layout.is_baseline(cell.config),
        )
        by_row.setdefault(row, []).append(cell)
    placed = {}
    for row, sharing in by_row.items():
        paths = _telling_apart(layout, sharing)
        for cell in sharing:
            flat = _flat(cell)
            variant = tuple(f"{path}={flat[path]}" for path in paths if path in flat)
            placed[Column.of(cell, layout), dataclasses.replace(row, variant=variant)] = cell
    return placed


def _telling_apart(layout: TableLayout, sharing: Sequence[PlannedCell]) -> list[str]:
    """The paths in which cells of a row differ within a column."""
    columns: dict[Column, list[dict[str, Any]]] = {}
    for cell in sharing:
        columns.setdefault(Column.of(cell, layout), []).append(_flat(cell))
    return sorted({path for flats in columns.values() for path in _unequal(flats)})


def _unequal(flats: Sequence[dict[str, Any]]) -> list[str]:
    """Paths that have more than one value; mappings without a path do not count."""
    values: dict[str, set[str]] = {}
    for flat in flats:
        for path, value in flat.items():
            values.setdefault(path, set()).add(repr(value))
    return [path for path, found in values.items() if len(found) > 1]


def _flat(cell: PlannedCell) -> dict[str, Any]:
    test = cell.evaluation.model_dump(mode="json")
    return published.identity(cell.config) | {f"evaluation.{name}": value for name, value in test.items()}


def _rows_of_paper(layout: TableLayout, column: Column, planned: Sequence[PlannedCell]) -> list[Row]:
    """The paper's rows, if the paper has the data set and a cell with ResNet-12 is planned."""
    if (
        column.trained_on
        or column.dataset not in DATASETS
        or all(published.backbone_in_paper(cell.config.model.backbone_name) != "resnet12" for cell in planned)
    ):
        return []
    if not layout.components:
        return [
            Row(method, method, backbone, method)
            for method, backbone in published.methods_of_table_1()
            if published.in_paper(method, backbone, column.dataset, column.way, column.shot)
        ]
    return [
        Row(
            label=(label := layout.label_of(row.value)),
            name=layout.name_of(label),
            backbone=ABLATED[1],
            published=row.published,
            value=row.value,
            is_baseline=is_same(row.value, layout.baseline),
        )
        for row in layout.values
        if row.published
    ]


def _sorted(layout: TableLayout, rows: Iterable[Row]) -> list[Row]:
    """Sort rows: reference rows first, then in the paper's order, with groups by number."""

    def place(row: Row) -> tuple[Any, ...]:
        backbone = _index(list(BACKBONES), row.backbone)
        if not layout.components:
            # Our methods without a row in the paper come before DMF, its last row.
            in_paper = published.backbone_in_paper(row.backbone)
            number = _index(published.methods_of_table_1(), (row.published, in_paper))
            return _index(list(BACKBONES), in_paper), row.published == "DMF", number, *_rest(row)
        if row.reference:
            return 0, row.label, (), *_rest(row)
        return 1, backbone, layout.place_of(row.value), *_rest(row)

    return sorted(rows, key=place)


def _rest(row: Row) -> tuple[Any, ...]:
    return row.label, row.backbone, row.variant


def _index(known: Sequence[Any], name: Any) -> int:
    """Position of a name in a sequence; the sequence's length if it is not there."""
    return known.index(name) if name in known else len(known)


def distance(layout: TableLayout, cell: PlannedCell, other: PlannedCell) -> tuple[int, bool, int, bool]:
    """How far a row is from one that it may be compared with; it is compared with the nearest.

    In order: the number of settings that keep them from being compared, whether they start from different weights, in
    how much their recipes differ, and whether they are tested differently.
    """
    return (
        len(layout.also_differs(cell.config, other.config)),
        published.start_of(cell.config) != published.start_of(other.config),
        len(layout.recipe_differs(cell.config, other.config)),
        cell.evaluation != other.evaluation,
    )
