"""How a sweep treats failures, divergence, stale records and options: real sweeps on the embedded glyphs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.sweep import main
from orchestrator.tracking.names import EXPERIMENT
from orchestrator.tracking.server import tracking_uri
from tests.sites import Site, unchecked
from tests.tiny import tiny_sweep

BROKEN = "  - {table: '1', set: {data.name: mini_imagenet, data.root: /nowhere}}\n"
ONE = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=2)


def test_fail_fast_stops_at_the_first_failure_and_nothing_else_is_lost(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE.replace("parts:\n", f"parts:\n{BROKEN}"))
    assert site.run("fail_fast=true") == 1, site.said
    assert (
        "stopped: fail_fast is set, and a trial failed: " in site.said
        and "continue with the same command: " in site.said
    )
    assert site.states() == ["failed", "missing"]
    failed, _ = site.trials()
    assert site.statuses() == {"tiny": "KILLED", failed.key: "FAILED"}


def test_what_failed_by_its_own_fault_is_left_until_it_is_asked_for(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE + BROKEN)
    _, failed = site.trials()
    assert site.run() == 1, site.said
    assert "2 to run" in site.said and "retry them with --retry-failed" in site.said
    assert f"failed: {site.ledger.folder(failed.key)}: " in site.said and "earlier" not in site.said
    assert site.run() == 1, site.said
    assert "0 to run, 1 left as they are (1 failed)" in site.said and "retry them with --retry-failed" in site.said
    assert f"failed in an earlier start, not tried now: {failed.key}: " in site.said
    assert site.command("--plan") == 0 or "/nowhere" in site.said
    assert "failed ones did so in an earlier start and are left alone: --retry-failed tries them" in site.said
    assert site.run("--retry-failed") == 2, site.said
    assert "1 to run" in site.said and "error: data.root='/nowhere' does not exist" in site.said
    assert site.states() == ["done", "failed"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("done"), ONE)
    assert site.run() == 0, site.said
    return site


def test_stale_records_are_neither_used_nor_made_anew_unless_the_user_says_so(done: Site) -> None:
    (trial,) = done.trials()
    path = done.ledger.folder(trial.key) / "training.json"
    record = unchecked(path)
    record["provenance"]["code"] = "0" * 16
    path.write_text(json.dumps(record))
    before = path.stat().st_mtime_ns

    assert done.run() == 1, done.said
    assert "1 training, 0 done, 0 to run, 1 left as they are" in done.said
    assert "made by other code (0000000000000000, today's is " in done.said and "--accept-stale" in done.said
    table = done.folder / "results" / "tiny" / "table_2c.json"
    assert '"state": "stale"' in table.read_text()

    assert done.run("--accept-stale") == 0, done.said
    assert "its records are stale but were accepted: made by other code" in table.read_text()
    assert path.stat().st_mtime_ns == before

    assert done.run("--retrain-stale") == 0, done.said
    assert len(list((done.ledger.store / "superseded").iterdir())) == 1
    assert done.states() == ["done"] and "0" * 16 not in path.read_text()
    assert "stale" not in table.read_text().split('"notes"')[0]


def run_of(site: Site, key: str) -> str:
    """The id of a training's one run in MLflow."""
    client = MlflowClient(tracking_uri(site.ledger.store, None))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`dmf.key` = '{key}'")
    return run.info.run_id


def test_what_diverged_is_trained_anew_only_when_it_is_asked_for(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE + "    set: {training.learning_rate: 1.0e+30}\n")
    (trial,) = site.trials()
    ended = {"tiny": "FINISHED", trial.key: "FAILED"}
    path = site.ledger.folder(trial.key) / "training.json"
    assert site.run() == 0, site.said
    assert site.states() == ["diverged"] and site.statuses() == ended
    before, run = (path.read_bytes(), path.stat().st_mtime_ns), run_of(site, trial.key)

    assert site.run() == 0, site.said
    assert "1 training, 1 done, 0 to run" in site.said
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before and run_of(site, trial.key) == run

    assert site.run("--retry-diverged") == 0, site.said
    assert "1 training, 0 done, 1 to run" in site.said and site.states() == ["diverged"]
    assert path.stat().st_mtime_ns > before[1] and site.statuses() == ended
    assert run_of(site, trial.key) != run, "what diverged before is in the new run"


def test_a_part_of_a_sweep_and_what_fits_a_budget(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE + "    grid: {model.groups: [1, 64]}\n")
    assert site.run("--only", "groups=2") == 2
    assert "no training matches 'groups=2'; there are " in site.said
    assert site.run("--budget", "1h") == 2
    assert "measure them with --calibrate" in site.said
    assert site.command("--calibrate", "--only", "groups=1") == 0, site.said
    assert "1 of 1 row gave other outputs than the baseline after one step\nestimated: " in site.said
    assert "  1 training from a calibration" in site.said
    assert site.run("--only", "groups=1") == 0, site.said
    assert "1 training, 0 done, 1 to run" in site.said and site.states() == ["done", "missing"]
    assert site.run("--budget", "0.001s") == 2
    assert "--budget: the first training to run, groups=64, takes " in site.said
    assert "which is more than 0 s" in site.said
    assert site.run("--budget", "1h") == 0, site.said
    assert "1 of 1 training should end within 1 h 0 min" in site.said and "actual / estimated" in site.said
    assert site.states() == ["done", "done"]

    first, second = site.trials()
    for trial in (first, second):  # as if other code had made them
        path = site.ledger.folder(trial.key) / "training.json"
        record = unchecked(path)
        record["provenance"]["code"] = "0" * 16
        path.write_text(json.dumps(record))
    assert site.run("--budget", "0.001s", "--retrain-stale") == 2
    assert site.run("--only", "groups=2", "--retrain-stale") == 2
    assert not (site.ledger.store / "superseded").exists()
    assert site.run("--only", first.key, "--retrain-stale") == 0, site.said
    assert [path.name.split("-")[0] for path in (site.ledger.store / "superseded").iterdir()] == [first.key]
    assert site.states() == ["done", "done"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["look.yaml", "--only", "groups=1", "--budget", "1h"],
            "--only, --budget: only for sweeps with parts, but look is",
        ),
        (["look.yaml", "--calibrate"], "--calibrate: only for sweeps with parts"),
        (["tiny.yaml", "--again"], "--again makes --calibrate measure again; give both"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(ONE)
    Path("look.yaml").write_text("name: look\nsearch: {trials: 1, parameters: {model.groups: {choice: [1, 64]}}}\n")
    assert main(arguments) == 2
    assert told in capsys.readouterr().err and not Path("runs").exists()


def test_steps_are_measured_before_anything_is_paid_for(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE + "    grid: {model.groups: [1, 64]}\n")
    assert site.command("--calibrate") == 0, site.said
    assert not list((site.ledger.store / "trainings").glob("*")) and "s a step" in site.said
    assert site.command("--plan") == 0
    assert "estimated: " in site.said and "2 trainings from a calibration" in site.said
