"""`python -m orchestrator.status`: every state, with what a user needs to act on it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.records import FORMAT, Failure, TrainingRecord
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import SweepPlan, plan
from orchestrator.status import Row, _show, main
from orchestrator.store.ledger import Ledger
from orchestrator.store.searches import SearchResults, Tried, results_path
from tests.records_in_memory import InMemory, evaluation_of, planned
from tests.test_sweep import SPEC


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A sweep of three trainings: one failed, one started, one missing; and one that is no longer in any plan."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC.replace("training.epochs: 6", "training.epochs: 3"))
    planned = plan(read_spec(path))
    ledger = Ledger(tmp_path / "runs")
    ledger.write_plan(plan(read_spec(path, ["training.epochs=2"])))
    ledger.write_plan(planned)
    failed, begun, _ = planned.trials()
    failure = Failure(reason="ValueError: no images")
    ledger.write_training(
        TrainingRecord(format=FORMAT, key=failed.key, config=failed.config, outcome="failed", failure=failure)
    )

    def stop(epoch: Any) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(begun.config, begun.evaluations, ledger.store, stop)
    run_trial(planned.trials()[0].config.replace(training__epochs=1), (), ledger.store)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 1
    return json.loads(capsys.readouterr().out)


def test_states_epochs_reasons_and_what_is_in_no_plan(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--store", str(site / "runs"))
    failed, begun, missing = found["sweeps"]["tiny"]
    assert (failed["state"], failed["why"]) == ("failed", "ValueError: no images")
    assert (begun["state"], begun["epoch"], begun["epochs"]) == ("started", 2, 3)
    assert begun["validation_accuracy"] is not None and begun["validation_epoch"] == 1
    assert missing["state"] == "missing"
    assert len(found["in_no_plan"]) == 1
    assert main([str(site / "runs")]) == 1
    said = capsys.readouterr().out
    assert "3 trainings: 1 failed, 1 started, 1 missing" in said and "ValueError: no images" in said
    assert f"{100 * begun['validation_accuracy']:.2f} % (epoch 1)" in said
    assert f"in no sweep's plan, kept: {found['in_no_plan'][0]}" in said


def test_a_training_at_work_runs_and_has_an_end_in_sight(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(site / "runs")
    begun = ledger.plan("tiny").trials()[1]
    with ledger.holding(begun.key):
        row = told(capsys, "tiny", "--store", str(ledger.store))["sweeps"]["tiny"][0]
    assert row["state"] == "running" and row["seconds_left"] > 0


def test_a_file_is_asked_as_it_is_today(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, store = str(site / "tiny.yaml"), ["--store", str(site / "runs")]
    (site / "tiny.yaml").write_text((site / "tiny.yaml").read_text().replace("[1, 64]", "[16, 64]"))
    found = told(capsys, spec, *store)
    assert len(found["sweeps"]["tiny"]) == 3 and len(found["removed"]["tiny"]) == 1
    assert main([spec, *store]) == 1
    assert f"no longer in the file, kept: {found['removed']['tiny'][0]}" in capsys.readouterr().out


def test_of_one_training_everything_is_told(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(site / "runs")
    failed, begun, _ = ledger.plan("tiny").trials()
    other = next(key for key in ledger.kept_keys() if key not in (failed.key, begun.key))
    for key, status, said in (
        (failed.key, 1, "error: ValueError: no images"),
        (begun.key, 1, "no record yet: 2 epochs done"),
        (other, 0, "finished after 1 epoch"),
    ):
        assert main([key, "--store", str(ledger.store)]) == status
        assert said in capsys.readouterr().out


def test_two_tests_of_a_training_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, records, cell = Ledger(tmp_path), InMemory(), planned("2c", EvaluationConfig(episodes=10), (0,))
    other = planned("2c", EvaluationConfig(episodes=4, queries=5), (0,))
    for each, accuracy in ((cell, 0.5), (other, 0.75)):
        records.tested(each, [accuracy] * each.evaluation.episodes)
    for record in records.trainings.values():
        ledger.write_training(record)
    for exam in records.evaluations.values():
        ledger.write_evaluation(exam)
    main([cell.trainings[0].key, "--store", str(ledger.store)])
    said = capsys.readouterr().out
    assert "test, 5-way 1-shot, 15 queries per class, 10 episodes: 50.00 %" in said
    assert "test, 5-way 1-shot, 5 queries per class, 4 episodes: 75.00 %" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store", "nowhere"], "there is no store nowhere"),
        (["tinny", "--store", "runs"], "no sweep 'tinny' was started in"),
        (["--store", "empty"], "no sweep was started in"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site)
    (site / "empty").mkdir()
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_of_a_search_its_proposals_are_shown_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(tmp_path)
    ledger.write_plan(SweepPlan(name="look", about="", cells=()))
    configs = [ExperimentConfig().replace(model__groups=groups) for groups in (1, 64, 160)]
    outcomes = ("finished", "stopped", "running")
    tried = tuple(
        Tried(values={"model.groups": c.model.groups}, key=c.key, accuracy=0.5, epochs=3, outcome=outcome)
        for c, outcome in zip(configs, outcomes, strict=True)
    )
    search = SearchResults(base=ExperimentConfig(), parameters={}, tried=tried, trials=4)
    search.write(results_path(ledger, "look"))
    ledger.folder(configs[0].key).mkdir(parents=True)
    assert main(["--store", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "look: 4 trainings: 1 started, 1 untested, 1 missing, 1 stopped" in said and "in no sweep's plan" not in said
    search.with_tried(tried[:2]).replace(trials=2).write(results_path(ledger, "look"))
    assert main(["--store", str(tmp_path)]) == 1
    assert "1 untested, 1 stopped" in capsys.readouterr().out
    ledger.write_evaluation(evaluation_of(configs[0].key, EvaluationConfig(shot=1, episodes=2)))
    assert main(["--store", str(tmp_path)]) == 0
    results_path(ledger, "look").write_text("{")
    assert main(["--store", str(tmp_path)]) == 1 and "damaged" in capsys.readouterr().out
    results_path(ledger, "look").unlink()
    assert main(["--store", str(tmp_path)]) == 1 and "a search that has tried nothing" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_folds_labels_and_reasons_and_no_other_column(width: int) -> None:
    what = "shot=1 last_pooling=False groups=64 dynamic_sampling=False alignment=ode seed=0"
    row = Row(
        "b9593cf9ac58834d", what, ("2a", "2c"), "running", 12, 95, 0.6234, 12, 25000.0, "ValueError: " + "why " * 9
    )
    console = Console(file=StringIO(), width=width)
    _show(console, "table2", [row], [], everything=False)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    first = next(line for line in lines if "b9593cf9ac58834d" in line)
    for told in ("running", "12/95", "62.34 %", "6 h 57 min"):
        assert told in first, f"{told} is not in {first!r}"
