"""Warns of what a sweep file probably does not mean.

Rows that differ in more than their table says, settings that nothing reads, cells asked for twice. Each warning is one
sentence; none stops the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dmf.backbones.config import BackboneConfig
from dmf.config import ExperimentConfig
from dmf.config.methods import has
from orchestrator.spec.baselines import Pair, pairs, place
from orchestrator.spec.model import NEVER_VARIED, Resolved, SweepSpec
from orchestrator.spec.plan import SweepPlan

POOLED = 8
"""By how much ResNet-12's first three blocks shrink an image."""
TOLD = 10
"""The most sentences of one kind; the rest are counted."""


def lint(spec: SweepSpec, planned: SweepPlan) -> tuple[str, ...]:
    """Every warning about a sweep file."""
    compared = list(pairs(planned))
    kinds = (
        _further_differences(compared),
        _without_baseline(planned, compared),
        _unread_settings(spec),
        _repeated(spec),
        _whole_maps(planned),
    )
    return tuple(sentence for kind in kinds for sentence in _first(kind))


def _first(sentences: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(sentences))
    return found if len(found) <= TOLD else [*found[:TOLD], f"... and {len(found) - TOLD} more like the last"]


def _further_differences(compared: Sequence[Pair]) -> Iterator[str]:
    for pair in compared:
        ours, theirs = pair.cell.config, pair.baseline.config
        if not pair.exact and (paths := pair.layout.also_differs(ours, theirs)):
            told = ", ".join(f"{path}={ours.at(path)} (baseline: {theirs.at(path)})" for path in paths)
            yield (
                f"table {pair.layout.name}: row {pair.name(pair.cell)} differs from its baseline "
                f"{pair.name(pair.baseline)} not only in {', '.join(pair.layout.row_paths)} but also in {told}"
            )


def _without_baseline(planned: SweepPlan, compared: Sequence[Pair]) -> Iterator[str]:
    """Only for tables of components: a comparison with other methods does not need a baseline of ours."""
    paired = {id(pair.cell) for pair in compared}
    layouts = {layout.name: layout for layout in planned.layouts}
    for cell in planned.cells:
        layout = layouts[cell.table]
        aside = not layout.components or layout.is_reference(cell.config) or layout.is_baseline(cell.config)
        if not aside and id(cell) not in paired:
            base = layout.baseline_name
            column, backbone = place(layout, cell)
            yield (
                f"table {layout.name}: its baseline {base} is not planned for {column.dataset_label}, {column.task}, "
                f"{backbone}; its rows there have nothing to be compared with"
            )


def why_unread(config: ExperimentConfig, path: str) -> str | None:
    """The setting that keeps a training from reading the parameter at a dotted path; None if it reads it."""
    if path.startswith("start.") and config.start is None and has(config.model.method, path):
        return "start=random"
    if path in config.unread or has(config.model.method, path):
        return config.unread.get(path)
    return f"model.method={config.model.method}"


@dataclass
class _Given:
    """One value in the file, and the trainings that get it."""

    where: str
    path: str
    value: object
    configs: list[ExperimentConfig]


def _unread_settings(spec: SweepSpec) -> Iterator[str]:
    """Settings that are read by none of the trainings that get them."""
    for given in _given(spec):
        reasons = _why_unread_by_all(given)
        if reasons:
            why, verb = " and ".join(reasons), "reads" if len(reasons) == 1 else "read"
            name = given.path.split(".")[1]
            yield f"{given.where}: {given.path} is set to {given.value}, but {why} {verb} no {name}"


def _why_unread_by_all(given: _Given) -> list[str]:
    """Why no training reads a value; empty if one does."""
    reasons: dict[str, None] = {}
    for config in given.configs:
        reason = why_unread(config, given.path)
        if reason is None:
            return []
        reasons[reason] = None
    return list(reasons)


def _given(spec: SweepSpec) -> Iterator[_Given]:
    """Every value in the sweep's `set`, in the parts' `set`, and in what is varied."""
    for path, value in spec.set.given().items():
        over = [part.set.given() for part in spec.parts]
        got = [c for c in spec.resolved if path not in c.choice and path not in over[c.part]]
        yield _Given("set", path, value, _configs(got))
    for number, part in enumerate(spec.parts):
        combinations = [c for c in spec.resolved if c.part == number]
        for path, value in part.set.given().items():
            yield _Given(f"parts.{number}.set", path, value, _configs(combinations))
        yield from _given_by_choices(f"parts.{number}", combinations, [trial.given() for trial in part.trials])


def _given_by_choices(
    where: str, combinations: Sequence[Resolved], trials: Sequence[dict[str, object]]
) -> Iterator[_Given]:
    """Values of `zip` and `grid`, merged if equal; those of `trials`, which vary fastest, one by one."""
    found: dict[tuple[str, str, int], _Given] = {}
    for index, combination in enumerate(combinations):
        trial = index % len(trials) if trials else 0
        for path, value in combination.choice.items():
            own = trial if trials and path in trials[trial] else -1
            given = found.setdefault((path, repr(value), own), _Given(where, path, value, []))
            given.configs += _configs([combination])
    yield from found.values()


def _configs(combinations: Iterable[Resolved]) -> list[ExperimentConfig]:
    return [c.config for c in combinations if isinstance(c.config, ExperimentConfig)]


def _repeated(spec: SweepSpec) -> Iterator[str]:
    """Cells that several combinations ask for, and why they are the same if their settings differ."""
    first: dict[tuple[str, str, tuple[str, ...]], Resolved] = {}
    for combination in spec.resolved:
        assert isinstance(combination.config, ExperimentConfig)
        table = spec.table_of(combination.part)
        evaluations = spec.evaluations_of(combination.part)
        tests = tuple(evaluation.resolve(combination.config).key for evaluation in evaluations)
        before = first.setdefault((table, combination.config.key, tests), combination)
        if before is combination:
            continue
        assert isinstance(before.config, ExperimentConfig)
        ours, theirs = combination.config.flat(), before.config.flat()
        paths = [path for path in ours if ours[path] != theirs.get(path) and path not in NEVER_VARIED]
        where = f"table {table}: parts.{before.part} and parts.{combination.part}"
        if before.part == combination.part:
            where = f"table {table}: parts.{before.part}"
        if paths:
            told = " and ".join(f"{path}={theirs[path]} and {ours[path]}" for path in paths)
            config = combination.config
            why = " and ".join(dict.fromkeys(why_unread(config, path) or "the training" for path in paths))
            names = ", ".join(path.split(".")[1] for path in paths)
            yield f"{where}: {told} are the same training, since {why} reads no {names}"
        else:
            yield f"{where}: a cell is asked for twice ({_said(combination)}); it is run once"


def _whole_maps(planned: SweepPlan) -> Iterator[str]:
    """DropBlock on maps that its blocks cover whole, as of images much smaller than the paper's."""
    for config in (trial.config for trial in planned.trials()):
        model = config.model
        if not isinstance(model, BackboneConfig) or model.backbone != "resnet12" or not model.drop_rate:
            continue
        side = math.ceil(config.data.image_size / POOLED)
        if model.drop_block_size >= side > 1:
            yield (
                f"model.drop_block_size={model.drop_block_size} covers the {side}x{side} maps of "
                f"{config.data.image_size}-pixel images, so DropBlock drops whole channels; use less than {side}"
            )


def _said(combination: Resolved) -> str:
    return ", ".join(f"{path}={value}" for path, value in combination.choice.items()) or "no setting of its own"
