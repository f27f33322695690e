"""The tables, the meaning of their rows and columns, and the place of each planned cell.

A table is one entry in `TABLES`: the parameter that its rows vary, the rows' names in the paper, and the baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, Self

from pydantic import AfterValidator, Field, model_validator

from dmf.backbones.config import CHANNELS
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.facts import Ended, Tested
from dmf.values import Value
from reports import published
from reports.published import ABLATED, BACKBONES, DATASETS
from reports.statistics.verdicts import MARGIN

METHODS = {
    "dmf": "DMF",
    "proto_net": "ProtoNet",
    "classifier_baseline": "Classifier-Baseline",
    "baseline": "Baseline",
    "baseline_pp": "Baseline++",
    "negative_margin": "Net-Cosine",
    "rfs": "RFS-simple",
    "maml": "MAML",
    "anil": "ANIL",
    "r2d2": "R2D2",
    "metaoptnet_ridge": "MetaOptNet-ridge",
    "metaoptnet_svm": "MetaOptNet-SVM",
    "raw_pixels": "raw pixels, cosine",
}
"""`model.method` -> the method's name in tables."""


@dataclass(frozen=True)
class TableLayout:
    """A table of the paper. Its columns are data set, way and shot of the test episodes."""

    name: str
    title: str
    row_path: str
    """The parameter that the rows vary."""
    row_header: str
    labels: dict[Any, str]
    """Value of the parameter -> row label, in the paper's order."""
    published_as: dict[Any, str]
    """Value of the parameter -> method in `published.csv`."""
    baseline: Any
    """Value of the parameter in the row that the others are compared with."""
    row_name: str = "{}"
    """Format string that turns a row's label into its name outside the table."""
    margin: float = MARGIN
    """Margin of equivalence, in accuracy: a smaller difference counts as none."""
    components: bool = True
    """Whether rows are DMF with one component changed; other methods are then reference rows, listed first."""

    def label(self, config: ExperimentConfig) -> str:
        """The row label of a training."""
        if self.is_reference(config):
            return METHODS[config.model.method]
        value = config.at(self.row_path)
        text = self.labels.get(value, str(value))
        backbone = config.model.backbone_name
        return f"{text} of {CHANNELS[backbone]} channels" if self._other_channels(backbone) else text

    def is_reference(self, config: ExperimentConfig) -> bool:
        """Whether a training is of another method, in a table of DMF's components."""
        return self.components and config.model.method != "dmf"

    def published(self, config: ExperimentConfig) -> str | None:
        """The method in `published.csv` that corresponds to a training's row, if any."""
        if self.is_reference(config) or self._other_channels(config.model.backbone_name):
            return None
        return self.published_as.get(config.at(self.row_path))

    def also_differs(self, config: ExperimentConfig, baseline: ExperimentConfig) -> tuple[str, ...]:
        """Dotted paths, other than the one that the rows vary, in which a row's training differs from its baseline's.

        Settings that one of the two ignores do not count. Between methods, pre-training does not count either, since it
        is part of the method.
        """
        ours, theirs = published.identity(config), published.identity(baseline)
        aside = {self.row_path} if self.components else {self.row_path, "start"}
        return tuple(p for p in ours if p in theirs and p not in aside and ours[p] != theirs[p])

    def distance(self, cell: PlannedCell, baseline: PlannedCell) -> tuple[int, bool, bool]:
        """How far a row is from one of the baseline's rows; rows are compared with the nearest.

        In order: the number of settings that keep them from being compared, whether they start from different weights,
        and whether they are tested differently.
        """
        return (
            len(self.also_differs(cell.config, baseline.config)),
            published.start_of(cell.config) != published.start_of(baseline.config),
            cell.evaluation != baseline.evaluation,
        )

    def _other_channels(self, backbone: str) -> bool:
        """Whether rows are numbers of groups, and the backbone has another number of channels than the paper's."""
        return self.row_path == "model.groups" and CHANNELS.get(backbone) != CHANNELS["resnet12"]


TABLES = {
    layout.name: layout
    for layout in (
        TableLayout(
            name="1",
            title="Comparison with other methods",
            row_path="model.method",
            row_header="method",
            labels=METHODS,
            published_as={
                "dmf": "DMF",
                "proto_net": "ProtoNet",
                "maml": "MAML",
                "negative_margin": "Net-Cosine",
                "metaoptnet_svm": "MetaOptNet",
            },
            baseline="proto_net",
            components=False,
        ),
        TableLayout(
            name="2a",
            title="Dynamic sampling",
            row_path="model.dynamic_sampling",
            row_header="dynamic sampling",
            labels={False: "without dynamic sampling", True: "with dynamic sampling"},
            published_as={False: "DMF without dynamic sampling", True: "DMF with dynamic sampling"},
            baseline=False,
        ),
        TableLayout(
            name="2b",
            title="Last pooling",
            row_path="model.last_pooling",
            row_header="last pooling",
            labels={True: "with last pooling", False: "without last pooling"},
            published_as={True: "DMF with last pooling", False: "DMF without last pooling"},
            baseline=True,
        ),
        TableLayout(
            name="2c",
            title="Number of groups",
            row_path="model.groups",
            row_header="groups",
            labels={groups: str(groups) for groups in (1, 64, 160, 320, 640)},
            published_as={groups: f"DMF groups={groups}" for groups in (1, 64, 160, 320, 640)},
            baseline=1,
            row_name="groups {}",
        ),
        TableLayout(
            name="2d",
            title="Alignment",
            row_path="model.alignment",
            row_header="alignments",
            labels={0: "0", 1: "1", 2: "2", 3: "3", "ode": "ODE"},
            published_as={
                0: "DMF align=0",
                1: "DMF align=1",
                2: "DMF align=2",
                3: "DMF align=3",
                "ode": "DMF align=ODE",
            },
            baseline=0,
            row_name="alignments {}",
        ),
    )
}


