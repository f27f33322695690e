"""What a table compares: the parameter that its rows vary, their names, their baseline, what else is compared.

The paper's tables are `layouts.yaml`; a sweep file describes others in the same form.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, field_validator, model_validator

from dmf.backbones.config import CHANNELS, BackboneConfig
from dmf.config import ExperimentConfig
from dmf.config.methods import has
from dmf.values import Value
from reports import published
from reports.statistics.verdicts import MARGIN

SHIPPED = Path(__file__).with_name("layouts.yaml")
Scalar = bool | int | float | str | None
"""The value of one parameter."""
RowValue = Scalar | tuple[Scalar, ...]
"""A row's value: that of its parameter, or one for each of its parameters."""
TABLE_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
"""A table's name is also part of file names."""
YES, NO = "✓", "–"
"""How a table of components prints true and false."""


class NamedRow(Value):
    """A row that is known by name before anything is planned."""

    value: RowValue
    """The value of the rows' parameter, or a list with one for each parameter."""
    label: str = ""
    """Empty: the value as text."""
    published: str | None = None
    """Method in `published.csv`."""


class TableLayout(Value):
    """A table. Its sections are data set, way and shot of the test episodes, and the values of `columns`."""

    name: Annotated[str, Field(pattern=TABLE_NAME)]
    """A name of its own, or that of one of the paper's tables, which is then changed where the description says so."""
    title: Annotated[str, Field(max_length=200)]
    """The heading."""
    rows: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Dotted path of the parameter that the rows vary; several make a table of components."""
    columns: tuple[str, ...] = ()
    """Dotted paths of parameters of which each combination of values is a section of its own."""
    baseline: RowValue
    """The row that the others are compared with."""
    compare: tuple[tuple[RowValue, RowValue], ...] = ()
    """Further pairs of rows, of which the first is compared with the second."""
    values: tuple[NamedRow, ...] = ()
    """Labels, in the order of the rows. Other values have their text as label, and follow in order."""
    header: str = ""
    """Heading of the rows; empty: the parameter's name."""
    row_name: str = ""
    """Format string that turns a label into the row's name outside the table; empty: the parameter and the label."""
    method: str | None = None
    """The method that the rows vary; others are reference rows, which nothing is compared with. None: any method that
    has the rows' parameters."""
    margin: Annotated[float, Field(gt=0, lt=0.5)] = MARGIN
    """Margin of equivalence, in accuracy: a smaller difference counts as none. Near 100 % it is smaller."""

    @field_validator("rows")
    @classmethod
    def _single(cls, rows: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return rows[0] if isinstance(rows, tuple) and len(rows) == 1 else rows

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for row in self.rows_named:
            values = row if isinstance(row, tuple) else (row,)
            if len(values) != len(self.row_paths) or (isinstance(row, tuple) and len(values) == 1):
                raise ValueError(f"table {self.name}: row {row!r} is not one value for each of {list(self.row_paths)}")
        if both := set(self.row_paths) & set(self.columns):
            raise ValueError(f"table {self.name}: {', '.join(sorted(both))} is in rows and in columns; keep one")
        if same := next((pair for pair in self.compare if is_same(*pair)), None):
            raise ValueError(f"table {self.name}: compare has row {same[0]!r} with itself")
        return self

    @property
    def rows_named(self) -> tuple[RowValue, ...]:
        """The values of all the rows that the description names."""
        compared = (row for pair in self.compare for row in pair)
        return self.baseline, *compared, *(row.value for row in self.values)

    @functools.cached_property
    def row_paths(self) -> tuple[str, ...]:
        """The paths of `rows`."""
        return (self.rows,) if isinstance(self.rows, str) else self.rows

    @property
    def components(self) -> bool:
        """Whether rows are one method with components changed, rather than different methods."""
        return "model.method" not in self.row_paths

    @property
    def row_header(self) -> str:
        """The heading of the rows."""
        return self.header or ", ".join(map(_leaf, self.row_paths))

    @property
    def component_names(self) -> tuple[str, ...]:
        """If rows vary several parameters, the names of these."""
        return tuple(map(_leaf, self.row_paths)) if len(self.row_paths) > 1 else ()

    def value_of(self, config: ExperimentConfig) -> RowValue:
        """The value of a training's row; of a reference row, the method."""
        if self.is_reference(config):
            return config.model.method
        values = tuple(config.at(path) for path in self.row_paths)
        return values if len(values) > 1 else values[0]

    def label_of(self, value: RowValue) -> str:
        """The label of a row by its value."""
        known = self._named(value)
        if known and known.label:
            return known.label
        if isinstance(value, tuple):
            return ", ".join(f"{_leaf(path)} {_mark(v)}" for path, v in zip(self.row_paths, value, strict=True))
        if isinstance(value, bool):
            return f"{'with' if value else 'without'} {_leaf(self.row_paths[0])}"
        return str(value)

    def marks_of(self, value: RowValue) -> tuple[str, ...]:
        """In a table of several components, what each column of the row's shows; else nothing."""
        return tuple(map(_mark, value)) if isinstance(value, tuple) else ()

    def label(self, config: ExperimentConfig) -> str:
        """The row label of a training."""
        if self.is_reference(config):
            return method_label(config.model.method)
        text = self.label_of(self.value_of(config))
        backbone = config.model.backbone_name
        return f"{text} of {CHANNELS[backbone]} channels" if self.other_channels(backbone) else text

    def name_of(self, label: str) -> str:
        """A row's name outside the table, from its label."""
        if self.row_name:
            return self.row_name.format(label)
        leaf = _leaf(self.row_paths[0])
        return label if leaf in label else f"{leaf} {label}"

    @property
    def baseline_name(self) -> str:
        """The name of the baseline's row."""
        return self.name_of(self.label_of(self.baseline))

    def is_baseline(self, config: ExperimentConfig) -> bool:
        """Whether a training is of the baseline's row."""
        return not self.is_reference(config) and is_same(self.value_of(config), self.baseline)

    def is_reference(self, config: ExperimentConfig) -> bool:
        """Whether a training is of a method that the rows do not vary."""
        method = config.model.method
        if not self.components:
            return False
        if self.method is not None:
            return method != self.method
        return not config.model.learns or any(not has(method, path) for path in self.row_paths)

    def published(self, config: ExperimentConfig) -> str | None:
        """The method in `published.csv` that corresponds to a training's row, if any."""
        if self.is_reference(config) or self.other_channels(config.model.backbone_name):
            return None
        known = self._named(self.value_of(config))
        return known.published if known else None

    def other_channels(self, backbone: str) -> bool:
        """Whether rows are numbers of groups, and the backbone has another number of channels than the paper's."""
        return self.rows == "model.groups" and CHANNELS.get(backbone) != CHANNELS["resnet12"]

    def also_differs(self, config: ExperimentConfig, baseline: ExperimentConfig) -> tuple[str, ...]:
        """Dotted paths, other than those that the rows vary, in which a row's training differs from its baseline's.

        Settings that one of the two ignores do not count. Between methods, neither pre-training nor the recipe counts,
        since they are part of a method; `recipe_differs` tells the recipe: schedule, training episodes, augmentation,
        and what the backbone's last map is.
        """
        aside = {*self.row_paths} if self.components else {*self.row_paths, "start"}
        return tuple(
            path
            for path in _differing(config, baseline)
            if path not in aside and (self.components or not _of_recipe(path))
        )

    def recipe_differs(self, config: ExperimentConfig, baseline: ExperimentConfig) -> tuple[str, ...]:
        """In a table of methods, the dotted paths of the recipe in which two trainings differ."""
        return () if self.components else tuple(path for path in _differing(config, baseline) if _of_recipe(path))

    def settings_of(self, config: ExperimentConfig) -> tuple[str, ...]:
        """`name value` of each of `columns`; `no name` for a method without the parameter."""
        values = self.column_values_of(config)
        return tuple(
            f"{_leaf(path)} {_mark(value)}" if has(config.model.method, path) else f"no {_leaf(path)}"
            for path, value in zip(self.columns, values, strict=True)
        )

    def column_values_of(self, config: ExperimentConfig) -> tuple[Scalar, ...]:
        """The value of each of `columns`; None for a method without the parameter."""
        return tuple(config.at(path) if has(config.model.method, path) else None for path in self.columns)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The name of each parameter in `columns`."""
        return tuple(map(_leaf, self.columns))

    def place_of(self, value: RowValue) -> tuple[Any, ...]:
        """Sorts rows: by number if all that are known are numbers, else in the order of `values`, the others last."""
        if _is_number(value) and all(_is_number(row.value) for row in self.values):
            return 0, value
        for place, row in enumerate(self.values):
            if is_same(row.value, value):
                return 0, place
        return (1, value) if _is_number(value) else (2, str(value))

    def _named(self, value: RowValue) -> NamedRow | None:
        return next((row for row in self.values if is_same(row.value, value)), None)


def is_same(one: RowValue, other: RowValue) -> bool:
    """Whether two values are equal; true is not 1."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def read_layouts(path: Path = SHIPPED) -> dict[str, TableLayout]:
    """The layouts in a file, by name."""
    found = [TableLayout.from_dict(each) for each in yaml.safe_load(path.read_text(encoding="utf-8"))]
    return {layout.name: layout for layout in found}


TABLES = read_layouts()
"""The paper's tables, in its order."""


def method_label(method: str) -> str:
    """A method's name in tables, as Table 1 has it."""
    return TABLES["1"].label_of(method)


def in_order(names: Sequence[str]) -> list[str]:
    """Distinct names of tables: the paper's first, in its order, then the others as they come."""
    known = [name for name in TABLES if name in names]
    return known + [name for name in dict.fromkeys(names) if name not in TABLES]


def _differing(config: ExperimentConfig, other: ExperimentConfig) -> list[str]:
    """The dotted paths of settings that both trainings read, and that differ."""
    ours, theirs = published.identity(config), published.identity(other)
    return [path for path in ours if path in theirs and ours[path] != theirs[path]]


def _of_recipe(path: str) -> bool:
    section, _, name = path.partition(".")
    if section == "model":
        return name != "backbone" and name in BackboneConfig.model_fields
    return section in ("episodes", "validation", "augmentation") or (section == "training" and name != "precision")


def _leaf(path: str) -> str:
    return path.rpartition(".")[2].replace("_", " ")


def _mark(value: Scalar) -> str:
    return (YES if value else NO) if isinstance(value, bool) else str(value)


def _is_number(value: RowValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
