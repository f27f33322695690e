"""The plan of a sweep: the table cells that it fills, and the distinct trainings behind them."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from dmf.config import AnyTraining, EvaluationConfig, Pretraining
from dmf.config.old import is_of_format_1, key_of_format_1
from dmf.records.records import FORMAT
from dmf.values import Checked, readable, unsealed
from orchestrator.spec.cells import cells_of
from orchestrator.spec.decide import rule_of
from orchestrator.spec.model import NEVER_VARIED, SWEEP_NAME, SweepSpec
from reports.claims import Claim
from reports.layouts import TABLES, TableLayout, in_order
from reports.looks import Looks, Rule, agreed, asked_now, cells_at_most
from reports.tables import PlannedCell


@dataclass(frozen=True)
class Trial:
    """One training, and the evaluations of its model."""

    config: AnyTraining
    evaluations: tuple[EvaluationConfig, ...]
    tables: tuple[str, ...] = ()
    """The table of each cell that it fills."""
    starts_others: bool = False
    """Whether other trainings start from its weights."""

    @property
    def key(self) -> str:
        """The training's key."""
        return self.config.key


class SweepPlan(Checked):
    """The resolved cells of a sweep. A search has none: it finds out what to train on the way."""

    format: int = 1
    """The record format of its trainings; new plans have FORMAT."""
    name: Annotated[str, Field(pattern=SWEEP_NAME)]
    about: str
    cells: tuple[PlannedCell, ...]
    cells_repeated: int = 0
    """How often the file asks again for a cell that is already in `cells`."""
    tables: tuple[TableLayout, ...] = ()
    """The tables that the file describes itself."""
    claims: tuple[Claim, ...] = ()
    """The file's own claims."""
    rule: Rule | None = None
    """How looks decide its rows; None: the number of seeds is fixed."""

    @model_validator(mode="after")
    def _knows_its_tables(self) -> Self:
        known = {*TABLES, *(layout.name for layout in self.tables)}
        if unknown := sorted({cell.table for cell in self.cells} - known):
            raise ValueError(f"no table is called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return self

    @functools.cached_property
    def layouts(self) -> tuple[TableLayout, ...]:
        """The layouts of the tables that it has cells for, in the paper's order, then in the file's."""
        own = {layout.name: layout for layout in self.tables}
        return tuple(own.get(name) or TABLES[name] for name in in_order([cell.table for cell in self.cells]))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a plan of any format; raises pydantic's ValidationError for anything else.

        A plan of format 1 keeps the keys that its trainings had then, if they differ today.
        """
        plan = cls.model_validate_json(text)
        if plan.format == FORMAT:
            return plan
        written = [cell["config"] for cell in json.loads(text)["cells"]]
        pairs = zip(plan.cells, written, strict=True)
        return plan.model_copy(update={"cells": tuple(_with_former_keys(cell, config) for cell, config in pairs)})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a plan file of any format."""
        with readable(cls.__name__, path):
            return cls.from_json(unsealed(Path(path).read_bytes(), f"{cls.__name__} in {path}"))

    def asked(self, looks: Looks | None) -> SweepPlan:
        """The plan with the seeds that its looks so far ask for; itself if the number of seeds is fixed."""
        if self.rule is None:
            return self
        return self.with_cells(asked_now(self.cells, agreed(self.rule, looks)))

    def with_cells(self, cells: tuple[PlannedCell, ...]) -> SweepPlan:
        """The same plan with other cells."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return SweepPlan(**{**fields, "cells": cells})

    @property
    def trainings_asked(self) -> int:
        """Trainings that the file's cells ask for, duplicates included."""
        return sum(len(cell.seeds) for cell in self.cells) + self.cells_repeated * self.seeds_each

    @property
    def seeds_each(self) -> int:
        """Trainings per cell."""
        return len(self.cells[0].seeds) if self.cells else 0

    def trials(self) -> tuple[Trial, ...]:
        """The distinct trainings in the order of the cells, each with its distinct evaluations.

        A training comes before the first one that starts from it.
        """
        return self._trials

    @functools.cached_property
    def _trials(self) -> tuple[Trial, ...]:
        configs: dict[str, AnyTraining] = {}
        evaluations: dict[str, dict[str, EvaluationConfig]] = {}
        tables: dict[str, list[str]] = {}
        starts: set[str] = set()
        for cell in self.cells:
            for config in cell.trainings:
                for each in (*config.stages, config):
                    configs.setdefault(each.key, each)
                starts.update(each.key for each in config.stages)
                evaluations.setdefault(config.key, {}).setdefault(cell.evaluation.key, cell.evaluation)
                tables.setdefault(config.key, []).append(cell.table)
        return tuple(
            Trial(config, tuple(evaluations.get(key, {}).values()), tuple(tables.get(key, ())), key in starts)
            for key, config in configs.items()
        )


def _with_former_keys(cell: PlannedCell, written: dict[str, Any]) -> PlannedCell:
    keys = tuple(key_of_format_1(written, seed) for seed in cell.seeds) if is_of_format_1(written) else ()
    return cell if keys in ((), cell.training_keys) else cell.model_copy(update={"former_keys": keys})


def plan(spec: SweepSpec) -> SweepPlan:
    """The cells of a sweep, in the file's order, without duplicates.

    If it decides, its cells have all seeds that they may come to, and `SweepPlan.asked` says which those are now.
    """
    cells = cells_of(spec)
    asked = sum(len(spec.evaluations_of(combination.part)) for combination in spec.resolved)
    repeated = asked - len(cells)
    rule = rule_of(spec, cells) if spec.deciding else None
    if rule is not None:
        cells = cells_at_most(cells, Looks(rule=rule))
    return SweepPlan(
        format=FORMAT,
        name=spec.name,
        about=spec.about,
        cells=cells,
        cells_repeated=repeated,
        claims=spec.claims,
        tables=spec.own_tables,
        rule=rule,
    )


def labels(configs: Iterable[AnyTraining]) -> dict[str, str]:
    """For each training's key, the settings in which it differs from the others: `shot=1 groups=64`.

    If there are several methods, these are the method, the backbone if it has several, and what differs within them.
    A pre-training's label is `pre-training` and a few settings that tell it from other pre-trainings.
    """
    found = {config.key: config for config in configs}
    read = {key: _read_by(config) for key, config in found.items()}
    stages = {key: read[key] for key, config in found.items() if isinstance(config, Pretraining)}
    others = {key: values for key, values in read.items() if key not in stages}
    told = _told_apart(others, _varied(others))
    kinds = {key: _kind(found[key]) for key in others}
    if len({method for method, _ in kinds.values()}) > 1:
        for kind in dict.fromkeys(kinds.values()):
            its = {key: others[key] for key in others if kinds[key] == kind}
            own = _told_apart(its, _varied(its)) if len(its) > 1 else dict.fromkeys(its, "")
            method, backbone = kind
            several = sum(other == method for other, _ in set(kinds.values())) > 1
            name = f"method={method} backbone={backbone}" if several else f"method={method}"
            told |= {key: f"{name} {text}".strip() for key, text in own.items()}
    stages_told = _told_apart(stages, _enough(stages))
    return told | {key: f"pre-training {text}" for key, text in stages_told.items()}


def _kind(config: AnyTraining) -> tuple[str, str]:
    """Method and backbone of a training on episodes, whose settings belong together."""
    assert config.kind == "experiment"
    return config.model.method, config.model.backbone_name


def _read_by(config: AnyTraining) -> dict[str, Any]:
    """The settings that a training reads, by dotted path; with a backbone, also what its weights start from."""
    aside = {*config.unread, "start", "model.weights", "model.weights_sha256"}
    found = {path: value for path, value in config.flat().items() if path not in aside}
    if config.kind == "experiment" and config.model.backbone_name:
        path, content = config.weights
        given = f"{Path(path or 'weights').name}:{content[:8]}" if content else "random"
        found["start"] = "pre-trained" if config.stage else given
    return found


def _varied(read: Mapping[str, dict[str, Any]]) -> list[str]:
    """The paths that have several values in what trainings read."""
    values_of: dict[str, set[str]] = {}
    for settings in read.values():
        for path, value in settings.items():
            values_of.setdefault(path, set()).add(str(value))
    return [path for path, found in values_of.items() if len(found) > 1 and path not in NEVER_VARIED]


def _enough(read: Mapping[str, dict[str, Any]]) -> list[str]:
    """As `_varied`, but only as many as tell the trainings apart: each splits the most that are still alike."""
    varied, chosen = _varied(read), list[str]()

    def kinds(paths: list[str]) -> int:
        return len({tuple(str(values.get(path)) for path in paths) for values in read.values()})

    while kinds(chosen) < kinds(varied):
        chosen.append(max(varied, key=lambda path: kinds([*chosen, path])))
    return [path for path in varied if path in chosen]


def _told_apart(read: Mapping[str, dict[str, Any]], varied: list[str]) -> dict[str, str]:
    if not varied:
        return {key: values["data.name"] for key, values in read.items()}
    leaves = Counter(path.rpartition(".")[2] for path in varied)
    names = {path: leaf if leaves[leaf := path.rpartition(".")[2]] == 1 else path for path in varied}
    return {
        key: " ".join(f"{names[path]}={values[path]}" for path in varied if values.get(path) is not None)
        for key, values in read.items()
    }


def shortened(lines: list[str], most: int = 40) -> list[str]:
    """The first `most` lines, and the number of the others."""
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]
