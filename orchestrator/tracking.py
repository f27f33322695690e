"""MLflow as a mirror of the ledger: one parent run per sweep, one child per training. Only this module imports mlflow.

Only the driver writes, from one thread. Everything it writes is looked up first, so a mirror that an outage or a kill
left incomplete is made whole by the next start, and no epoch is there twice.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Experiment, Metric, Param, Run, RunTag  # noqa: E402

from dmf.config import EvaluationConfig, ExperimentConfig  # noqa: E402
from dmf.provenance import git_commit  # noqa: E402
from dmf.records import CONFIG, EVALUATIONS, RECORD, Epoch, EvaluationRecord, TrainingRecord  # noqa: E402
from dmf.values import digest  # noqa: E402
from orchestrator.ledger import Ledger  # noqa: E402
from orchestrator.plan import SweepPlan, Trial, flattened  # noqa: E402

log = logging.getLogger("dmf.tracking")

EXPERIMENT = "dmf"
SWEEP, TRIAL = "sweep", "trial"
"""Values of the tag `dmf.kind`."""
PARENT = "mlflow.parentRunId"
EVERY_EPOCH = "learning_rate"
"""A metric that every epoch has, and that is finite."""
OUTCOME, FAILURE, MIRRORED = "dmf.outcome", "dmf.failure", "dmf.mirrored"
"""Tags of a training's run: its record's outcome and failure, and a seal over what was written last."""
BATCH = 100
"""Params or tags in one request; MLflow's limit. Epochs in one request, of at most 10 metrics each, too."""


def tracking_uri(store: Path, given: str | None) -> str:
    """`given`, else $MLFLOW_TRACKING_URI, else SQLite in the store; a path in it made absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve() / 'mlflow.db'}"
    scheme, separator, path = uri.partition(":///")
    return f"{scheme}:///{Path(path).resolve()}" if separator and scheme == "sqlite" else uri


def connect(uri: str, artifacts: Path | None = None) -> tuple[MlflowClient, Experiment]:
    """A client with the experiment made, and with it the database's schema, before anybody else opens it.

    Args:
        artifacts: where runs in a database without a server keep their files.
    """
    if database := _database(uri):
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            database.open("ab").close()
        except OSError as error:
            raise ValueError(f"MLflow's database {database} can not be written: {error.strerror or error}") from None
    client, experiment = _reached(uri)
    if experiment is None:
        local = artifacts is not None and uri.startswith("sqlite:")
        location = artifacts.resolve().as_uri() if local and artifacts else None
        experiment = client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"the MLflow experiment {EXPERIMENT!r} at {uri} was deleted, and MLflow does not give its name again; "
            f"bring it back with: MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {experiment.experiment_id}"
        )
    return client, experiment


def _database(uri: str) -> Path | None:
    """The file of an SQLite URI; None for others."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" else None


