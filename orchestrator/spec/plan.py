"""What a sweep comes to: the cells of the tables that it fills, and the distinct trainings behind them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.values import Value
from orchestrator.spec.model import NEVER_VARIED, SWEEP_NAME, SweepSpec
from reports.tables import PlannedCell


@dataclass(frozen=True)
class Trial:
    """One training and everything that its model is tested on."""

    config: ExperimentConfig
    evaluations: tuple[EvaluationConfig, ...]
    tables: tuple[str, ...] = ()
    """Of the cells it fills, one entry per cell."""

    @property
    def key(self) -> str:
        """The training's key."""
        return self.config.key


class SweepPlan(Value):
    """A sweep, resolved. A search has no cells: what it trains is found on the way."""

    name: Annotated[str, Field(pattern=SWEEP_NAME)]
    about: str
    cells: tuple[PlannedCell, ...]
    cells_repeated: int = 0
    """How often the file asks for a cell that is among `cells` already."""

    @property
    def trainings_asked(self) -> int:
        """Trainings that the file's cells ask for, every one counted as often as it is asked for."""
        return sum(len(cell.seeds) for cell in self.cells) + self.cells_repeated * self.seeds_each

    @property
    def seeds_each(self) -> int:
        """Trainings behind every cell."""
        return len(self.cells[0].seeds) if self.cells else 0

    def trials(self) -> tuple[Trial, ...]:
        """The distinct trainings in the order of the cells, each with its distinct evaluations."""
        return self._trials

    @functools.cached_property
    def _trials(self) -> tuple[Trial, ...]:
        configs: dict[str, ExperimentConfig] = {}
        evaluations: dict[str, dict[str, EvaluationConfig]] = {}
        tables: dict[str, list[str]] = {}
        for cell in self.cells:
            for config in cell.trainings:
                configs.setdefault(config.key, config)
                evaluations.setdefault(config.key, {}).setdefault(cell.evaluation.key, cell.evaluation)
                tables.setdefault(config.key, []).append(cell.table)
        return tuple(
            Trial(config, tuple(evaluations[key].values()), tuple(tables[key])) for key, config in configs.items()
        )


def plan(spec: SweepSpec) -> SweepPlan:
    """The cells of a sweep, in the file's order; a cell that is asked for twice is there once."""
    cells: dict[tuple[str, str, str], PlannedCell] = {}
    tests: dict[tuple[int, int], EvaluationConfig] = {}
    evaluations = spec.evaluation.configs()
    for combination in spec.resolved:
        config, table = combination.config, spec.parts[combination.part].table
        if isinstance(config, ValueError):
            raise config
        for number, evaluation in enumerate(evaluations):
            place = number, config.episodes.shot
            if place not in tests:
                tests[place] = evaluation.resolve(config)
            key = table, config.key, tests[place].key
            if key not in cells:
                cells[key] = PlannedCell(table=table, config=config, evaluation=tests[place], seeds=spec.seeds)
    repeated = len(spec.resolved) * len(evaluations) - len(cells)
    return SweepPlan(name=spec.name, about=spec.about, cells=tuple(cells.values()), cells_repeated=repeated)


def labels(configs: Iterable[ExperimentConfig]) -> dict[str, str]:
    """For each training's key, what tells it from the others: `shot=1 groups=64`."""
    flat = {config.key: flattened(config) for config in configs}
    paths = [path for path in next(iter(flat.values()), {}) if path not in NEVER_VARIED]
    varied = [path for path in paths if len({str(values[path]) for values in flat.values()}) > 1]
    if not varied:
        return {key: values["data.name"] for key, values in flat.items()}
    return {key: " ".join(f"{path.split('.')[1]}={values[path]}" for path in varied) for key, values in flat.items()}


def flattened(config: ExperimentConfig) -> dict[str, Any]:
    """Dotted path -> value."""
    sections = config.model_dump(mode="json")
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def shortened(lines: list[str], most: int = 40) -> list[str]:
    """The first `most` lines, and how many more there are."""
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]
