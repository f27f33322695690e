"""The model of a sweep file: which configurations fill which tables.

A sweep starts from a recipe (`base`), overrides dotted paths of it (`set`) and has parts. A part fills one table with
(rows of `zip`) x (product of `grid`) x (`trials`). A search has `search` instead of parts.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)

from dmf.config import (
    METHODS,
    NOT_IDENTITY,
    RECIPES,
    EvaluationConfig,
    ExperimentConfig,
    OtherDataConfig,
    no_recipe,
    recipe,
)
from dmf.config.methods import has
from dmf.config.parameters import PARAMETERS as EVERY_PARAMETER
from dmf.machine.paths import expanded
from dmf.values import Count, Seed, Value, shown
from reports.claims import Claim
from reports.layouts import TABLE_NAME, TABLES, RowValue, TableLayout

SECTIONS = tuple(ExperimentConfig.model_fields)
GIVEN_BY_SEEDS = "training.seed"
MOST_CHOICES = 10_000
"""The most combinations of one part."""
SWEEP_NAME = r"^[a-z0-9][a-z0-9_-]{0,99}$"
"""A sweep's name is also the name of folders."""


PARAMETERS = {path: type_ for path, type_ in EVERY_PARAMETER.items() if path != GIVEN_BY_SEEDS}
"""Dotted path -> its type and range, of what a sweep file may set."""
NEVER_VARIED = frozenset(f"{section}.{name}" for section, names in NOT_IDENTITY.items() for name in names)
"""Where and with what a training runs. The training is the same whatever they are, so a sweep cannot vary them."""


class _Paths(Value):
    """Values by dotted path."""

    def given(self) -> dict[str, Any]:
        """Only what the file sets: dotted path -> plain value."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _by_path(name: str, kind: Any, without: frozenset[str] = NEVER_VARIED) -> Any:
    """A model with one optional field per parameter; `kind` turns a parameter's type into the field's type."""
    fields: dict[str, Any] = {
        path.replace(".", "__"): (kind(type_), Field(default=None, alias=path))
        for path, type_ in PARAMETERS.items()
        if path not in without
    }
    return create_model(name, __base__=_Paths, **fields)


Settings: Any = _by_path("Settings", lambda type_: type_, without=frozenset())
Varied: Any = _by_path("Varied", lambda type_: type_)
Choices: Any = _by_path(
    "Choices",
    lambda type_: Annotated[tuple[type_, ...], Field(min_length=1)],  # type: ignore[valid-type]  # made at run time
)


def _anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with absolute paths, because workers run in other folders."""
    paths = {path: value for path in ("data.root", "model.weights") if (value := settings.get(path))}
    return settings | {path: str(Path(expanded(value, path)).absolute()) for path, value in paths.items()}