def _reached(uri: str) -> tuple[MlflowClient, Experiment | None]:
    """A client, and the experiment if it is there. ValueError when MLflow can not be reached at `uri`."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = MlflowClient(uri)
        return client, client.get_experiment_by_name(EXPERIMENT)
    except Exception as error:  # MLflow's own, or of the database's driver, which may not even be installed
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"MLflow does not answer at {uri}: {reason[:400]}") from None


def _runs(client: MlflowClient, experiment: Experiment, filter_: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], filter_, page_token=token)
        yield from page
        if not (token := page.token):
            return


class SweepRuns:
    """The runs of one sweep in MLflow, brought to what the ledger says."""

    def __init__(self, client: MlflowClient, experiment: Experiment, ledger: Ledger, plan: SweepPlan) -> None:
        self.client, self.experiment, self.ledger, self.plan = client, experiment, ledger, plan
        self.store = str(ledger.store.resolve())
        self.trials = {trial.key: trial for trial in plan.trials()}
        self.parent = self._parent()
        children = _runs(client, experiment, f"tags.`{PARENT}` = '{self.parent}'")
        self.children = {run.data.tags["dmf.key"]: run.info.run_id for run in children}
        self.epochs_there: dict[str, set[int]] = {}

    def _parent(self) -> str:
        mine = f"tags.`dmf.kind` = '{SWEEP}' and tags.`dmf.sweep` = '{self.plan.name}'"
        for run in _runs(self.client, self.experiment, mine):
            if run.data.tags["dmf.store"] == self.store:
                return run.info.run_id
        return self._create(self.plan.name, {"dmf.kind": SWEEP, "mlflow.note.content": self.plan.about})

    def _create(self, name: str, tags: dict[str, str]) -> str:
        tags = {**tags, "dmf.sweep": self.plan.name, "dmf.store": self.store}
        tags["mlflow.source.git.commit"] = git_commit() or ""
        return self.client.create_run(self.experiment.experiment_id, tags=tags, run_name=name).info.run_id

    def open(self) -> None:
        """Say that the sweep runs, and what it plans."""
        self.client.update_run(self.parent, status="RUNNING")
        self.client.log_text(self.parent, self.plan.model_dump_json(indent=1), "plan.json")

    def begin(self, config: ExperimentConfig, label: str) -> None:
        """Say that a training runs. One that failed before has no outcome again."""
        run = self._child(config, label)
        if self.client.get_run(run).data.tags.get(OUTCOME) == "failed":
            self.client.log_batch(run, tags=[RunTag(name, "") for name in (OUTCOME, FAILURE, MIRRORED)])
        self.client.update_run(run, status="RUNNING")

    def _child(self, config: ExperimentConfig, label: str) -> str:
        if config.key not in self.children:
            tags = {"dmf.kind": TRIAL, "dmf.key": config.key, PARENT: self.parent}
            run = self._create(label, tags)
            self.children[config.key] = run
            values = flattened(config)
            self.client.log_batch(run, params=[Param(path, str(value)) for path, value in values.items()])
            self.client.log_text(run, config.model_dump_json(indent=1), CONFIG)
        return self.children[config.key]

    def forget(self, key: str) -> None:
        """Delete a training's run: it starts from nothing."""
        if run := self.children.pop(key, None):
            self.client.delete_run(run)

    def epochs(self, key: str, history: Iterable[Epoch]) -> None:
        """Add the epochs that are not there, as curves over the epoch."""
        self._add_epochs(self.children[key], history)

    def _add_epochs(self, run: str, history: Iterable[Epoch]) -> None:
        if run not in self.epochs_there:
            points = self.client.get_metric_history(run, EVERY_EPOCH)
            self.epochs_there[run] = {point.step for point in points}
        there = self.epochs_there[run]
        new = list({epoch.epoch: epoch for epoch in history if epoch.epoch not in there}.values())
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            self.client.log_batch(run, metrics=[metric for epoch in part for metric in _metrics(epoch)])
            there.update(epoch.epoch for epoch in part)

    def mirror(
        self, config: ExperimentConfig, wanted: Iterable[EvaluationConfig], label: str, interrupted: bool = False
    ) -> None:
        """Bring one training's run to what the ledger says of it, status included. For a training that is not running.

        Without a record it was interrupted: KILLED. One that diverged has ended: FINISHED, with the tag dmf.outcome.
        """
        record = self.ledger.training(config.key)
        if record is None:
            if run := self.children.get(config.key):
                self._end(run, "KILLED")
            return
        run = self._child(config, label)
        tested = self._bring(self.client.get_run(run), record)
        untested = {e.key for e in wanted} - tested
        if record.outcome == "failed":
            self._end(run, "FAILED")
        elif record.outcome == "finished" and untested:
            self._end(run, "KILLED" if interrupted else "FAILED")
        else:
            self._end(run, "FINISHED")

    def _bring(self, run: Run, record: TrainingRecord) -> set[str]:
        """Write what a run does not have of a record and its evaluations; return the evaluations' keys."""
        tests = self.ledger.evaluations(record.key)
        seal = digest([record.model_dump(mode="json"), [test.evaluation_key for test in tests]])
        if run.data.tags.get(MIRRORED) != seal:
            self._write(run.info.run_id, record, tests)
            self.client.set_tag(run.info.run_id, MIRRORED, seal)
        return {test.evaluation_key for test in tests}

    def _write(self, run: str, record: TrainingRecord, tests: tuple[EvaluationRecord, ...]) -> None:
        self._add_epochs(run, record.history)
        there = self.client.get_run(run).data.metrics
        metrics = [Metric(name, value, _now(), 0) for name, value in _final(record).items() if name not in there]
        for test in tests:
            for name, value in _test_metrics(test).items():
                known = {(point.step, point.value) for point in self.client.get_metric_history(run, name)}
                if (test.config.episodes, value) not in known:
                    metrics.append(Metric(name, value, _now(), test.config.episodes))
        tags = {OUTCOME: record.outcome, FAILURE: record.failure.reason[:500] if record.failure else ""}
        if record.provenance:
            tags |= {
                "mlflow.source.git.commit": record.provenance.git_commit or "",
                "dmf.data": record.provenance.data_fingerprint,
                "dmf.device": record.provenance.device,
            }
        self.client.log_batch(run, metrics=metrics, tags=[RunTag(name, value) for name, value in tags.items()])
        self.client.log_text(run, record.model_dump_json(indent=1), RECORD)
        for test in tests:
            self.client.log_text(run, test.model_dump_json(indent=1), f"{EVALUATIONS}/{test.evaluation_key}.json")

    def _end(self, run: str, status: str) -> None:
        if self.client.get_run(run).info.status != status:
            self.client.set_terminated(run, status)

    def settle(self, labels: dict[str, str], interrupted: bool) -> None:
        """Bring every training's run to what the ledger says, in other sweeps of this store too. For when none runs."""
        for key in [*self.trials, *(key for key in self.children if key not in self.trials)]:
            trial, record = self.trials.get(key), self.ledger.training(key)
            if record is not None:
                wanted = trial.evaluations if trial else ()
                self.mirror(record.config, wanted, labels.get(key, key), interrupted)
            elif key in self.children:
                self._end(self.children[key], "KILLED")
        self._settle_elsewhere()

    def _settle_elsewhere(self) -> None:
        """Bring runs of other sweeps, whose training this one may have ended, to what the ledger says of it.

        Where an evaluation that the other sweep wants is missing, the run keeps its status.
        """
        plans = {name: {trial.key: trial for trial in plan.trials()} for name, plan in self.ledger.plans().items()}
        for run in _runs(self.client, self.experiment, f"tags.`dmf.kind` = '{TRIAL}'"):
            key, sweep = run.data.tags["dmf.key"], run.data.tags["dmf.sweep"]
            ours = run.data.tags["dmf.store"] == self.store and key in self.children
            if not ours or sweep == self.plan.name or (record := self.ledger.training(key)) is None:
                continue
            tested = self._bring(run, record)
            trial = plans.get(sweep, {}).get(key)
            if record.outcome == "failed":
                self._end(run.info.run_id, "FAILED")
            elif record.outcome == "diverged" or (trial and tested >= {e.key for e in trial.evaluations}):
                self._end(run.info.run_id, "FINISHED")

    def close(self, status: str) -> None:
        """Say how the sweep ended."""
        self._end(self.parent, status)


