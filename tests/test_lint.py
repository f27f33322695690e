"""Warnings about sweep files, and the canary, which trains one step of real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dmf.methods.proto_net.config import ProtoNetConfig
from dmf.methods.proto_net.model import ProtoNet
from orchestrator.costs.canary import canary, first_outputs
from orchestrator.spec.baselines import pairs
from orchestrator.spec.file import read_spec, spec_from
from orchestrator.spec.lint import lint
from orchestrator.spec.plan import plan

SWEEPS = sorted((Path(__file__).resolve().parents[1] / "sweeps").rglob("*.yaml"))
GLYPHS = {
    "data.name": "glyphs",
    "data.image_size": 28,
    "data.channels": 1,
    "data.normalisation": "half",
    "model.backbone": "conv64f",
    "model.groups": 16,
    "episodes.queries": 2,
    "training.device": "cpu",
}


def doubts(*parts: dict[str, Any], **fields: Any) -> tuple[str, ...]:
    spec = spec_from({"name": "s", "parts": list(parts), **fields})
    return lint(spec, plan(spec))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_nothing_is_doubtful_in_our_own_sweeps(path: Path) -> None:
    spec = read_spec(path)
    assert lint(spec, plan(spec)) == ()


def test_a_row_that_differs_in_more_than_its_table_says() -> None:
    trials = [{"model.groups": 1}, {"model.groups": 64, "training.learning_rate": 0.1}]
    (told,) = doubts({"table": "2c", "trials": trials})
    assert told == (
        "table 2c: row groups 64 differs from its baseline groups 1 not only in model.groups but also in "
        "training.learning_rate=0.1 (baseline: 0.35)"
    )


def test_a_row_is_held_to_the_baseline_most_like_it() -> None:
    grid = {"model.groups": [1, 64], "training.learning_rate": [0.1, 0.35], "episodes.shot": [1, 5]}
    assert doubts({"table": "2c", "grid": grid}) == ()
    spec = spec_from({"name": "s", "parts": [{"table": "2c", "grid": grid}]})
    found = list(pairs(plan(spec)))
    assert len(found) == 4 and all(pair.exact for pair in found)
    for pair in found:
        assert pair.cell.config.with_paths({"model.groups": 1}) == pair.baseline.config


def test_what_one_of_two_rows_does_not_read_is_no_difference() -> None:
    """Without alignment, as in the baseline of 2d, the number of groups is not read."""
    trials = [{"model.alignment": 0}, {"model.alignment": 1, "model.groups": 160}]
    assert doubts({"table": "2d", "trials": trials}) == ()


def test_a_table_without_its_baseline() -> None:
    (told,) = doubts({"table": "2c", "grid": {"model.groups": [64, 160]}})
    assert told.startswith("table 2c: its baseline groups 1 is not planned for miniImageNet, 5-way 1-shot, resnet12")


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (
            {"table": "2d", "set": {"model.solver": "rk4"}, "grid": {"model.alignment": [0, 1]}},
            "parts.0.set: model.solver is set to rk4, but model.alignment=0 and model.alignment=1 read no solver",
        ),
        (
            {"table": "2d", "trials": [{"model.alignment": 0}, {"model.alignment": 1, "model.solver": "rk4"}]},
            "parts.0: model.solver is set to rk4, but model.alignment=1 reads no solver",
        ),
        (
            {"table": "1", "set": {"model.method": "raw_pixels", "training.epochs": 9}},
            "parts.0.set: training.epochs is set to 9, but model.method=raw_pixels reads no epochs",
        ),
        (
            {
                "table": "2d",
                "set": {"model.backbone": "conv64f", "model.drop_rate": 0.2},
                "grid": {"model.alignment": [0]},
            },
            "parts.0.set: model.drop_rate is set to 0.2, but model.backbone=conv64f reads no drop_rate",
        ),
    ],
)
def test_settings_that_nothing_reads(part: dict[str, Any], told: str) -> None:
    assert doubts(part) == (told,)


def test_a_setting_that_one_training_reads_is_no_doubt() -> None:
    grid = {"model.alignment": [0, 1, "ode"]}
    assert doubts({"table": "2d", "set": {"model.solver": "dopri5"}, "grid": grid}, set={"model.groups": 64}) == ()


def test_of_the_sweeps_own_settings_too() -> None:
    (told,) = doubts({"table": "1"}, set={"model.method": "proto_net", "model.groups": 64})
    assert told == "set: model.groups is set to 64, but model.method=proto_net reads no groups"


def test_settings_of_a_pre_training_start_none() -> None:
    started = {"table": "1", "set": {"model.method": "proto_net", "start.head": "cosine"}}
    random = {"table": "1", "set": {"model.method": "proto_net"}}
    parts = [started, random, {"table": "1", "set": {"model.method": "raw_pixels"}}]
    spec = spec_from({"name": "s", "parts": parts, "set": {"start.training.epochs": 3}})
    first, second, _ = (each.config for each in spec.resolved)
    assert first.stage.training.epochs == 3 and second.start is None
    assert lint(spec, plan(spec)) == ()
    (told,) = doubts(started, random | {"set": {"model.method": "proto_net", "start.training.epochs": 3}})
    assert told == "parts.1.set: start.training.epochs is set to 3, but start=random reads no training"


def test_cells_asked_for_twice_and_cells_that_are_one() -> None:
    part = {"table": "2c", "grid": {"model.groups": [1]}}
    (twice,) = doubts(part, part)
    assert twice == "table 2c: parts.0 and parts.1: a cell is asked for twice (model.groups=1); it is run once"
    assert doubts(part, {**part, "table": "2d", "set": {"model.alignment": 0}, "grid": {}}) == ()
    solvers = {"model.alignment": [0, 1], "model.solver": ["rk4", "exact"]}
    assert doubts({"table": "2d", "grid": solvers})[-2:] == (
        "table 2d: parts.0: model.solver=rk4 and exact are the same training, since model.alignment=0 reads no solver",
        "table 2d: parts.0: model.solver=rk4 and exact are the same training, since model.alignment=1 reads no solver",
    )


def test_blocks_that_cover_whole_maps() -> None:
    small = {"model.backbone": "resnet12", "data.image_size": 28, "model.groups": 64}
    (told,) = doubts({"table": "1"}, set=small)
    assert told == (
        "model.drop_block_size=5 covers the 4x4 maps of 28-pixel images, so DropBlock drops whole channels; use less "
        "than 4"
    )
    for other in ({"model.drop_block_size": 3}, {"model.drop_rate": 0.0}, {"data.image_size": 84}):
        assert doubts({"table": "1"}, set=small | other) == ()


def test_many_doubts_of_a_kind_are_counted() -> None:
    trials = [{"model.groups": 1}] + [{"model.groups": 64, "training.epochs": 50 + n} for n in range(14)]
    told = doubts({"table": "2c", "trials": trials})
    assert len(told) == 11 and told[-1] == "... and 4 more like the last"


def tables(**changed: Any) -> Any:
    parts = [
        {"table": "2a", "grid": {"model.dynamic_sampling": [False, True]}},
        {"table": "2d", "grid": {"model.alignment": [0, "ode"]}},
    ]
    return plan(spec_from({"name": "s", "set": GLYPHS | changed, "parts": parts}))


def test_a_canary_finds_switches_that_do_something() -> None:
    said: list[str] = []
    assert canary(tables(), say=said.append) == ()
    assert len(said) == 4  # the full model is in both tables
    assert said[-1] == "2 of 2 rows gave other outputs than the baseline after one step"


def test_a_canary_scores_methods_that_learn_nothing_from_episodes() -> None:
    table = {"name": "m", "title": "Methods", "rows": "model.method", "baseline": "dmf"}
    trials = [
        {"model.method": "dmf"},
        {"model.method": "raw_pixels"},
        {"model.method": "classifier_baseline", "start.head": "linear"},
    ]
    said: list[str] = []
    asked = plan(spec_from({"name": "s", "set": GLYPHS, "parts": [{"table": table, "trials": trials}]}))
    assert canary(asked, say=said.append) == ()
    assert said[-1] == "2 of 2 rows gave other outputs than the baseline after one step"


class Forgetful(ProtoNet):
    """A method that does not read its settings."""

    @classmethod
    def build(cls, backbone: nn.Module, config: ProtoNetConfig, base_classes: int) -> Forgetful:
        return cls(backbone)


def test_a_canary_finds_switches_that_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmf.methods.dmf.model.DMF", Forgetful)
    assert canary(tables(), say=lambda line: None) == (
        (
            "table 2a: this switch changes nothing: after one training step, with dynamic sampling has the same "
            "outputs as without dynamic sampling, bit for bit"
        ),
        (
            "table 2d: this switch changes nothing: after one training step, alignments ODE has the same outputs as "
            "alignments 0, bit for bit"
        ),
    )


def test_outputs_are_a_function_of_the_configuration() -> None:
    config = tables().cells[0].config
    assert first_outputs(config) == first_outputs(config) != first_outputs(config.replace(training__seed=1))
    faster = first_outputs(config.replace(training__learning_rate=0.1))
    assert faster != first_outputs(config), "the scores after the step do not count"