def _known(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(no_recipe(name))
    return name


def _text(about: str) -> str:
    if strange := [c for c in about if unicodedata.category(c) == "Cc" and c not in "\n\t"]:
        raise ValueError(f"has the character {strange[0]!r}, which controls a terminal; write plain text")
    return about


RecipeName = Annotated[str, AfterValidator(_known)]
"""A key of `dmf.config.RECIPES`."""


def _possible(layout: TableLayout) -> TableLayout:
    """Raise ValueError for a path that is no parameter, or for a row that cannot be."""
    for path in (*layout.row_paths, *layout.columns):
        if path not in PARAMETERS:
            close = difflib.get_close_matches(path, PARAMETERS, 1)
            raise ValueError(f"{path} is not a parameter{f'; did you mean {close[0]}?' if close else ''}")
    check_rows(layout, layout.rows_named)
    return layout


def check_rows(layout: TableLayout, rows: Iterable[RowValue]) -> None:
    """Raise ValueError for a row that a layout cannot have, because its parameters have no such values."""
    for row in rows:
        values = row if isinstance(row, tuple) else (row,)
        if len(values) != len(layout.row_paths):
            raise ValueError(f"row {row!r} is not one value for each of {list(layout.row_paths)}")
        for path, value in zip(layout.row_paths, values, strict=True):
            try:
                TypeAdapter(PARAMETERS[path]).validate_json(json.dumps(value))
            except ValidationError as error:
                raise ValueError(f"{path} cannot be {value!r}: {error.errors()[0]['msg']}") from None


def _kind_of_table(table: Any) -> str:
    return "<table>" if isinstance(table, dict | TableLayout) else "<name>"


Table = Annotated[
    Annotated[Annotated[str, Field(pattern=TABLE_NAME)], Tag("<name>")]
    | Annotated[TableLayout, AfterValidator(_possible), Tag("<table>")],
    Discriminator(_kind_of_table),
]
"""The name of one of the paper's tables or of one that another part describes, or a description."""


class Part(Value):
    """Cells of one table."""

    table: Table
    """The table: one of the paper's (`1`, `2a` to `2d`), one that another part describes, or a description."""
    base: RecipeName | None = None
    """A recipe to use instead of the sweep's."""
    set: Settings = Settings()
    """Overrides the sweep's `set`."""
    zip: Choices = Choices()
    """Lists of equal length, combined row by row."""
    grid: Choices = Choices()
    """Lists, combined in every way."""
    trials: tuple[Varied, ...] = ()
    """Settings written out one by one."""
    shots: tuple[Count, ...] = ()
    """Test the part's models with each of these numbers of shots, instead of the sweep's."""

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        lengths = {path: len(values) for path, values in self.zip.given().items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{path} has {length}" for path, length in lengths.items())
            raise ValueError(f"lists under zip go together and must be equally long; {told}")
        groups = [self.set.given(), self.zip.given(), self.grid.given()]
        groups.append({path: None for trial in self.trials for path in trial.given()})
        for path in PARAMETERS:
            if (times := sum(path in group for group in groups)) > 1:
                raise ValueError(f"{path} is given {times} times in set, zip, grid and trials; keep one")
        rows, trials = max(lengths.values(), default=1), len(self.trials) or 1
        count = math.prod([rows, trials, *(len(values) for values in self.grid.given().values())])
        if count > MOST_CHOICES:
            raise ValueError(f"zip, grid and trials make {count:,} combinations; the limit is {MOST_CHOICES:,}")
        return self

    def choices(self) -> Iterator[dict[str, Any]]:
        """The settings of every combination: dotted path -> value."""
        zipped, grid = self.zip.given(), self.grid.given()
        rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
        points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
        trials = [trial.given() for trial in self.trials] or [{}]
        for row, point, trial in itertools.product(rows, points, trials):
            yield {**row, **point, **trial}


class Evaluation(EvaluationConfig):
    """How to test."""

    shots: tuple[Count, ...] = ()
    """Test every model with each of these numbers of shots; instead of `shot`."""
    also_on: tuple[OtherDataConfig, ...] = ()
    """Further data sets to test every model on, in columns of their own."""

    @model_validator(mode="after")
    def _has_one_kind_of_shot(self) -> Self:
        if self.shot is not None and self.shots:
            raise ValueError("both shot and shots are given; keep one")
        return self

    def configs(self) -> tuple[EvaluationConfig, ...]:
        """One evaluation for each data set and number of shots."""
        data = self.model_dump(mode="json", exclude={"shots", "also_on", "data"})
        return tuple(
            EvaluationConfig.from_dict({**data, "shot": shot, "data": on.model_dump(mode="json") if on else None})
            for on in map(_absolute, (self.data, *self.also_on))
            for shot in self.shots or (self.shot,)
        )


def _absolute(data: OtherDataConfig | None) -> OtherDataConfig | None:
    """With an absolute root, since workers run in other folders."""
    if data is None or data.root is None:
        return data
    return data.replace(root=str(Path(expanded(data.root, "root")).absolute()))


class Resources(Value):
    """What one trial uses of a machine; with fractions of a GPU, trials share one."""

    cpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """None: as many as `training.threads`."""
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """None: 1 if Ray sees a GPU and `training.device` is not "cpu"."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.gpu is not None and self.gpu > 1 and self.gpu != int(self.gpu):
            raise ValueError(f"gpu={self.gpu} is neither a fraction of one GPU nor a whole number of them")
        return self


Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""Also exact as a float, to which Optuna converts it."""


class Range(Value):
    """The values of one parameter that a search tries: one of four kinds."""

    uniform: tuple[Finite, Finite] | None = None
    """[low, high], any number between them alike."""
    loguniform: tuple[Finite, Finite] | None = None
    """[low, high], any order of magnitude between them alike."""
    integer: Annotated[tuple[Whole, Whole] | None, Field(alias="int")] = None
    """[low, high], whole numbers, both ends included."""
    choice: tuple[JsonValue, ...] | None = None
    """A list of values."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        kinds = self.model_dump(exclude_none=True, by_alias=True)
        if len(kinds) != 1:
            raise ValueError("give one of uniform, loguniform and int, each with [low, high], or choice: [...]")
        kind, values = next(iter(kinds.items()))
        if kind == "choice":
            if not values:
                raise ValueError("choice needs at least one value")
        elif not values[0] < values[1]:
            raise ValueError(f"{kind} needs [low, high] with low < high, got {list(values)}")
        if kind == "loguniform" and values[0] <= 0:
            raise ValueError(f"loguniform needs low > 0, got {values[0]}")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that represent all: both ends, or every choice."""
        return tuple(next(iter(self.model_dump(exclude_none=True, mode="json").values())))

    @property
    def values(self) -> Sequence[Any]:
        """Every value if they can be counted, else both ends."""
        return range(self.integer[0], self.integer[1] + 1) if self.integer else self.ends


Ranges: Any = _by_path("Ranges", lambda type_: Range)


class Search(Value):
    """Optuna proposes values, ASHA stops trials that fall behind; the measure is validation accuracy."""

    parameters: Ranges
    """Dotted path -> what to try."""
    trials: Count
    """How many configurations to try."""
    seed: Seed = 0
    """Seed of the proposals."""
    grace_epochs: Count = 1
    """Epochs that every trial runs before ASHA may stop it."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """One in `reduction` of the trials that reach a rung continues."""

    @model_validator(mode="after")
    def _has_something_to_look_for(self) -> Self:
        if not self.parameters.given():
            raise ValueError("parameters is empty; write such as training.learning_rate: {loguniform: [0.01, 1.0]}")
        if "training.epochs" in self.parameters.given():
            raise ValueError("training.epochs cannot be searched: ASHA decides how long a trial trains")
        return self


ALL = ("all",)
"""`decide: all`: every row that is compared with a baseline."""


def _as_names(given: Any) -> Any:
    """`all`, or names; `2d: ODE` without quotes, which YAML reads as a mapping, is the text it was meant to be."""
    if given == "all" or given == ALL:
        return ALL
    items = given if isinstance(given, list | tuple) else ()
    names = tuple(f"{next(iter(i))}: {i[next(iter(i))]}" if isinstance(i, dict) and len(i) == 1 else i for i in items)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f'expected all, or a list of tables and rows such as ["2c", "2d: ODE"]; got {shown(given)}')
    return names


class Decide(Value):
    """Seeds that a sweep adds until rows are decided."""

    decide: Annotated[tuple[str, ...], BeforeValidator(_as_names)]
    """Tables (`2d`) and rows of them (`2d: ODE`), or the word `all`."""
    at_most: Annotated[int, Field(ge=2, le=100)]
    """Seeds of a row: 0, 1, ... up to so many."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """All that there can be."""
        return tuple(range(self.at_most))


SEEDS_LISTED, SEEDS_DECIDED = "seeds: a list", "seeds: decide"
"""Tags of the two kinds of `seeds`, which pydantic puts into the paths of mistakes."""


@dataclass(frozen=True)
class Resolved:
    """One combination of a part's settings."""

    part: int
    """The part's number in the file, from 0."""
    choice: dict[str, Any]
    """What the combination varies: dotted path -> value."""
    config: ExperimentConfig | ValueError
    """The whole configuration, for the first seed, or why it is impossible."""


class SweepSpec(Value):
    """A sweep file."""

    name: Annotated[str, Field(pattern=SWEEP_NAME)]
    """The sweep's name, and its folder's: lower-case letters, digits, `-` and `_`."""
    about: Annotated[str, Field(max_length=5000), AfterValidator(_text)] = ""
    """The question, in a sentence that reports print."""
    base: RecipeName = "released"
    """The recipe that every configuration starts from."""
    set: Settings = Settings()
    """Dotted paths that override the base."""
    seeds: Annotated[
        Annotated[tuple[Seed, ...], Field(min_length=1), Tag(SEEDS_LISTED)] | Annotated[Decide, Tag(SEEDS_DECIDED)],
        Discriminator(lambda given: SEEDS_DECIDED if isinstance(given, dict | Decide) else SEEDS_LISTED),
    ] = (0,)
    """Every configuration is trained once per seed; with `decide`, with as many seeds as its verdict takes."""
    evaluation: Evaluation = Evaluation()
    """The test of every training."""
    resources: Resources = Resources()
    """What one trial uses of a machine."""
    max_failures: Annotated[int, Field(ge=0, le=1000)] = 2
    """How often a trial whose worker process died is restarted, from its checkpoint."""
    fail_fast: bool = False
    """Stop the sweep at the first trial that fails, instead of running the others."""
    keep_weights: bool = True
    """Keep the weights of every training's best epoch, 4 bytes per parameter. If false, they are deleted once the
    training's tests in this sweep are recorded."""
    parts: tuple[Part, ...] = ()
    """What fills the tables."""
    claims: tuple[Claim, ...] = ()
    """What is to be decided of the tables' rows, besides the paper's claims."""
    search: Search | None = None
    """A search for hyper-parameters, instead of parts."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if bool(self.parts) == (self.search is not None):
            raise ValueError("give either parts (tables to fill) or search")
        if self.search is not None and self.claims:
            raise ValueError("a search fills no table for claims to be about; remove claims")
        if len(set(self.all_seeds)) < len(self.all_seeds):
            raise ValueError(f"seeds={list(self.all_seeds)} has a seed twice")
        if self.search is not None and not self.keep_weights:
            raise ValueError("a search keeps all weights, because it tests the best training last; remove keep_weights")
        if self.search is not None and self.deciding:
            raise ValueError("a search takes one seed and decides no rows; write seeds: [0]")
        if self.search is not None and len(self.all_seeds) > 1:
            raise ValueError(f"a search takes one seed, got seeds={list(self.all_seeds)}")
        return self

    @functools.cached_property
    def own_tables(self) -> tuple[TableLayout, ...]:
        """The tables that the file describes itself, in its order."""
        found = {part.table.name: part.table for part in self.parts if isinstance(part.table, TableLayout)}
        return tuple(found.values())

    @functools.cached_property
    def layouts(self) -> dict[str, TableLayout]:
        """By name, the paper's tables and those that the file describes, which replace a table of the paper's."""
        return {**TABLES, **{layout.name: layout for layout in self.own_tables}}

    def table_of(self, part: int) -> str:
        """The name of the table that a part fills."""
        table = self.parts[part].table
        return table if isinstance(table, str) else table.name

    @property
    def deciding(self) -> Decide | None:
        """How seeds are added until rows are decided; None: their number is fixed."""
        return self.seeds if isinstance(self.seeds, Decide) else None

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the file or, with `decide`, all that there can be."""
        return self.seeds.seeds if isinstance(self.seeds, Decide) else self.seeds

    def config_for(self, choice: dict[str, Any], part: Part | None = None) -> ExperimentConfig:
        """The whole configuration of one choice, for the first seed."""
        return self._chosen(self._start(part), choice)

    @functools.cached_property
    def resolved(self) -> tuple[Resolved, ...]:
        """Every combination of every part's settings, in the file's order."""
        found = []
        for number, part in enumerate(self.parts):
            start = self._start(part)
            for choice in part.choices():
                try:
                    config: ExperimentConfig | ValueError = self._chosen(start, choice)
                except ValueError as error:
                    config = error
                found.append(Resolved(number, choice, config))
        return tuple(found)

    def _chosen(self, start: tuple[ExperimentConfig, dict[str, Any]], choice: dict[str, Any]) -> ExperimentConfig:
        config, settings = start
        choice = _anywhere(choice)
        return config.with_paths(self._read_by_method(config, {**settings, **choice})).resolved()

    def _start(self, part: Part | None) -> tuple[ExperimentConfig, dict[str, Any]]:
        """The configuration that a part's choices start from, and the settings to apply with each choice.

        To keep many choices cheap, those settings are only the ones that the base's method lacks, since a choice may
        name another method; or all of them if base and set alone are impossible, since a choice may change that.
        """
        base = self._base(part)
        settings = {**self.set.given(), **(part.set.given() if part else {}), GIVEN_BY_SEEDS: self.all_seeds[0]}
        settings = _anywhere(settings)
        try:
            read = self._read_by_method(base, settings)
            left = {path: value for path, value in settings.items() if path not in read}
            return base.with_paths(read).resolved(), left
        except ValueError:
            return base, settings

    def evaluations_of(self, part: int) -> tuple[EvaluationConfig, ...]:
        """The tests of a part's models, one for each data set and number of shots."""
        shots = self.parts[part].shots
        return (self.evaluation.replace(shots=shots, shot=None) if shots else self.evaluation).configs()

    def _base(self, part: Part | None) -> ExperimentConfig:
        return recipe((part.base if part else None) or self.base)

    @functools.cached_property
    def pre_trains(self) -> bool:
        """Whether some combination may ask for a pre-training."""
        named = [self.set, *(given for part in self.parts for given in (part.set, part.zip, part.grid, *part.trials))]
        bases = [self._base(part) for part in (*self.parts, None)]
        return any("start.head" in given.given() for given in named) or any(base.start for base in bases)

    @functools.cached_property
    def methods(self) -> frozenset[str]:
        """Every method that some combination uses."""
        named = {self._base(part).model.method for part in (*self.parts, None)}
        for part in self.parts:
            named |= {trial.given().get("model.method") for trial in part.trials} | {
                part.set.given().get("model.method")
            }
            named |= {*part.zip.given().get("model.method", ()), *part.grid.given().get("model.method", ())}
        return frozenset(named | {self.set.given().get("model.method")}) & METHODS.keys()

    def _read_by_method(self, config: ExperimentConfig, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings, without those that another combination of the sweep reads and this one cannot.

        This method may lack them, or they may be of a pre-training (`start.*`), while `start.head` asks for none.
        """
        method = settings.get("model.method", config.model.method)
        others = self.methods - {method}
        random = self.pre_trains and config.start is None and "start.head" not in settings
        return {
            path: value
            for path, value in settings.items()
            if (has(method, path) or not any(has(other, path) for other in others))
            and not (random and path.startswith("start."))
        }