def _metrics(epoch: Epoch) -> list[Metric]:
    values = {"loss": epoch.loss, EVERY_EPOCH: epoch.learning_rate, "epoch_seconds": epoch.seconds}
    values |= {f"loss_{name}": value for name, value in epoch.losses.items()}
    if epoch.validation_accuracy is not None:
        values["validation_accuracy"] = epoch.validation_accuracy
    return [Metric(name, value, _now(), epoch.epoch) for name, value in values.items()]


def _final(record: TrainingRecord) -> dict[str, float]:
    if record.outcome == "failed":
        return {}
    values = {
        "best_epoch": record.best_epoch,
        "best_validation_accuracy": record.best_validation_accuracy,
        "parameters": record.parameters,
        "training_seconds": record.seconds,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def _test_metrics(test: EvaluationRecord) -> dict[str, float]:
    """Accuracy and ci95, fractions in [0, 1]; their step in MLflow is the number of episodes."""
    what = f"{test.config.way}way_{test.config.shot}shot"
    return {f"{test.config.split}_accuracy/{what}": test.accuracy, f"{test.config.split}_ci95/{what}": test.ci95}


def _now() -> int:
    return int(time.time() * 1000)


class Tracker:
    """Mirrors a sweep while it runs, in a thread of its own: no trial waits for MLflow, and its errors stop none.

    What goes wrong on the way is logged; `stop` brings everything to the ledger's state again and says what is missing.
    """

    def __init__(self, uri: str, ledger: Ledger, plan: SweepPlan, labels: dict[str, str]) -> None:
        """Connect and set right what a dead driver left RUNNING. Raises when MLflow can not be written to."""
        client, experiment = connect(uri, ledger.store / "artifacts")
        store = str(ledger.store.resolve())
        running = _runs(client, experiment, "attributes.status = 'RUNNING'")
        left = {run.data.tags["dmf.sweep"] for run in running if run.data.tags.get("dmf.store") == store}
        for name, earlier in ledger.plans().items():
            if name in left:
                runs = SweepRuns(client, experiment, ledger, earlier)
                runs.settle({}, interrupted=True)
                runs.close("KILLED")
        self.runs = SweepRuns(client, experiment, ledger, plan)
        self.runs.open()
        self.labels = labels
        self.experiment_id = experiment.experiment_id
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Epoch]] = {}
        self._jobs: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._skip = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def expect(self, trial: Trial) -> None:
        """A training that the plan does not have and whose tests are wanted all the same: the best of a search."""
        self.runs.trials[trial.key] = trial

    def forget(self, key: str) -> None:
        """A training that starts from nothing."""
        self._jobs.put((self.runs.forget, (key,)))

    def started(self, config: ExperimentConfig, label: str) -> None:
        """A training that begins or goes on."""
        self._jobs.put((self.runs.begin, (config, label)))

    def epoch(self, key: str, epoch: Epoch) -> None:
        """An epoch that has ended."""
        with self._lock:
            self._waiting.setdefault(key, []).append(epoch)
        self._jobs.put((self._send_epochs, (key,)))

    def _send_epochs(self, key: str) -> None:
        with self._lock:
            epochs = self._waiting.pop(key, [])
        if epochs:
            self.runs.epochs(key, epochs)

    def ended(self, trial: Trial, label: str) -> None:
        """A training that has ended."""
        self._jobs.put((self.runs.mirror, (trial.config, trial.evaluations, label)))

    def stop(self, status: str) -> str | None:
        """Bring all runs to their last state, the sweep's to `status`; None, or why MLflow is incomplete."""
        self._skip = status == "KILLED"
        self._jobs.put(None)
        self._thread.join()
        try:
            self.runs.settle(self.labels, interrupted=status == "KILLED")
            self.runs.close(status)
        except Exception as error:
            log.exception("MLflow is incomplete")
            return f"MLflow is incomplete: {' '.join(str(error).split())}"
        return None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            action, arguments = job
            if self._skip:
                continue
            try:
                action(*arguments)
            except Exception:
                log.exception("MLflow did not take %s; what is missing is added at the end", action.__name__)


