"""MLflow as a mirror of the ledger: idempotent, with true statuses, and readable as records. A real SQLite store."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.records import FORMAT, Epoch, EvaluationRecord, Failure, Provenance, TrainingRecord
from orchestrator.selftest.sweeps import Tracking
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from orchestrator.sync import main as main_of_sync
from orchestrator.tracking import reader as mirror
from orchestrator.tracking import server as mlflow_server
from orchestrator.tracking import tracker as tracking
from orchestrator.tracking.names import EXPERIMENT, OUTCOME, STORE, SWEEP, TRIAL, local_folder_of
from orchestrator.tracking.reader import MLflowRecords
from orchestrator.tracking.runs import MIRRORED, PARENT, SweepRuns
from orchestrator.tracking.server import connect, runs_of_store, tracking_uri
from orchestrator.tracking.tracker import Tracker, _News, reconcile
from reports.tables import PlannedCell
from tests.records_in_memory import evaluation_of
from tests.sites import empty_database

GOOD, BAD, NAN, CUT = (ExperimentConfig().replace(model__groups=groups) for groups in (1, 64, 160, 320))
TEST = EvaluationConfig(episodes=2, shot=1)
CI95 = 1.96 * 0.1 / 2**0.5
"""Of the accuracies of two episodes, 0.4 and 0.6."""
PLAN = SweepPlan(
    name="s",
    about="what it asks",
    cells=tuple(PlannedCell(table="2c", config=config, evaluation=TEST) for config in (GOOD, BAD, NAN, CUT)),
)
LABELS = {trial.key: f"groups={trial.config.model.groups}" for trial in PLAN.trials()}
TRIALS = {trial.key: trial for trial in PLAN.trials()}


def epoch(number: int, loss: float = 1.0) -> Epoch:
    accuracy = 0.1 * number if number % 2 else None
    losses = {"few_shot": loss, "global": 2 * loss}
    return Epoch(epoch=number, loss=loss, losses=losses, learning_rate=0.1, validation_accuracy=accuracy, seconds=1.0)


def finished(config: ExperimentConfig, epochs: int = 3) -> TrainingRecord:
    provenance = Provenance(
        data_fingerprint="d", image_sizes="84x84", git_commit="abc", versions={}, device="cpu", threads=1
    )
    history = tuple(epoch(number) for number in range(1, epochs + 1))
    return TrainingRecord(
        format=FORMAT,
        key=config.key,
        config=config,
        outcome="finished",
        history=history,
        best_epoch=3,
        best_validation_accuracy=0.3,
        parameters=10,
        seconds=3.0,
        provenance=provenance,
    )


def evaluated(config: ExperimentConfig, test: EvaluationConfig = TEST) -> EvaluationRecord:
    return evaluation_of(config.key, test, epoch=3, ci95=CI95)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A store with its own database."""
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    return Ledger(tmp_path)


def uri(ledger: Ledger) -> str:
    return tracking_uri(ledger.store, None)


def runs(ledger: Ledger) -> dict[str, Run]:
    """Runs by training key; the sweep's by its name. Fails if a training has two."""
    client = MlflowClient(uri(ledger))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    by_key = {run.data.tags.get("dmf.key", run.data.tags["dmf.sweep"]): run for run in found}
    assert len(by_key) == len(found)
    return by_key


def statuses(ledger: Ledger) -> dict[str, str]:
    return {key: run.info.status for key, run in runs(ledger).items()}


def steps(ledger: Ledger, key: str, metric: str) -> list[int]:
    run = runs(ledger).get(key)
    if run is None:
        return []
    return [point.step for point in MlflowClient(uri(ledger)).get_metric_history(run.info.run_id, metric)]


def launch(ledger: Ledger) -> Tracker:
    ledger.write_plan(PLAN)
    return Tracker(uri(ledger), ledger, PLAN, LABELS)