def layout_of(name: str) -> TableLayout:
    """The layout of the table called `name`."""
    if name not in TABLES:
        raise ValueError(f"table={name!r} is not a table; choose one of {', '.join(map(repr, TABLES))}")
    return TABLES[name]


def _known(name: str) -> str:
    return layout_of(name).name


class PlannedCell(Value):
    """A cell that a sweep plans to fill: `config`, trained once with each of `seeds` and tested as in `evaluation`."""

    table: Annotated[str, AfterValidator(_known)]
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


@dataclass(frozen=True, order=True)
class Column:
    """The settings that the cells of a section share."""

    dataset: str
    way: int
    shot: int
    """Shots of the test episodes."""
    trained_shot: int
    split: str

    @classmethod
    def of(cls, cell: PlannedCell) -> Column:
        """The column that a planned cell belongs to."""
        test = cell.evaluation
        assert test.shot is not None
        return cls(cell.config.data.name, test.way, test.shot, cell.config.episodes.shot, test.split)

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
        return text if self.split == "test" else f"{text}, {self.split} classes"


@dataclass(frozen=True)
class Row:
    """A row: the value of the layout's parameter, the backbone, and what else tells it from rows with its label."""

    label: str
    name: str
    """The label with its meaning, as in `groups 64`."""
    backbone: str
    published: str | None
    """Method in `published.csv`."""
    value: Any = None
    """Value of the layout's parameter; None for methods of the paper that are not implemented here."""
    reference: bool = False
    variant: tuple[str, ...] = ()
    """`path=value` of settings without which two planned cells would share a place."""


Grid = dict[Column, dict[Row, PlannedCell | None]]
"""Planned cells by column and row; None for rows of the paper without a planned cell."""


def arrange(layout: TableLayout, cells: Iterable[PlannedCell]) -> Grid:
    """Put every planned cell into its row and column, add the paper's other rows, and sort both."""
    placed = _place(layout, _merge(layout, [cell for cell in cells if cell.table == layout.name]))
    grid: Grid = {}
    datasets = list(DATASETS)
    for column in sorted({column for column, _ in placed}, key=lambda c: (_index(datasets, c.dataset), c)):
        rows: dict[Row, PlannedCell | None] = {row: cell for (at, row), cell in placed.items() if at == column}
        known = {(row.published, row.backbone) for row in rows}
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
        model = cell.config.model
        reference = layout.is_reference(cell.config)
        label = layout.label(cell.config)
        row = Row(
            label=label,
            name=label if reference else layout.row_name.format(label),
            backbone=model.backbone_name,
            published=layout.published(cell.config),
            value=model.method if reference else cell.config.at(layout.row_path),
            reference=reference,
        )
        by_row.setdefault(row, []).append(cell)
    placed = {}
    for row, sharing in by_row.items():
        paths = _telling_apart(sharing)
        for cell in sharing:
            flat = _flat(cell)
            variant = tuple(f"{path}={flat[path]}" for path in paths if path in flat)
            placed[Column.of(cell), dataclasses.replace(row, variant=variant)] = cell
    return placed


def _telling_apart(sharing: Sequence[PlannedCell]) -> list[str]:
    """The paths in which cells of a row differ within a column."""
    columns: dict[Column, list[dict[str, Any]]] = {}
    for cell in sharing:
        columns.setdefault(Column.of(cell), []).append(_flat(cell))
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
    if column.dataset not in DATASETS or all(cell.config.model.backbone_name != "resnet12" for cell in planned):
        return []
    if not layout.components:
        return [
            Row(method, method, backbone, method)
            for method, backbone in published.methods_of_table_1()
            if published.in_paper(method, backbone, column.dataset, column.way, column.shot)
        ]
    return [
        Row(label, layout.row_name.format(label), ABLATED[1], layout.published_as[value], value)
        for value, label in layout.labels.items()
    ]


def _sorted(layout: TableLayout, rows: Iterable[Row]) -> list[Row]:
    """Sort rows: reference rows first, then in the paper's order, with groups by number."""

    def place(row: Row) -> tuple[Any, ...]:
        backbone = _index(list(BACKBONES), row.backbone)
        if not layout.components:
            # Our methods without a row in the paper come before DMF, its last row.
            number = _index(published.methods_of_table_1(), (row.published, row.backbone))
            return backbone, row.published == "DMF", number, *_rest(row)
        if row.reference:
            return 0, row.label, 0, *_rest(row)
        number = row.value if layout.row_path == "model.groups" else list(layout.labels).index(row.value)
        return 1, backbone, number, *_rest(row)

    return sorted(rows, key=place)


def _rest(row: Row) -> tuple[Any, ...]:
    return row.label, row.backbone, row.variant


def _index(known: Sequence[Any], name: Any) -> int:
    """Position of a name in a sequence; the sequence's length if it is not there."""
    return known.index(name) if name in known else len(known)
