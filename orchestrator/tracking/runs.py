"""Writes the runs of one sweep in MLflow: a parent for the sweep, a child for each training.

What a run holds is looked up once and then remembered. So the next process that updates the mirror from the ledger
completes what an outage or a kill left incomplete, and no epoch is there twice.

Somebody may delete runs or the experiment in MLflow's UI meanwhile: they are made again, or restored, and an error
about one run leaves the others alone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dmf.config import AnyTraining, EvaluationConfig
from dmf.records.provenance import git_commit
from dmf.records.records import CONFIG, EVALUATIONS, RECORD, Epoch, EvaluationRecord, TrainingRecord
from dmf.values import Damaged, digest
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import LOOKS, PLAN, Ledger
from orchestrator.tracking.database import place
from orchestrator.tracking.names import MIRRORED, OUTCOME, STORE, STORE_NAME, SWEEP, TRIAL, database_of
from orchestrator.tracking.server import Points, is_gone, log_to, refuses, restore, runs_of, upload
from orchestrator.tracking.shown import results, run_names
from reports.words import counted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

log = logging.getLogger("dmf.tracking")

PARENT = "mlflow.parentRunId"
LOSS = "loss"
"""A metric that every epoch has and that is always finite."""
FINAL = ("best_epoch", "best_validation_accuracy", "parameters")
"""Metrics written when a training ends, except its time."""
FAILURE = "dmf.failure"
"""A tag of a training's run: its record's failure."""
METRICS_AT_ONCE = 800
"""Points in one request, which may have 1,000 entries, including 100 params and 100 tags."""
FAILURES_AT_ONCE = 2
"""Failed requests in a row, about different runs, after which no others are tried."""


class Incomplete(Exception):
    """Some runs could not be updated; all others were."""


@dataclass
class TrainingRun:
    """A training's run as MLflow holds it; nobody else writes to it while this process drives the store."""

    id: str
    artifacts: str
    """The URI of its folder."""
    status: str
    tags: dict[str, str]
    configured: bool
    """Whether it has its parameters and its configuration."""
    metrics: set[str]
    """Metrics that have any point."""
    results: dict[str, float]
    """The last value of each metric when it was looked up."""
    points: dict[str, set[tuple[int, float]]] = field(default_factory=dict)
    """Step and value of every point, for metrics that were looked up."""
    uncertain: bool = False
    """Whether a request failed, so that the run must be looked up again."""

    @classmethod
    def of(cls, run: Run) -> TrainingRun:
        """Make it from a run that was looked up."""
        info, data = run.info, run.data
        of_run = info.run_id, info.artifact_uri, info.status, dict(data.tags), bool(data.params)
        return cls(*of_run, set(data.metrics), dict(data.metrics))

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Mark the run as uncertain if a write inside the block fails."""
        try:
            yield
        except BaseException:
            self.uncertain = True
            raise


class SweepRuns:
    """The runs of one sweep in MLflow, updated from the ledger."""

    def __init__(self, client: MlflowClient, experiment: Experiment, ledger: Ledger, plan: SweepPlan) -> None:
        self.client, self.experiment, self.ledger, self.plan = client, experiment, ledger, plan
        self.commit = git_commit() or ""
        self.trials = {trial.key: trial for trial in plan.trials()}
        self.names = run_names(plan)
        self.uncertain = False
        """Whether creating a run failed, so that the runs must be looked up again."""
        self.writes = 0
        """How many of this object's requests have changed MLflow."""
        self.parent = self._parent()
        self.children = self._children()
        self.complete: set[str] = set()
        """Keys of ended trainings whose runs this process has completed."""
        self.begun: dict[str, tuple[AnyTraining, str]] = {}
        """Configuration and label of the trainings that this process has marked as running."""

    def _parent(self) -> Run:
        if found := list(self._mine(SWEEP)):
            return self._first_of(found)
        return self._create(self.plan.name, {"dmf.kind": SWEEP, "mlflow.note.content": self.plan.about})

    def _children(self) -> dict[str, TrainingRun]:
        by_key: dict[str, list[Run]] = {}
        for run in self._mine(TRIAL):
            by_key.setdefault(run.data.tags["dmf.key"], []).append(run)
        return {key: TrainingRun.of(self._first_of(runs)) for key, runs in by_key.items()}

    def _mine(self, kind: str) -> Iterator[Run]:
        mine = f"tags.`dmf.kind` = '{kind}' and tags.`dmf.sweep` = '{self.plan.name}' and {self._in_store}"
        return runs_of(self.client, self.experiment, mine)

    @property
    def _in_store(self) -> str:
        return f"tags.`{STORE}` = '{self.ledger.id}'"

    def _first_of(self, runs: list[Run]) -> Run:
        """The oldest run; the others are deleted. A server makes two if its answer is lost and the request repeated."""
        first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        for run in others:
            self.client.delete_run(run.info.run_id)
            self.writes += 1
        return first

    def _create(self, name: str, tags: dict[str, str]) -> Run:
        of_store = {STORE: self.ledger.id, STORE_NAME: self.ledger.name}
        tags = {**tags, "dmf.sweep": self.plan.name, **of_store, "mlflow.source.git.commit": self.commit}
        self.writes += 1
        run = self.client.create_run(self.experiment.experiment_id, tags=tags, run_name=name)
        database = database_of(self.client.tracking_uri)
        if database and place(database, self.ledger, run.info.run_id, run.info.artifact_uri):
            run = self.client.get_run(run.info.run_id)
        return run

    def open(self) -> None:
        """Mark the sweep as running, and write its plan."""
        parent = self.parent.info.run_id
        self.client.update_run(parent, status="RUNNING")
        self.keep_plan()
        self.parent = self.client.get_run(parent)

    def keep_plan(self) -> None:
        """Write the sweep's plan into its run's folder."""
        upload(self.client, self.parent.info.artifact_uri, {PLAN: self.plan.file_text()})

    def surely(self, key: str, update: Callable[[], None]) -> None:
        """Run an update of one training's run; once more if somebody has deleted the run or the experiment."""
        try:
            update()
        except Exception as error:
            if not (refuses(error) and self._made_good(key)):
                raise
            update()

    def _made_good(self, key: str) -> bool:
        """Whether somebody has deleted the experiment, which is restored, or a run, which will be made again."""
        was_deleted = restore(self.client, self.experiment)
        self._keep_parent()
        run = self.children.get(key)
        if run is not None and is_gone(self.client, run.id):
            del self.children[key]
            return True
        return was_deleted

    def _keep_parent(self) -> None:
        """Make the sweep's run again if somebody has deleted it."""
        if is_gone(self.client, self.parent.info.run_id):
            self.parent = self._parent()
            self.open()

    def begin(self, config: AnyTraining, label: str) -> None:
        """Mark a training as running. One that failed before loses its outcome."""
        self.complete.discard(config.key)
        self.begun[config.key] = config, label
        run = self._child(config, label)
        failed_before = run.tags.get(OUTCOME) == "failed"
        self._log(run, {}, dict.fromkeys((OUTCOME, FAILURE, MIRRORED), "") if failed_before else {}, config)
        if run.status != "RUNNING":
            self.writes += 1
            with run.written():
                self.client.update_run(run.id, status="RUNNING")
            run.status = "RUNNING"

    def _child(self, config: AnyTraining, label: str) -> TrainingRun:
        """The run of a training, created if needed."""
        run = self._certain(config.key)
        if run is None:
            tags = {"dmf.kind": TRIAL, "dmf.key": config.key, PARENT: self.parent.info.run_id}
            try:
                run = TrainingRun.of(self._create(self.names.get(config.key, label), tags))
            except BaseException:
                self.uncertain = True  # it may exist anyway
                raise
            self.children[config.key] = run
        return run

    def be_certain(self) -> None:
        """Look up the runs again if creating one failed."""
        if self.uncertain:
            self.children = self._children()
            self.uncertain = False

    def _certain(self, key: str) -> TrainingRun | None:
        """A training's run, looked up again if a request about it failed; None if there is none."""
        run = self.children.get(key)
        if run is None or not run.uncertain:
            return run
        if is_gone(self.client, run.id):
            del self.children[key]
            return None
        self.children[key] = TrainingRun.of(self.client.get_run(run.id))
        return self.children[key]

    def _log(
        self,
        run: TrainingRun,
        metrics: Points,
        tags: dict[str, str],
        config: AnyTraining | None = None,
    ) -> None:
        """Write points and tags, and the configuration if the run lacks it; make no request if there is nothing new."""
        params = config.flat() if config and not run.configured else {}
        if config and params:
            self._keep(run, {CONFIG: config.model_dump_json(indent=1)})
        if not (metrics or tags or params):
            return
        self.writes += 1
        with run.written():
            log_to(self.client, run.id, metrics, {path: str(value) for path, value in params.items()}, tags)
        run.configured = run.configured or bool(params)
        run.tags |= tags
        run.metrics |= metrics.keys()
        for name in metrics.keys() & run.points.keys():
            run.points[name].update(metrics[name])

    def _keep(self, run: TrainingRun, texts: dict[str, str]) -> None:
        """Write files into a run's folder."""
        with run.written():
            upload(self.client, run.artifacts, texts)

    def _points(self, run: TrainingRun, name: str) -> set[tuple[int, float]]:
        """Step and value of every point of a metric, looked up once."""
        if name not in run.points:
            history = self.client.get_metric_history(run.id, name) if name in run.metrics else ()
            run.points[name] = {(point.step, point.value) for point in history}
        return run.points[name]

    def forget(self, key: str) -> None:
        """Delete the run of a training that starts from scratch."""
        self.complete.discard(key)
        if run := self.children.pop(key, None):
            if not is_gone(self.client, run.id):
                self.client.delete_run(run.id)
            self.writes += 1

    def epochs(self, key: str, history: Iterable[Epoch]) -> None:
        """Add the epochs that the run lacks, as curves over the epoch."""
        run = self._certain(key)
        if run is None:
            self.begin(*self.begun[key])
            run = self.children[key]
        for part in self._new_epochs(run, history):
            self._log(run, part, {})

    def _new_epochs(self, run: TrainingRun, history: Iterable[Epoch]) -> list[Points]:
        """The epochs that the run lacks, divided into requests; an epoch is never split."""
        there = {step for step, _ in self._points(run, LOSS)}
        parts: list[Points] = []
        room = 0
        for epoch in {epoch.epoch: epoch for epoch in history if epoch.epoch not in there}.values():
            values = _metrics(epoch)
            if len(values) > room:
                parts.append({})
                room = METRICS_AT_ONCE
            room -= len(values)
            for name, value in values.items():
                parts[-1].setdefault(name, []).append((epoch.epoch, value))
        return parts

    def mirror(
        self, config: AnyTraining, wanted: Iterable[EvaluationConfig], label: str, interrupted: bool = False
    ) -> None:
        """Update the run of a training that is not running from the ledger, including its status.

        Without a record it was interrupted: KILLED, and it has no outcome. One that failed or diverged is FAILED, and
        the tag dmf.outcome says which. A run with numbers from before a retraining is deleted and created again, since
        MLflow cannot delete points.
        """
        self._mirror(config.key, wanted, label, interrupted)

    def _mirror(self, key: str, wanted: Iterable[EvaluationConfig], label: str, interrupted: bool) -> None:
        """As `mirror`. Records are read only if the run does not hold them yet."""
        sealed = self.ledger.sealed(key)
        if sealed is None:
            self._cut_off(key)
            return
        run = self._certain(key)
        if run is None or run.tags.get(MIRRORED) != sealed.seal:
            run = self._rewritten(key, label, sealed.seal)
        if sealed.outcome == "finished" and {e.key for e in wanted} - sealed.tests:
            if not (interrupted and run.status == "FAILED"):
                self._end(run, "KILLED" if interrupted else "FAILED")
            return
        self._end(run, "FINISHED" if sealed.outcome == "finished" else "FAILED")
        if sealed.outcome != "failed":
            self.complete.add(key)

    def _rewritten(self, key: str, label: str, seal: str) -> TrainingRun:
        """A training's run, written from its records."""
        record, tests = self.ledger.training(key), self.ledger.evaluations(key)
        assert record is not None
        run = self._child(record.config, label)
        if self._contradicts(run, record, tests):
            self.forget(key)
            run = self._child(record.config, label)
        self._write(run, record, tests, seal)
        return run

    def _cut_off(self, key: str) -> None:
        """Update the run of a training without a record; it may have had one, in a store that was put back since."""
        if run := self._certain(key):
            if run.tags.get(OUTCOME) or run.tags.get(MIRRORED):
                self._log(run, {}, dict.fromkeys((OUTCOME, FAILURE, MIRRORED), ""))
            self._end(run, "KILLED")

    def _contradicts(self, run: TrainingRun, record: TrainingRecord, tests: tuple[EvaluationRecord, ...]) -> bool:
        """Whether a run has a loss or result that the records lack, because the training was retrained."""
        if not run.metrics or record.outcome == "failed":  # its epochs are in the checkpoint, not in the record
            return False
        losses = {epoch.epoch: epoch.loss for epoch in record.history}
        if any(not _equal(value, [losses.get(step)]) for step, value in self._points(run, LOSS)):
            return True
        known: dict[str, list[float | None]] = {name: [value] for name, value in _final(record).items()}
        for test in tests:
            for name, value in _test_metrics(test).items():
                known.setdefault(name, []).append(value)
                if any(step for step, _ in self._points(run, name)):  # earlier code made the number of episodes a step
                    return True
        return any(
            not _equal(value, known.get(name, []))
            for name, value in run.results.items()
            if name in FINAL or "/" in name
        )

    def _write(self, run: TrainingRun, record: TrainingRecord, tests: tuple[EvaluationRecord, ...], seal: str) -> None:
        """Write files first, then points, then tags, so that the digest is true whenever a process dies.

        Points and tags can share a request, because MLflow's stores write its tags last.
        """
        files = {f"{EVALUATIONS}/{test.evaluation_key}.json": test.file_text() for test in tests}
        self._keep(run, {RECORD: record.file_text(), **files})
        *parts, last = [*self._new_epochs(run, record.history), self._new_results(run, record, tests)]
        if parts and sum(map(len, [*parts[-1].values(), *last.values()])) <= METRICS_AT_ONCE:
            last = parts.pop() | last
        for part in parts:
            self._log(run, part, {})
        tags = {OUTCOME: record.outcome, FAILURE: record.failure.reason[:500] if record.failure else ""}
        if record.provenance:
            tags |= {
                "mlflow.source.git.commit": record.provenance.git_commit or "",
                "dmf.data": record.provenance.data_fingerprint,
                "dmf.device": record.provenance.device,
            }
        self._log(run, last, {**tags, MIRRORED: seal}, record.config)

    def _new_results(self, run: TrainingRun, record: TrainingRecord, tests: Iterable[EvaluationRecord]) -> Points:
        """The results of a record and its evaluations that the run lacks; of several tests of a task, the longest's.

        Their step is 0: MLflow draws metrics that have no other step as bars.
        """
        new: Points = {name: [(0, value)] for name, value in _final(record).items() if name not in run.metrics}
        latest: dict[str, float] = {}
        for test in sorted(tests, key=lambda test: test.config.episodes):
            latest |= _test_metrics(test)
        for name, value in latest.items():
            if (0, value) not in self._points(run, name):
                new[name] = [(0, value)]
        return new

    def _end(self, run: TrainingRun, status: str) -> None:
        if run.status != status:
            self.writes += 1
            with run.written():
                self.client.set_terminated(run.id, status)
            run.status = status

    def settle(self, labels: dict[str, str], interrupted: bool) -> None:
        """Update every training's run from the ledger, in other sweeps of this store too. Call it when none runs.

        A training whose record is damaged keeps its run as it is. Raises Incomplete, at the end, for runs that could
        not be updated.
        """
        self._keep_parent()
        self._look_after_complete()
        failed: dict[str, str] = {}
        in_a_row = 0
        for key in [*self.trials, *(key for key in self.children if key not in self.trials)]:
            if key in self.complete:
                continue
            try:
                self.surely(key, functools.partial(self._settle_one, key, labels.get(key, key), interrupted))
                in_a_row = 0
            except Damaged as error:
                log.warning("MLflow's run of training %s is left as it is: %s", key, one_line(error))
            except Exception as error:
                in_a_row += not refuses(error)
                if in_a_row >= FAILURES_AT_ONCE:  # it is not this run: MLflow or its disk is away
                    raise
                failed[key] = one_line(error)
        self._settle_elsewhere()
        self._keep_looks()
        if failed:
            first = next(iter(failed.items()))
            raise Incomplete(f"{counted(len(failed), 'run')} could not be updated, such as that of {first}")

    def _look_after_complete(self) -> None:
        """Count no run as complete that somebody has deleted since, or that is not below the sweep's run."""
        if self.complete:
            self.children, parent = self._children(), self.parent.info.run_id
            below = {key for key, run in self.children.items() if run.tags.get(PARENT) == parent}
            self.complete &= below

    def _settle_one(self, key: str, label: str, interrupted: bool) -> None:
        trial = self.trials.get(key)
        self._mirror(key, trial.evaluations if trial else (), label, interrupted)
        run = self.children.get(key)
        if run is not None and run.tags.get(PARENT) != self.parent.info.run_id:
            self._log(run, {}, {PARENT: self.parent.info.run_id})

    def _keep_looks(self) -> None:
        """Write the looks that the sweep has taken into its run's folder, if there are more than it has.

        Damaged ones are left out, with a warning.
        """
        try:
            looks = self.ledger.looks(self.plan.name)
        except Damaged as error:
            log.warning("MLflow keeps sweep %s without its looks: %s", self.plan.name, one_line(error))
            return
        taken, parent = str(len(looks.taken)) if looks else "", self.parent
        if looks and parent.data.tags.get("dmf.looks") != taken:
            upload(self.client, parent.info.artifact_uri, {LOOKS: looks.file_text()})
            self.client.set_tag(parent.info.run_id, "dmf.looks", taken)
            self.writes += 1
            self.parent = self.client.get_run(parent.info.run_id)

    def _settle_elsewhere(self) -> None:
        """Update runs of other sweeps whose trainings this one may have ended.

        If an evaluation that the other sweep wants is missing, the run keeps its status, or is KILLED if it has to be
        created again.
        """
        elsewhere = f"tags.`dmf.kind` = '{TRIAL}' and tags.`dmf.sweep` != '{self.plan.name}' and {self._in_store}"
        plans = self.ledger.plans()
        wanted = {name: {trial.key: trial for trial in plan.trials()} for name, plan in plans.items()}
        for found in runs_of(self.client, self.experiment, elsewhere):
            key, sweep = found.data.tags["dmf.key"], found.data.tags["dmf.sweep"]
            try:
                if key not in self.children or (sealed := self.ledger.sealed(key)) is None:
                    continue
            except Damaged:  # `settle` has said so
                continue
            run, plan = TrainingRun.of(found), plans.get(sweep)
            trial = wanted.get(sweep, {}).get(key)
            if run.tags.get(MIRRORED) != sealed.seal:
                record, tests = self.ledger.training(key), self.ledger.evaluations(key)
                assert record is not None
                if plan and self._contradicts(run, record, tests):
                    others = SweepRuns(self.client, self.experiment, self.ledger, plan)
                    asked = trial.evaluations if trial else ()
                    others.mirror(record.config, asked, found.info.run_name, interrupted=True)
                    self.writes += others.writes
                    continue
                self._write(run, record, tests, sealed.seal)
            if sealed.outcome != "finished":
                self._end(run, "FAILED")
            elif trial and sealed.tests >= {e.key for e in trial.evaluations}:
                self._end(run, "FINISHED")

    def close(self, status: str) -> None:
        """Write the sweep's final status."""
        self._keep_parent()
        if self.parent.info.status != status:
            self.writes += 1
            self.client.set_terminated(self.parent.info.run_id, status)
            self.parent = self.client.get_run(self.parent.info.run_id)

    def keep_results(self) -> None:
        """Write the sweep's metrics and its report into its run, unless they are there. A search has none.

        They are left out, with a warning, if the looks or curves that they need are damaged.
        """
        if not self.plan.cells:
            return
        try:
            metrics, report = results(self.plan, self.ledger)
        except Damaged as error:  # only the store's user can mend that
            log.warning("MLflow keeps sweep %s without its report: %s", self.plan.name, one_line(error))
            return
        seal, parent = digest([metrics, report]), self.parent
        if parent.data.tags.get(MIRRORED) == seal:
            return
        upload(self.client, parent.info.artifact_uri, {"report/index.html": report})
        there = parent.data.metrics
        new = [(name, value) for name, value in metrics.items() if not _equal(value, [there.get(name)])]
        for start in range(0, len(new), METRICS_AT_ONCE):
            points = {name: [(0, value)] for name, value in new[start : start + METRICS_AT_ONCE]}
            log_to(self.client, parent.info.run_id, points, {}, {})
        log_to(self.client, parent.info.run_id, {}, {}, {MIRRORED: seal})
        self.writes += 1
        self.parent = self.client.get_run(parent.info.run_id)


def one_line(error: BaseException) -> str:
    """An error's text on one line, cut if it is long."""
    return " ".join(str(error).split())[:300]


def _equal(value: float, others: Iterable[float | None]) -> bool:
    """Whether one of the others is equal, except for rounding by a database."""
    return any(other is not None and math.isclose(value, other, rel_tol=1e-9) for other in others)


def _metrics(epoch: Epoch) -> dict[str, float]:
    values = {LOSS: epoch.loss, "learning_rate": epoch.learning_rate, "epoch_seconds": epoch.seconds}
    values |= {f"loss_{name}": value for name, value in epoch.losses.items()}
    if epoch.validation_accuracy is not None:
        values["validation_accuracy"] = epoch.validation_accuracy
    return values


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
    """Accuracy and ci95, fractions in [0, 1]."""
    what = f"{test.config.way}way_{test.config.shot}shot" + (f"_{test.config.data.name}" if test.config.data else "")
    return {f"{test.config.split}_accuracy/{what}": test.accuracy, f"{test.config.split}_ci95/{what}": test.ci95}