def test_a_sweep_from_start_to_end(ledger: Ledger) -> None:
    tracker = launch(ledger)
    for config in (GOOD, BAD, NAN):
        tracker.started(config, LABELS[config.key])
    for number in (1, 2, 2, 3):
        tracker.epoch(GOOD.key, epoch(number))
    deadline = time.monotonic() + 20
    while (len(statuses(ledger)), steps(ledger, GOOD.key, "loss")) != (4, [1, 2, 3]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert statuses(ledger) == {"s": "RUNNING", GOOD.key: "RUNNING", BAD.key: "RUNNING", NAN.key: "RUNNING"}

    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    failure = Failure(reason="no images", traceback="Traceback ...")
    ledger.write_training(TrainingRecord(format=FORMAT, key=BAD.key, config=BAD, outcome="failed", failure=failure))
    ledger.write_training(
        TrainingRecord(format=FORMAT, key=NAN.key, config=NAN, outcome="diverged", failure=Failure(reason="nan"))
    )
    for config in (GOOD, BAD, NAN):
        tracker.ended(TRIALS[config.key], LABELS[config.key])
    assert tracker.stop("FAILED") is None

    assert statuses(ledger) == {"s": "FAILED", GOOD.key: "FINISHED", BAD.key: "FAILED", NAN.key: "FAILED"}
    good = runs(ledger)[GOOD.key]
    assert good.data.tags["mlflow.parentRunId"] == runs(ledger)["s"].info.run_id
    assert good.data.tags["mlflow.source.git.commit"] == "abc"
    assert good.data.params["model.groups"] == "1"
    assert good.data.metrics["test_accuracy/5way_1shot"] == 0.5
    assert good.data.metrics["test_ci95/5way_1shot"] == CI95
    assert good.data.metrics["best_validation_accuracy"] == 0.3
    assert steps(ledger, GOOD.key, "loss_few_shot") == [1, 2, 3]
    assert steps(ledger, GOOD.key, "validation_accuracy") == [1, 3]
    assert runs(ledger)[NAN.key].data.tags["dmf.outcome"] == "diverged"
    assert runs(ledger)[BAD.key].data.tags["dmf.failure"] == "no images"


def test_started_again_nothing_is_there_twice(ledger: Ledger) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    for _ in range(3):
        assert launch(ledger).stop("FINISHED") is None
    assert statuses(ledger) == {"s": "FINISHED", GOOD.key: "FINISHED"}
    assert steps(ledger, GOOD.key, "loss") == [1, 2, 3]
    assert steps(ledger, GOOD.key, "test_accuracy/5way_1shot") == [0]
    assert steps(ledger, GOOD.key, "parameters") == [0]


def test_an_interrupted_training_is_killed_and_its_run_goes_on(ledger: Ledger) -> None:
    tracker = launch(ledger)
    tracker.started(CUT, "cut")
    tracker.epoch(CUT.key, epoch(1))
    while not steps(ledger, CUT.key, "loss"):
        time.sleep(0.1)
    assert tracker.stop("KILLED") is None
    assert statuses(ledger) == {"s": "KILLED", CUT.key: "KILLED"}

    tracker = launch(ledger)
    tracker.started(CUT, "cut")
    ledger.write_training(finished(CUT))
    ledger.write_evaluation(evaluated(CUT))
    tracker.ended(TRIALS[CUT.key], "cut")
    assert tracker.stop("FINISHED") is None
    assert statuses(ledger) == {"s": "FINISHED", CUT.key: "FINISHED"}
    assert steps(ledger, CUT.key, "loss") == [1, 2, 3]


def test_runs_that_a_dead_driver_left_running_are_set_right_by_the_next(ledger: Ledger) -> None:
    dead = launch(ledger)
    for config in (GOOD, CUT):
        dead.runs.begin(config, "")
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    assert set(statuses(ledger).values()) == {"RUNNING"}

    other = SweepPlan(name="other", about="", cells=PLAN.cells[1:2])
    ledger.write_plan(other)
    Tracker(uri(ledger), ledger, other, {}).stop("FINISHED")
    assert statuses(ledger) == {"s": "KILLED", GOOD.key: "FINISHED", CUT.key: "KILLED", "other": "FINISHED"}


def test_one_that_is_trained_but_not_tested_has_failed(ledger: Ledger) -> None:
    ledger.write_training(finished(GOOD))
    launch(ledger).stop("FAILED")
    assert statuses(ledger)[GOOD.key] == "FAILED"


def failed(config: ExperimentConfig) -> TrainingRecord:
    return TrainingRecord(
        format=FORMAT, key=config.key, config=config, outcome="failed", failure=Failure(reason="no images")
    )


def test_one_that_is_tried_again_has_no_outcome_until_it_ends(ledger: Ledger) -> None:
    ledger.write_training(failed(BAD))
    assert launch(ledger).stop("FAILED") is None
    assert MLflowRecords(uri(ledger)).training(BAD.key) == failed(BAD)

    tracker = launch(ledger)
    tracker.runs.begin(BAD, "")
    ledger.reopen(BAD.key)
    tags = runs(ledger)[BAD.key].data.tags
    assert (tags["dmf.outcome"], tags["dmf.failure"]) == ("", "")
    assert MLflowRecords(uri(ledger)).training(BAD.key) is None
    ledger.write_training(failed(BAD))  # the same record again
    assert tracker.stop("FAILED") is None
    assert runs(ledger)[BAD.key].data.tags["dmf.outcome"] == "failed"
    assert MLflowRecords(uri(ledger)).training(BAD.key) == failed(BAD)


def test_of_a_training_made_anew_nothing_former_stays(ledger: Ledger) -> None:
    """As when a kill or an outage kept MLflow from hearing that the former training was dropped."""
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    assert launch(ledger).stop("KILLED") is None
    (former,) = (run.info.run_id for key, run in runs(ledger).items() if key == GOOD.key)
    new = tuple(epoch(number, loss=0.5) for number in (1, 2))
    ledger.write_training(finished(GOOD).replace(best_epoch=1).model_copy(update={"history": new}))
    assert launch(ledger).stop("KILLED") is None
    run = runs(ledger)[GOOD.key]
    points = MlflowClient(uri(ledger)).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.5)] and run.info.run_id != former
    assert run.data.metrics["best_epoch"] == 1 and run.data.params and run.info.status == "FINISHED"
    assert MLflowRecords(uri(ledger)).training(GOOD.key) == ledger.training(GOOD.key)
    assert reconcile(uri(ledger), ledger) == {"s": 0}

    ledger.write_evaluation(evaluated(GOOD).replace(accuracy=0.125))  # tested anew
    assert launch(ledger).stop("KILLED") is None
    run = runs(ledger)[GOOD.key]
    assert [value for name, value in run.data.metrics.items() if name.startswith("test_accuracy/")] == [0.125]