class MLflowRecords:
    """Plans and records as a sweep's runs in MLflow hold them; the report reads them as it reads a ledger."""

    def __init__(self, uri: str) -> None:
        """Raises ValueError when MLflow can not be reached or has no experiment of ours."""
        if (database := _database(uri)) and not database.is_file():
            raise ValueError(f"there is no database {database}; a sweep makes it, by default in its store as mlflow.db")
        self.client, experiment = _reached(uri)
        if experiment is None:
            raise ValueError(f"no experiment {EXPERIMENT!r} at {uri}; a sweep started with --tracking-uri makes it")
        self.experiment = experiment

    def plans(self) -> dict[str, SweepPlan]:
        """The plan of every sweep, by name; of two stores with a sweep of one name, the one started last."""
        runs = list(_runs(self.client, self.experiment, f"tags.`dmf.kind` = '{SWEEP}'"))
        texts = {run.data.tags["dmf.sweep"]: self._text(run, "plan.json") for run in reversed(runs)}
        found = {}
        for name, text in sorted(texts.items()):
            try:
                found |= {name: SweepPlan.model_validate_json(text)} if text else {}
            except ValueError as error:
                reason = " ".join(str(error).split())
                log.warning("the plan of %s can not be read, it is left out: %s", name, reason[:300])
        return found

    def plan(self, name: str) -> SweepPlan:
        """The plan of one sweep."""
        plans = self.plans()
        if name not in plans:
            raise ValueError(f"no sweep {name!r} in MLflow; there are: {', '.join(plans) or 'none'}")
        return plans[name]

    def training(self, key: str) -> TrainingRecord | None:
        """How a training ended; None: it has not."""
        text = self._of_trial(key, RECORD)
        return TrainingRecord.model_validate_json(text) if text else None

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """How a trained model did; None: not tested."""
        text = self._of_trial(training_key, f"{EVALUATIONS}/{evaluation_key}.json")
        return EvaluationRecord.model_validate_json(text) if text else None

    @cached_property
    def _by_key(self) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = {}
        for run in _runs(self.client, self.experiment, f"tags.`dmf.kind` = '{TRIAL}'"):
            found.setdefault(run.data.tags["dmf.key"], []).append(run)
        for runs in found.values():
            runs.sort(key=lambda run: (run.data.tags.get(OUTCOME) != "finished", -run.info.start_time))
        return found

    def running(self, key: str) -> bool:
        """Whether a training is at work."""
        return any(run.info.status == "RUNNING" for run in self._by_key.get(key, []))

    def _of_trial(self, key: str, path: str) -> str | None:
        """From the run with a finished record, else from the newest with any; one without an outcome goes on."""
        ended = (run for run in self._by_key.get(key, []) if run.data.tags.get(OUTCOME))
        return next((text for run in ended if (text := self._text(run, path))), None)

    def _text(self, run: Run, path: str) -> str | None:
        folder = path.rpartition("/")[0] or None
        if path not in {file.path for file in self.client.list_artifacts(run.info.run_id, folder)}:
            return None
        with TemporaryDirectory() as room:
            return Path(self.client.download_artifacts(run.info.run_id, path, room)).read_text(encoding="utf-8")
