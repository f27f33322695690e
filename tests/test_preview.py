"""A sweep's preview: its estimates and warnings, before and after a real training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.costs.preview import preview
from orchestrator.costs.totals import compare
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger

FIELDS: dict[str, Any] = {
    "name": "tiny",
    "set": {
        "data.name": "glyphs",
        "data.image_size": 28,
        "data.channels": 1,
        "data.normalisation": "half",
        "model.backbone": "conv64f",
        "episodes.queries": 2,
        "training.epochs": 3,
        "training.warmup_epochs": 0,
        "training.episodes_per_epoch": 4,
        "training.validation_episodes": 2,
        "training.validate_every": 3,
        "training.device": "cpu",
    },
    "seeds": [0, 1],
    "evaluation": {"episodes": 2},
    "resources": {"cpu": 1},
    "parts": [{"table": "2c", "grid": {"model.groups": [16, 64]}}],
}
SPEC = spec_from(FIELDS)
PLANNED = plan(SPEC)


def test_of_an_empty_store_it_is_said_how_to_know_more(tmp_path: Path) -> None:
    seen = preview(SPEC, PLANNED, Ledger(tmp_path))
    assert seen.lines == ("unknown: the cost of 4 of 4 trainings; --calibrate measures it",)
    (doubt,) = seen.warnings
    assert doubt.startswith("table 2c: its baseline groups 1 is not planned")
    assert {seen.of(trial.key) for trial in PLANNED.trials()} == {""}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A store with the first of the four trainings trained and tested."""
    ledger = Ledger(tmp_path_factory.mktemp("store"))
    first = PLANNED.trials()[0]
    run_trial(first.config, first.evaluations, ledger.store)
    return ledger


def test_one_training_tells_of_the_others(ledger: Ledger) -> None:
    done, same, *others = PLANNED.trials()
    seen = preview(SPEC, PLANNED, ledger)
    assert [seen.costs[t.key].source for t in (done, same, *others)] == ["done", "records", "FLOPs", "FLOPs"]
    assert (seen.costs[same.key].seconds or 0) > 0 and seen.of(same.key).startswith("about ")
    assert seen.of(done.key) == ""
    assert seen.lines[0].startswith("estimated: ") and f"with {seen.at_a_time} at a time" in seen.lines[0]
    told, *doubts = seen.lines[1:]
    assert told == "  1 training from records of the same kind, 2 trainings from others, scaled by FLOPs"
    assert all(doubt.startswith("  a rough guess") for doubt in doubts), "said where this machine was busy before"


def test_estimates_are_held_to_what_it_took(ledger: Ledger) -> None:
    before = preview(SPEC, PLANNED, ledger).costs
    same = PLANNED.trials()[1]
    run_trial(same.config, same.evaluations, ledger.store)
    head, line = compare(before, ledger).splitlines()
    record = ledger.training(same.key)
    assert record is not None and before[same.key].seconds
    took = record.seconds + sum(test.seconds for test in ledger.evaluations(same.key))
    assert line.split()[-1] == f"{took / before[same.key].seconds:.2f}"
    assert "actual / estimated" in head and line.split()[1] == "1"


def test_what_has_ended_costs_nothing(ledger: Ledger) -> None:
    spec = spec_from({**FIELDS, "seeds": [0], "parts": [{"table": "2c", "set": {"model.groups": 16}}]})
    assert preview(spec, plan(spec), ledger).lines == ()