def test_a_run_made_anew_whose_upload_fails_is_there_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.write_training(finished(GOOD))
    assert launch(ledger).stop("KILLED") is None
    new = tuple(epoch(number, loss=0.5) for number in (1, 2))
    ledger.write_training(finished(GOOD).model_copy(update={"history": new}))
    sweep = SweepRuns(*connect(uri(ledger), ledger.store / "artifacts"), ledger, PLAN)
    for broken in ("upload", "log_to"):
        with monkeypatch.context() as patch:
            patch.setattr(f"orchestrator.tracking.runs.{broken}", lambda *arguments: 1 / 0)
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    sweep.mirror(GOOD, (), "")
    sweep.mirror(GOOD, (), "")
    assert statuses(ledger)[GOOD.key] == "FINISHED" and steps(ledger, GOOD.key, "loss") == [1, 2]


def test_pauses_get_longer_up_to_a_minute_however_long_nobody_answers() -> None:
    assert [tracking.pause_after(failures) for failures in (0, 1, 2, 3, 5, 6, 5000)] == [2, 2, 4, 8, 32, 60, 60]


def test_a_run_of_another_sweep_is_made_anew_and_does_not_stay_running(ledger: Ledger) -> None:
    more = TEST.replace(shot=5)
    cells = tuple(PlannedCell(table="2c", config=GOOD, evaluation=test) for test in (TEST, more))
    other = SweepPlan(name="other", about="", cells=cells)
    ledger.write_plan(other)
    ledger.write_training(finished(GOOD))
    assert Tracker(uri(ledger), ledger, other, {}).stop("KILLED") is None
    new = tuple(epoch(number, loss=0.5) for number in (1, 2))
    ledger.write_training(finished(GOOD).model_copy(update={"history": new}))
    ledger.write_evaluation(evaluated(GOOD))
    assert launch(ledger).stop("KILLED") is None
    client = MlflowClient(uri(ledger))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.`dmf.key` = '{GOOD.key}'")
    assert sorted((run.data.tags["dmf.sweep"], run.info.status) for run in found) == [
        ("other", "KILLED"),
        ("s", "FINISHED"),
    ]
    assert {run.data.metrics["loss"] for run in found} == {0.5}


def test_a_store_of_the_same_path_on_another_machine_is_another_store(ledger: Ledger) -> None:
    first = launch(ledger)
    first.started(GOOD, LABELS[GOOD.key])
    first.abandon(skip=False)
    identity = ledger.store / "store.id"
    identity.unlink()
    other = Ledger(ledger.store)
    assert launch(other).stop("KILLED") is None
    client = MlflowClient(uri(ledger))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    seen = sorted((run.data.tags["dmf.kind"], run.data.tags[STORE], run.info.status) for run in found)
    expected = [("sweep", ledger.id, "RUNNING"), ("trial", ledger.id, "RUNNING"), ("sweep", other.id, "KILLED")]
    assert seen == sorted(expected) and other.id != ledger.id


