"""What MLflow's pages show: names that tell runs apart, the sweep's results, its report, and where to look."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmf.config import EvaluationConfig
from dmf.records.records import FORMAT, Failure, TrainingRecord
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import LOOKS, Ledger
from orchestrator.sweep import _where
from orchestrator.tracking.runs import MIRRORED, SweepRuns
from orchestrator.tracking.server import connect, log_to
from orchestrator.tracking.shown import results, run_names
from orchestrator.tracking.tracker import reconcile
from orchestrator.tracking.uris import page_of_runs
from reports.tables import PlannedCell
from tests.records_in_memory import InMemory, episodes, planned
from tests.test_tracking import BAD, GOOD, NAN, PLAN, TEST, evaluated, failed, finished, launch, ledger, runs, uri

__all__ = ["ledger"]  # a fixture


def names(*cells: PlannedCell) -> list[str]:
    plan = SweepPlan(name="s", about="", cells=cells)
    found = run_names(plan)
    assert len(set(found.values())) == len(found) == len(plan.trials())
    return [found[trial.key] for trial in plan.trials()]


def test_names_say_table_row_shots_and_seed() -> None:
    cells = [
        planned("2d", seeds=(0, 1), model__alignment="ode", episodes__shot=5, model__groups=160),
        planned("2d", model__alignment=0),
        planned("2c", model__groups=320),
        planned("2d", model__method="raw_pixels"),
    ]
    assert names(*cells) == [
        "2d ODE, 5-shot, seed 0",
        "2d ODE, 5-shot, seed 1",
        "2d 0, 1-shot, seed 0",
        "2c 320, 1-shot, seed 0",
        "2d raw pixels, cosine, 1-shot",
    ]


def test_a_training_in_several_tables_is_named_by_the_first() -> None:
    full = {"model__alignment": "ode", "model__groups": 64}
    cells = [planned("2c", **full), planned("2d", **full), planned("2c", model__groups=1)]
    assert names(*cells) == ["2c 64, 1-shot, seed 0 (also 2d)", "2c 1, 1-shot, seed 0"]


def test_names_have_the_data_set_and_the_backbone_where_there_are_several() -> None:
    cells = [
        planned("1", model__method="proto_net"),
        planned("1", model__method="proto_net", data__name="tiered_imagenet"),
        planned("1", model__method="proto_net", model__backbone="conv64f"),
    ]
    assert names(*cells) == [
        "1 ProtoNet, miniImageNet, ResNet-12, 1-shot, seed 0",
        "1 ProtoNet, tieredImageNet, ResNet-12, 1-shot, seed 0",
        "1 ProtoNet, miniImageNet, Conv4, 1-shot, seed 0",
    ]


def test_trainings_of_one_row_are_told_apart_by_their_settings() -> None:
    cells = [planned("2c", model__groups=64, training__epochs=epochs) for epochs in (60, 95)]
    assert names(*cells) == ["2c 64, 1-shot, seed 0, epochs=60", "2c 64, 1-shot, seed 0, epochs=95"]


def test_pre_trainings_keep_their_label() -> None:
    first, second = names(planned("1", model__method="classifier_baseline", start__head="cosine"))
    assert first.startswith("pre-training ") and second == "1 Classifier-Baseline, 1-shot, seed 0"


def test_runs_in_mlflow_have_these_names(ledger: Ledger) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    assert launch(ledger).stop("FINISHED") is None
    assert runs(ledger)[GOOD.key].info.run_name == "2c 1, 1-shot, seed 0"


def ended_plan(ledger: Ledger) -> None:
    """One training of PLAN is done, one has failed, one has diverged, and one is missing."""
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    ledger.write_training(failed(BAD))
    diverged = Failure(reason="nan", step=7)
    ledger.write_training(TrainingRecord(format=FORMAT, key=NAN.key, config=NAN, outcome="diverged", failure=diverged))


def report_in(ledger: Ledger) -> str:
    parent = runs(ledger)["s"].info.run_id
    client = MlflowClient(uri(ledger))
    assert [file.path for file in client.list_artifacts(parent, "report")] == ["report/index.html"]
    with open(client.download_artifacts(parent, "report/index.html")) as file:
        return file.read()


def test_the_sweeps_run_has_its_results_and_its_report(ledger: Ledger) -> None:
    ended_plan(ledger)
    assert launch(ledger).stop("FAILED") is None
    parent = runs(ledger)["s"]
    assert parent.data.metrics == {
        "trainings/done": 1.0,
        "trainings/failed": 1.0,
        "trainings/diverged": 1.0,
        "trainings/missing": 1.0,
        "2c 5-way 1-shot/1": 0.5,
    }
    text = report_in(ledger)
    assert "Table 2c" in text and "50.00" in text and "diverged at step 7" in text and "what it asks" in text


def test_results_are_written_when_they_change_and_not_again(ledger: Ledger) -> None:
    ended_plan(ledger)
    assert launch(ledger).stop("KILLED") is None
    assert reconcile(uri(ledger), ledger) == {"s": 0}
    before = report_in(ledger)
    ledger.write_training(finished(BAD))
    ledger.write_evaluation(evaluated(BAD))
    assert reconcile(uri(ledger), ledger)["s"] > 0
    parent = runs(ledger)["s"]
    assert parent.data.metrics["2c 5-way 1-shot/64"] == 0.5 and parent.data.metrics["trainings/done"] == 2
    assert report_in(ledger) != before
    history = MlflowClient(uri(ledger)).get_metric_history(parent.info.run_id, "2c 5-way 1-shot/1")
    assert [(point.step, point.value) for point in history] == [(0, 0.5)]
    assert reconcile(uri(ledger), ledger) == {"s": 0}


def test_a_record_that_contradicts_itself_is_told_in_its_cell(ledger: Ledger) -> None:
    ended_plan(ledger)
    ledger.write_evaluation(evaluated(GOOD).replace(accuracy=0.25))
    assert launch(ledger).stop("FAILED") is None
    assert runs(ledger)["s"].info.status == "FAILED"
    assert "damaged: evaluation" in report_in(ledger) and "evaluate again" in report_in(ledger)
    assert "2c 5-way 1-shot/64" not in runs(ledger)["s"].data.metrics


def test_looks_that_cannot_be_read_cost_the_report_and_nothing_else(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ended_plan(ledger)
    ledger.sweep_folder("s").mkdir(parents=True)
    (ledger.sweep_folder("s") / LOOKS).write_text("{")
    assert launch(ledger).stop("FAILED") is None
    assert "MLflow keeps sweep s without its report: Looks in" in caplog.text
    assert "MLflow keeps sweep s without its looks: Looks in" in caplog.text
    assert runs(ledger)["s"].info.status == "FAILED" and MIRRORED not in runs(ledger)["s"].data.tags


def test_metrics_have_names_that_mlflow_takes(tmp_path: Path) -> None:
    """Commas and equals signs of labels are left out."""
    records, cells = InMemory(), []
    for epochs in (60, 95):
        cells.append(planned("2c", EvaluationConfig(episodes=5), model__groups=64, training__epochs=epochs))
        records.tested(cells[-1], episodes(0.5, 5))
    raw = planned("2c", EvaluationConfig(episodes=5), model__method="raw_pixels", data__name="birds")
    records.tested(raw, episodes(0.25, 5))
    cells.append(raw)

    store = Ledger(tmp_path / "runs")
    for training in records.trainings.values():
        store.write_training(training)
    for evaluation in records.evaluations.values():
        store.write_evaluation(evaluation)
    metrics, _ = results(SweepPlan(name="s", about="", cells=tuple(cells)), store)
    assert metrics.keys() == {
        "trainings/done",
        "2c miniImageNet 5-way 1-shot/64 training.epochs 60",
        "2c miniImageNet 5-way 1-shot/64 training.epochs 95",
        "2c birds 5-way 1-shot/raw pixels cosine",
    }


def test_a_test_is_a_metric_at_step_0_and_the_longest_of_a_task_counts(ledger: Ledger) -> None:
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD))
    assert launch(ledger).stop("KILLED") is None
    longer = TEST.replace(episodes=3)
    ledger.write_evaluation(evaluated(GOOD, longer).replace(accuracy=0.6))
    assert launch(ledger).stop("KILLED") is None
    run = runs(ledger)[GOOD.key]
    assert run.data.metrics["test_accuracy/5way_1shot"] == 0.6
    history = MlflowClient(uri(ledger)).get_metric_history(run.info.run_id, "test_accuracy/5way_1shot")
    assert {point.step for point in history} == {0}
    assert reconcile(uri(ledger), ledger) == {"s": 0}


def test_a_run_with_the_episodes_as_step_is_made_anew_when_it_changes(ledger: Ledger) -> None:
    """As earlier code wrote it: a dot at step 2,000 in the middle of an empty chart."""
    client, experiment = connect(uri(ledger), ledger.store / "artifacts")
    sweep = SweepRuns(client, experiment, ledger, PLAN)
    ledger.write_training(finished(GOOD))
    sweep.mirror(GOOD, (), "")
    former = sweep.children[GOOD.key].id
    log_to(client, former, {"test_accuracy/5way_1shot": [(2000, 0.5)]}, {}, {})
    ledger.write_evaluation(evaluated(GOOD))
    SweepRuns(client, experiment, ledger, PLAN).mirror(GOOD, (TEST,), "")
    run = runs(ledger)[GOOD.key]
    assert run.info.run_id != former
    history = client.get_metric_history(run.info.run_id, "test_accuracy/5way_1shot")
    assert [(point.step, point.value) for point in history] == [(0, 0.5)]


def test_the_address_opens_on_the_runs() -> None:
    page = "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning"
    assert page_of_runs("http://127.0.0.1:5000/", "7") == page_of_runs("http://127.0.0.1:5000", "7") == page
    assert page_of_runs("https://u:secret@host/ml", "1").startswith("https://u:***@host/ml/#/experiments/1/runs")
    assert _where("http://127.0.0.1:5000", "7") == f"MLflow: {page}"
    assert _where("http://127.0.0.1:5000", None) == "MLflow: http://127.0.0.1:5000"
    assert _where("sqlite:////a.db", "7").splitlines()[-1] == f"  then open {page}"
    assert "then open" not in _where("sqlite:////a.db", None)
