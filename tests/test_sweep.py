"""The command line: sweeps on the embedded glyphs in this process, with a real MLflow, in one store.

The tests build on each other in file order: a sweep ends, is started again, is extended. test_ray.py tests what only
Ray can show.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.records.records import FORMAT, TrainingRecord
from dmf.records.staleness import Today
from orchestrator.costs.describe import describe
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import Standing
from orchestrator.sweep import main, summary
from tests.sites import ROOT, Site
from tests.tiny import tiny_sweep

PARTS = """
  - table: 2c
    grid: {model.groups: [1, 64]}
  - table: 2d
    trials: [{}, {training.learning_rate: 1.0e+30}]
"""
SPEC = tiny_sweep("tiny", "two trainings, and one that diverges", PARTS, epochs=6)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), SPEC)


def test_a_sweep_ends_with_every_record_and_its_tables(site: Site) -> None:
    assert site.run() == 0, site.said
    assert sorted(site.states()) == ["diverged", "done", "done"]
    ended = {"done": "FINISHED", "diverged": "FAILED"}
    by_key = {trial.key: ended[site.ledger.state(trial)] for trial in site.trials()}
    assert site.statuses() == {"tiny": "FINISHED", **by_key}
    assert "then open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning" in site.said
    assert f"mlflow ui --backend-store-uri sqlite:///{site.ledger.store}/mlflow.db" in site.said
    assert (site.folder / "results" / "tiny" / "table_2c.csv").is_file()


def test_mlflow_has_every_epoch_once_and_gives_the_records_back(site: Site) -> None:
    site.assert_mlflow_has(*site.trials())


def test_started_again_it_trains_nothing(site: Site) -> None:
    before = site.files()
    assert site.run() == 0, site.said
    assert "3 trainings, 3 done, 0 to run" in site.said
    assert site.files() == before


def test_more_episodes_test_again_a_new_cell_trains_and_a_failing_one_stops_nothing(site: Site) -> None:
    before = {path: time_ for path, time_ in site.files().items() if path.name == "training.json"}
    broken = "{table: '1', set: {data.name: mini_imagenet, data.root: /nowhere}}"
    added = "{table: 2c, set: {training.epochs: 2}, grid: {model.groups: [16]}}"
    more = (f"  - {broken}\n", f"  - {added}\n")
    site.spec.write_text(SPEC.replace("episodes: 4}", "episodes: 5}") + "".join(more))
    assert site.states() == ["untested", "untested", "diverged", "missing", "missing"]
    assert site.run() == 1, site.said
    assert "5 trainings, 1 done, 4 to run (2 only to test)" in site.said and site.said.count(": is tested") == 2
    first = site.trials()[0]
    record, test = site.ledger.training(first.key), site.ledger.evaluation(first.key, first.evaluations[0].key)
    assert record is not None and record.best_validation_accuracy is not None and test is not None
    told = f"done, validation accuracy {100 * record.best_validation_accuracy:.2f} % at its best epoch: test 5-way "
    assert told + f"1-shot {100 * test.accuracy:.2f} %" in site.said
    assert site.states() == ["done", "done", "diverged", "failed", "done"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    failed = site.ledger.training(site.trials()[3].key)
    assert failed is not None and failed.failure is not None and "/nowhere" in failed.failure.reason
    assert "/nowhere" in site.said
    statuses = site.statuses()
    assert (statuses["tiny"], statuses[failed.key]) == ("FAILED", "FAILED")
    assert list(statuses.values()).count("FINISHED") == 3


def test_the_plan_starts_nothing_and_says_what_would_be_done(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before = site.files()
    assert main([str(site.spec), "--plan", "--store", str(site.ledger.store), "seeds=[0,1]"]) == 2
    said, wrong = capsys.readouterr()
    assert wrong.count("\n") == 1 and "'/nowhere' does not exist" in wrong and wrong.endswith("(2 trainings)\n")
    assert "images: glyphs, embedded (28x28): train 10,770 of 359 classes (30 each), val 2,430 of 81" in said
    assert "12 trainings asked for, 10 distinct (2 duplicates removed)" in said
    assert "table 2c, 2d" in said and "  failed: " in said and "5 to train" in said
    assert site.files() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--store", "/dev/null/x"], "--store: /dev/null/x cannot be written to: Not a directory"),
        (["--results", "/dev/null"], "--results: /dev/null/tiny cannot be written to: Not a directory"),
        (["--address", "ray://head:10001"], "run the sweep on the cluster's head node with --address auto"),
        (["--tracking-uri", "foo://x"], "MLflow does not answer at foo://x"),
        (["--tracking-uri", "sqlite:////dev/null/x.db"], "MLflow's database /dev/null/x.db cannot be written"),
    ],
)
def test_what_can_not_work_is_told_in_a_sentence_before_anything_is_trained(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    places = ["--store", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main([str(tmp_path / "tiny.yaml"), *places, *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "runs" / "trainings").exists()


def test_a_plan_that_nobody_reads_to_its_end_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "orchestrator.sweep", "tiny.yaml", "--plan"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_images_that_lay_elsewhere_are_told(tmp_path: Path) -> None:
    spec = spec_from({"name": "s", "set": {"data.root": "/new"}, "parts": [{"table": "2c"}]})
    planned, ledger = plan(spec), Ledger(tmp_path)
    (trial,) = planned.trials()
    for root, told in (("/old", True), ("/new", False)):
        config = trial.config.replace(data__root=root)
        record = TrainingRecord(format=FORMAT, key=trial.key, config=config, outcome="diverged")
        ledger.write_training(record)
        assert ("trained on images at /old" in describe(spec, planned, ledger, Today())) == told
        stands = {trial.key: Standing("diverged", record=ledger.how_ended(trial.key))}
        said = summary((trial,), stands, ledger, {}, frozenset())
        assert ("trained on images at /old, not at /new" in said) == told


def test_a_mistake_starts_nothing(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(site.spec), "model.grups=3", "--store", str(tmp_path / "runs")]) == 2
    assert "did you mean model.groups?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