def test_a_sweep_sets_right_the_runs_of_others_that_share_its_trainings(ledger: Ledger) -> None:
    ledger.write_training(failed(BAD))
    assert launch(ledger).stop("FAILED") is None

    other = SweepPlan(name="other", about="", cells=PLAN.cells[1:2])
    ledger.write_plan(other)
    tracker = Tracker(uri(ledger), ledger, other, {})
    tracker.started(BAD, "")
    ledger.write_training(finished(BAD))
    ledger.write_evaluation(evaluated(BAD))
    assert tracker.stop("FINISHED") is None
    client = MlflowClient(uri(ledger))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    both = client.search_runs([experiment.experiment_id], f"tags.`dmf.key` = '{BAD.key}'")
    assert [(run.data.tags["dmf.outcome"], run.info.status) for run in both] == [("finished", "FINISHED")] * 2


def test_of_several_runs_a_finished_record_counts_then_the_newest(ledger: Ledger) -> None:
    def ended(name: str, record: TrainingRecord) -> None:
        plan = SweepPlan(name=name, about="", cells=PLAN.cells[:1])
        ledger.write_training(record)
        sweep = SweepRuns(*connect(uri(ledger), ledger.store / "artifacts"), ledger, plan)
        sweep.mirror(GOOD, (TEST,), "")
        time.sleep(0.01)

    again = failed(GOOD).replace(failure__reason="no memory")
    ended("first", failed(GOOD))
    ended("second", again)
    assert MLflowRecords(uri(ledger)).training(GOOD.key) == again
    ended("third", finished(GOOD))
    ended("fourth", failed(GOOD))
    assert MLflowRecords(uri(ledger)).training(GOOD.key) == finished(GOOD)


def test_the_best_of_a_search_has_failed_when_its_tests_have(ledger: Ledger) -> None:
    search = SweepPlan(name="search", about="", cells=())
    ledger.write_plan(search)
    tracker = Tracker(uri(ledger), ledger, search, {})
    ledger.write_training(finished(GOOD))
    tracker.expect(TRIALS[GOOD.key])
    tracker.ended(TRIALS[GOOD.key], "")
    assert tracker.stop("FAILED") is None
    assert statuses(ledger)[GOOD.key] == "FAILED"


def test_one_without_a_record_is_killed_with_its_epochs_there(ledger: Ledger) -> None:
    tracker = launch(ledger)
    tracker.started(CUT, "stopped by a search")
    tracker.epoch(CUT.key, epoch(1))
    tracker.ended(TRIALS[CUT.key], "stopped by a search")
    assert tracker.stop("FINISHED") is None
    assert statuses(ledger)[CUT.key] == "KILLED"
    assert steps(ledger, CUT.key, "loss") == [1]


def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of all later requests to MLflow."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(MlflowClient, name)

        def told(*arguments: Any, **named: Any) -> Any:
            made.append(name)
            return method(*arguments, **named)

        return told

    for name in ("create_run", "get_run", "get_metric_history", "log_batch", "set_tag", "set_terminated", "update_run"):
        monkeypatch.setattr(MlflowClient, name, counted(name))
    return made


def test_a_training_that_has_ended_is_three_requests_and_none_when_it_is_known(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = SweepRuns(*connect(uri(ledger), ledger.store / "artifacts"), ledger, PLAN)
    ledger.write_training(finished(GOOD, epochs=300))
    ledger.write_evaluation(evaluated(GOOD))
    made = requests(monkeypatch)
    sweep.mirror(GOOD, (TEST,), "")
    assert made == ["create_run", "log_batch", "log_batch", "log_batch", "set_terminated"]  # 1,650 points
    made.clear()
    ledger.write_training(finished(BAD))
    ledger.write_evaluation(evaluated(BAD))
    sweep.mirror(BAD, (TEST,), "")
    assert made == ["create_run", "log_batch", "set_terminated"]
    sweep.mirror(BAD, (TEST,), "")
    assert made == ["create_run", "log_batch", "set_terminated"]
    sweep.settle(LABELS, interrupted=False)
    assert made[3:] == ["get_run"], "whether somebody has deleted the sweep's run"
    assert steps(ledger, GOOD.key, "loss") == list(range(1, 301))
    assert steps(ledger, GOOD.key, "validation_accuracy") == list(range(1, 301, 2))


def test_a_request_whose_answer_was_lost_writes_nothing_twice(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SweepRuns(*connect(uri(ledger), ledger.store / "artifacts"), ledger, PLAN)
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    log_batch = MlflowClient.log_batch

    def lost(*arguments: Any, **named: Any) -> None:
        log_batch(*arguments, **named)
        raise ConnectionError("no answer")

    with monkeypatch.context() as broken, pytest.raises(ConnectionError):
        broken.setattr(MlflowClient, "log_batch", lost)
        sweep.mirror(GOOD, (TEST,), "")
    sweep.mirror(GOOD, (TEST,), "")
    assert statuses(ledger) == {"s": "RUNNING", GOOD.key: "FINISHED"}
    assert steps(ledger, GOOD.key, "loss") == [1, 2, 3]
    assert steps(ledger, GOOD.key, "test_accuracy/5way_1shot") == [0]


@pytest.mark.parametrize("artifacts", ["local", "downloaded"])
def test_records_are_read_through_mlflow(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, artifacts: str) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    ledger.write_training(failed(BAD))
    tracker = launch(ledger)
    tracker.runs.begin(CUT, "")
    if artifacts == "downloaded":  # as from a server
        monkeypatch.setattr(mirror, "local_folder_of", lambda artifacts: None)
    tracker.runs.settle({}, interrupted=False)
    tracker.runs.begin(CUT, "")
    records = MLflowRecords(uri(ledger))
    assert records.plans() == {"s": PLAN}
    assert records.training(GOOD.key) == finished(GOOD) and records.training(BAD.key) == failed(BAD)
    assert records.evaluation(GOOD.key, TEST.key) == evaluated(GOOD) and records.evaluation(BAD.key, TEST.key) is None
    ended = records.how_ended(GOOD.key)
    assert ended is not None and (ended.outcome, ended.parameters, ended.seconds) == ("finished", 10, 3.0)
    assert ended == ledger.how_ended(GOOD.key)
    assert records.running(CUT.key) and not records.running(GOOD.key) and records.how_ended(CUT.key) is None


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("file:///a%20b/1", Path("/a b/1")),
        ("/a b/1", Path("/a b/1")),
        ("file://elsewhere/a", None),
        ("s3://bucket/1", None),
        ("mlflow-artifacts:/0/1", None),
    ],
)
def test_files_on_this_machine_are_told_from_those_elsewhere(uri: str, folder: Path | None) -> None:
    assert mirror.local_folder_of(uri) == folder


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database, but as long as the header of one: " * 10)
    with pytest.raises(ValueError, match="MLflow does not answer at sqlite:///.*x.db: .*file is not a database$"):
        MLflowRecords(f"sqlite:///{tmp_path / 'x.db'}")


def test_records_of_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no database"):
        MLflowRecords(f"sqlite:///{tmp_path}/typo.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["foo://x", "http://127.0.0.1:1"])
def test_an_mlflow_that_does_not_answer_is_told_in_a_sentence(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for reach in (MLflowRecords, connect):
        with pytest.raises(ValueError, match=f"MLflow does not answer at {place}: [^\n]+$"):
            reach(place)


def test_trouble_on_the_way_stops_nothing_and_is_made_good(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    tracker = launch(ledger)
    tracker.epoch("no such training", epoch(1))
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    tracker.ended(TRIALS[GOOD.key], "")
    assert tracker.stop("FINISHED") is None
    assert "did not accept an update of training no such training, will retry" in caplog.text
    assert statuses(ledger) == {"s": "FINISHED", GOOD.key: "FINISHED"}


def test_news_that_was_not_taken_is_told_with_what_came_since() -> None:
    first, second = epoch(1), epoch(2)
    begun = (GOOD, "label")
    early = _News(begun=begun, epochs=[first])
    assert early.before(_News(epochs=[second])) == _News(begun=begun, epochs=[first, second])
    assert early.before(_News(ended=(TRIALS[GOOD.key], "label"))).ended is not None
    ended = _News(ended=(TRIALS[GOOD.key], "label"))
    assert ended.before(_News(begun=begun)) == _News(begun=begun)
    assert early.before(_News(forgotten=True)) == _News(forgotten=True)
    assert _News(forgotten=True).before(_News(begun=begun)) == _News(begun=begun, forgotten=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    with Tracking(tmp_path_factory.mktemp("server") / "tracking") as tracking:
        yield tracking


def of_server(server: Tracking, ledger: Ledger) -> dict[str, Run]:
    found = runs_of_store(server.uri, ledger)
    by_key = {run.data.tags.get("dmf.key", run.data.tags["dmf.sweep"]): run for run in found}
    assert len(by_key) == len(found)
    return by_key


def test_several_drivers_make_one_experiment(server: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_server, "EXPERIMENT", "made at once")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: connect(server.uri)[1].experiment_id, range(8)))
    assert len(set(found)) == 1


def test_a_server_that_is_away_is_told_when_it_is_back(
    server: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_WRITES", 0.2)
    ledger = Ledger(tmp_path)
    ledger.write_plan(PLAN)
    server.kill()
    tracker = Tracker(server.uri, ledger, PLAN, LABELS)  # warns and continues
    assert tracker.runs is None
    for config in (GOOD, CUT):
        tracker.started(config, LABELS[config.key])
        tracker.epoch(config.key, epoch(1))
    time.sleep(1)
    server.ensure()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(of_server(server, ledger)) < 3:
        time.sleep(0.2)
    server.kill()
    tracker.epoch(CUT.key, epoch(2))
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    tracker.ended(TRIALS[GOOD.key], LABELS[GOOD.key])
    time.sleep(1)
    server.ensure()
    assert tracker.stop("KILLED", interrupted=True) is None
    found = of_server(server, ledger)
    assert {key: run.info.status for key, run in found.items()} == {
        "s": "KILLED",
        GOOD.key: "FINISHED",
        CUT.key: "KILLED",
    }
    history = MlflowClient(server.uri).get_metric_history(found[GOOD.key].info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3]


def test_what_a_dead_server_was_not_told_is_reconciled_and_then_nothing_is_left_to_do(
    server: Tracking, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    ledger.write_plan(PLAN)
    server.kill()
    tracker = Tracker(server.uri, ledger, PLAN, LABELS)
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    trouble = tracker.stop("FAILED")
    assert trouble is not None and "MLflow is incomplete" in trouble
    server.ensure()
    assert main_of_sync(["--store", str(tmp_path), "--tracking-uri", server.uri]) == 0
    assert {key: run.info.status for key, run in of_server(server, ledger).items()} == {
        "s": "KILLED",
        GOOD.key: "FINISHED",
    }
    client = MlflowClient(server.uri)
    client.set_terminated(of_server(server, ledger)[GOOD.key].info.run_id, "FAILED")  # a wrong status
    assert reconcile(server.uri, ledger) == {"s": 1}
    assert of_server(server, ledger)[GOOD.key].info.status == "FINISHED"
    assert reconcile(server.uri, ledger) == {"s": 0}


def test_a_run_that_a_lost_answer_made_twice_is_there_once(ledger: Ledger) -> None:
    launch(ledger).stop("KILLED")
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    client, experiment = connect(uri(ledger))
    (parent,) = runs(ledger).values()
    for name in (SWEEP, TRIAL):
        tags = {
            "dmf.kind": name,
            "dmf.sweep": "s",
            STORE: ledger.id,
            PARENT: parent.info.run_id,
        }
        for _ in range(2):
            client.create_run(experiment.experiment_id, tags=tags | ({"dmf.key": GOOD.key} if name == TRIAL else {}))
    assert len(client.search_runs([experiment.experiment_id])) == 5
    launch(ledger).stop("FINISHED")
    assert statuses(ledger) == {"s": "FINISHED", GOOD.key: "FINISHED"}


def test_a_mirror_that_stays_incomplete_says_so(ledger: Ledger) -> None:
    tracker = launch(ledger)
    ledger.write_training(finished(GOOD))
    (ledger.store / "mlflow.db").write_bytes(b"no database")
    trouble = tracker.stop("FINISHED")
    assert trouble is not None and trouble.startswith("MLflow is incomplete")


def test_records_come_back_from_mlflow_as_they_are_in_the_ledger(ledger: Ledger) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    launch(ledger).stop("FINISHED")
    records = MLflowRecords(uri(ledger))
    assert records.plans() == {"s": PLAN} and records.plan("s") == PLAN
    assert records.training(GOOD.key) == finished(GOOD)
    assert records.evaluation(GOOD.key, TEST.key) == evaluated(GOOD)
    assert records.training(BAD.key) is None and records.evaluation(GOOD.key, "other") is None
    assert not records.running(GOOD.key)


def test_uris_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Path("runs"), None) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri(Path("runs"), "sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert tracking_uri(Path("runs"), "http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    assert tracking_uri(Path("runs"), None) == "http://tracker"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def deleted_in_the_ui(ledger: Ledger, *names: str) -> set[str]:
    """Delete the runs of trainings, or of the sweep, as a person does in MLflow's UI; return their ids."""
    client, ids = MlflowClient(uri(ledger)), {runs(ledger)[name].info.run_id for name in names}
    for each in ids:
        client.delete_run(each)
    return ids


def test_runs_that_somebody_deletes_are_made_again_and_block_no_other(ledger: Ledger) -> None:
    tracker = launch(ledger)
    for config in (GOOD, BAD, CUT):
        tracker.started(config, LABELS[config.key])
    for config in (GOOD, BAD, CUT):
        tracker.epoch(config.key, epoch(1))
    until(lambda: all(steps(ledger, config.key, "loss") == [1] for config in (GOOD, BAD, CUT)))
    gone = deleted_in_the_ui(ledger, GOOD.key, BAD.key)
    for config in (GOOD, BAD, CUT):
        tracker.epoch(config.key, epoch(2))
    until(lambda: steps(ledger, CUT.key, "loss") == [1, 2])
    until(lambda: all(steps(ledger, config.key, "loss") == [2] for config in (GOOD, BAD)))
    for config in (GOOD, BAD, CUT):
        ledger.write_training(finished(config))
        ledger.write_evaluation(evaluated(config))
        tracker.ended(TRIALS[config.key], LABELS[config.key])
    assert tracker.stop("KILLED") is None
    for config in (GOOD, BAD, CUT):
        assert sorted(steps(ledger, config.key, "loss")) == [1, 2, 3]
        run = runs(ledger)[config.key]
        assert run.info.status == "FINISHED" and run.data.params["model.groups"] == str(config.model.groups)
        assert run.info.run_id not in gone
    assert statuses(ledger)["s"] == "KILLED"
    assert reconcile(uri(ledger), ledger) == {"s": 0}


def test_a_sweep_s_run_that_somebody_deletes_is_made_again_over_its_children(ledger: Ledger) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    tracker = launch(ledger)
    tracker.started(CUT, "cut")
    until(lambda: CUT.key in statuses(ledger))
    (gone,) = deleted_in_the_ui(ledger, "s")
    tracker.started(BAD, "bad")
    assert tracker.stop("KILLED") is None
    found = runs(ledger)
    parent = found.pop("s")
    assert parent.info.run_id != gone and parent.info.status == "KILLED"
    assert {run.data.tags[PARENT] for run in found.values()} == {parent.info.run_id}
    assert MLflowRecords(uri(ledger)).plan("s") == PLAN
    deleted_in_the_ui(ledger, "s")  # between two starts
    assert reconcile(uri(ledger), ledger)["s"] > 0
    found = runs(ledger)
    parent = found.pop("s")
    assert {run.data.tags[PARENT] for run in found.values()} == {parent.info.run_id}
    assert reconcile(uri(ledger), ledger) == {"s": 0}


def test_a_run_that_had_ended_before_somebody_deleted_it_or_the_sweep_s_is_there_at_the_end(ledger: Ledger) -> None:
    tracker = launch(ledger)
    for config in (GOOD, BAD):
        ledger.write_training(finished(config))
        ledger.write_evaluation(evaluated(config))
        tracker.started(config, LABELS[config.key])
        tracker.ended(TRIALS[config.key], LABELS[config.key])
    until(lambda: all(statuses(ledger).get(config.key) == "FINISHED" for config in (GOOD, BAD)))
    gone = deleted_in_the_ui(ledger, "s", GOOD.key)
    assert tracker.stop("KILLED") is None
    found = runs(ledger)
    parent = found.pop("s")
    assert found.keys() == {GOOD.key, BAD.key}
    assert not gone & {parent.info.run_id, found[GOOD.key].info.run_id}
    assert {run.data.tags[PARENT] for run in found.values()} == {parent.info.run_id}
    assert sorted(steps(ledger, GOOD.key, "loss")) == [1, 2, 3]
    assert reconcile(uri(ledger), ledger) == {"s": 0}


def test_runs_that_cannot_be_written_do_not_keep_others_waiting(ledger: Ledger) -> None:
    tracker = launch(ledger)
    for config in (GOOD, BAD):
        tracker.started(config, LABELS[config.key])
    until(lambda: {GOOD.key, BAD.key} <= statuses(ledger).keys())
    folders = [
        folder for key in (GOOD.key, BAD.key) if (folder := local_folder_of(runs(ledger)[key].info.artifact_uri))
    ]
    for folder in folders:
        shutil.move(folder, folder.with_name("aside"))
        folder.touch()
    for config in (GOOD, BAD, CUT):
        ledger.write_training(finished(config))
        ledger.write_evaluation(evaluated(config))
        tracker.ended(TRIALS[config.key], LABELS[config.key])
    until(lambda: statuses(ledger).get(CUT.key) == "FINISHED")
    assert {statuses(ledger)[config.key] for config in (GOOD, BAD)} == {"RUNNING"}
    for folder in folders:
        folder.unlink()
        shutil.move(folder.with_name("aside"), folder)
    assert tracker.stop("FINISHED") is None
    assert set(statuses(ledger).values()) == {"FINISHED"}


@pytest.mark.parametrize("when", ["between two starts", "while it runs"])
def test_an_experiment_that_somebody_deletes_is_restored(
    when: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = launch(ledger)
    if when == "between two starts":
        assert tracker.stop("KILLED") is None
    client = MlflowClient(uri(ledger))
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    if when == "between two starts":
        tracker = launch(ledger)
    tracker.started(GOOD, "good")
    tracker.epoch(GOOD.key, epoch(1))
    until(lambda: "is restored with its runs" in caplog.text)
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    tracker.ended(TRIALS[GOOD.key], "good")
    assert tracker.stop("FINISHED") is None
    assert statuses(ledger) == {"s": "FINISHED", GOOD.key: "FINISHED"}
    assert steps(ledger, GOOD.key, "loss") == [1, 2, 3]


def test_a_run_that_can_not_be_updated_is_told_and_the_others_are(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a run that somebody has renamed, locked or filled: MLflow refuses it again and again."""
    for config in (GOOD, BAD, NAN):
        ledger.write_training(finished(config))
        ledger.write_evaluation(evaluated(config))
    refused = MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
    write = SweepRuns._write

    def refusing(self: SweepRuns, run: Any, record: TrainingRecord, *more: Any) -> None:
        if record.key != NAN.key:
            raise refused
        write(self, run, record, *more)

    tracker = launch(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(SweepRuns, "_write", refusing)
        told = tracker.stop("FINISHED")
    assert told is not None and "2 runs could not be updated" in told
    assert statuses(ledger)[NAN.key] == "FINISHED" and statuses(ledger)["s"] == "FINISHED"
    assert launch(ledger).stop("FINISHED") is None


def test_after_an_older_store_was_put_back_no_outcome_stays_that_it_lacks(ledger: Ledger) -> None:
    for config in (GOOD, BAD):
        ledger.write_training(finished(config))
        ledger.write_evaluation(evaluated(config))
    assert launch(ledger).stop("FINISHED") is None
    (ledger.folder(GOOD.key) / "training.json").unlink()
    next((ledger.folder(BAD.key) / "evaluations").glob("*.json")).unlink()
    assert launch(ledger).stop("KILLED") is None
    found = runs(ledger)
    assert found[GOOD.key].data.tags[OUTCOME] == "" and found[GOOD.key].info.status == "KILLED"
    assert "test_accuracy/5way_1shot" not in found[BAD.key].data.metrics
    records = MLflowRecords(uri(ledger))
    assert records.training(GOOD.key) is None and records.evaluation(BAD.key, TEST.key) is None
    ledger.write_training(finished(GOOD))
    assert launch(ledger).stop("FINISHED") is None
    assert MLflowRecords(uri(ledger)).training(GOOD.key) == finished(GOOD)


def test_a_run_s_files_are_on_the_disk_before_it_is_marked_as_complete(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    events: list[str] = []
    sync, log_to = os.fsync, mlflow_server.log_to

    def noted_sync(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def noted_log(client: MlflowClient, run: str, points: Any, params: Any, tags: dict[str, str]) -> None:
        events.extend(["sealed"] if tags.get(MIRRORED) else [])
        log_to(client, run, points, params, tags)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr("orchestrator.tracking.runs.log_to", noted_log)
    assert launch(ledger).stop("FINISHED") is None
    before = events[: events.index("sealed")]
    assert any(name.startswith(".training.json.") for name in before)
    assert {"artifacts", "evaluations"} <= set(before), "the names in their folders, too"


def test_a_damaged_record_leaves_its_run_and_the_others_go_on(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    for config in (GOOD, BAD):
        ledger.write_training(finished(config))
        ledger.write_evaluation(evaluated(config))
    assert launch(ledger).stop("FINISHED") is None
    (ledger.folder(GOOD.key) / "training.json").write_text("{")
    ledger.write_training(finished(NAN))
    assert launch(ledger).stop("KILLED") is None
    assert f"run of training {GOOD.key} is left as it is" in caplog.text
    assert MLflowRecords(uri(ledger)).training(GOOD.key) == finished(GOOD)
    assert runs(ledger)[NAN.key].data.tags[OUTCOME] == "finished"
