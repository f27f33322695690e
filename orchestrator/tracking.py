"""MLflow as a mirror of the ledger: one parent run per sweep, one child per training. Only this module imports mlflow;
`orchestrator.mirror` reads what it writes.

Only the driver writes, from one thread. What a run holds is looked up once and remembered from there on, so a mirror
that an outage or a kill left incomplete is made whole by the next start, and no epoch is there twice. While a sweep
runs, news of its trainings is gathered for `SECONDS_BETWEEN_WRITES`: what happened to one in that time is one request.
News that MLflow does not take waits, and is tried again after longer and longer pauses; nothing waits for it. What
still waits at the sweep's end is in the ledger, from which the next start or `python -m orchestrator.sync` tells it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Experiment, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: E402

from dmf.config import EvaluationConfig, ExperimentConfig  # noqa: E402
from dmf.provenance import git_commit  # noqa: E402
from dmf.records import CONFIG, EVALUATIONS, RECORD, Epoch, EvaluationRecord, TrainingRecord  # noqa: E402
from dmf.values import digest  # noqa: E402
from orchestrator.ledger import Ledger  # noqa: E402
from orchestrator.mirror import EXPERIMENT, OUTCOME, SWEEP, TRIAL, MirroredRun, database_of  # noqa: E402
from orchestrator.plan import SweepPlan, Trial, flattened, labels  # noqa: E402
from orchestrator.uris import told, without_password  # noqa: E402

log = logging.getLogger("dmf.tracking")

PARENT = "mlflow.parentRunId"
EVERY_EPOCH = "learning_rate"
"""A metric that every epoch has, and that is finite."""
FAILURE, MIRRORED = "dmf.failure", "dmf.mirrored"
"""Tags of a training's run: its record's failure, and a seal over what was written last."""
RUNS_AT_ONCE = 10_000
"""In one answer to a search."""
METRICS_AT_ONCE = 800
"""Points in one request, which may have 1,000 entries, and of those 100 params and 100 tags."""
SECONDS_BETWEEN_WRITES = 2.0
"""Short beside an epoch, and long beside a request."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries while MLflow does not answer; the first pause is `SECONDS_BETWEEN_WRITES`, each next is
twice as long."""
FAILURES_AT_ONCE = 2
"""Requests in a row that fail before what else there is waits for the next try."""
SERVERS = ("http", "https", "postgresql", "mysql", "mssql")
"""Schemes of what may be away for a while; an SQLite file or a wrong URI stays as it is."""

Points = dict[str, list[tuple[int, float]]]
"""By metric: step and value."""


def tracking_uri(store: Path, given: str | None) -> str:
    """`given`, else $MLFLOW_TRACKING_URI, else SQLite in the store; a path in it made absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve() / 'mlflow.db'}"
    scheme, separator, path = uri.partition(":///")
    return f"{scheme}:///{Path(path).resolve()}" if separator and scheme == "sqlite" else uri


REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")
"""Error codes of a server that answers, and not us."""


class Unreachable(ValueError):
    """A tracking server does not answer, and may later."""


def connect(uri: str, artifacts: Path | None = None) -> tuple[MlflowClient, Experiment]:
    """A client with the experiment made, and with it the database's schema, before anybody else opens it.

    Args:
        artifacts: where runs in a database without a server keep their files.
    """
    if database := database_of(uri):
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            database.open("ab").close()
        except OSError as error:
            raise ValueError(f"MLflow's database {database} can not be written: {error.strerror or error}") from None
    client, experiment = reached(uri)
    if experiment is None:
        local = artifacts is not None and uri.startswith("sqlite:")
        location = artifacts.resolve().as_uri() if local and artifacts else None
        experiment = _made(client, location)
    if experiment.lifecycle_stage == "deleted":
        shown = without_password(uri)
        raise ValueError(
            f"the MLflow experiment {EXPERIMENT!r} at {shown} was deleted, and MLflow does not give its name again; "
            f"bring it back with: MLFLOW_TRACKING_URI={shown} mlflow experiments restore -x {experiment.experiment_id}"
        )
    return client, experiment


def _made(client: MlflowClient, location: str | None) -> Experiment:
    """The experiment, which another driver may be making at the same moment."""
    try:
        return client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(EXPERIMENT)


def reached(uri: str) -> tuple[MlflowClient, Experiment | None]:
    """A client, and the experiment if it is there. ValueError when MLflow can not be reached at `uri`, `Unreachable`
    where that may pass."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = MlflowClient(uri)
        return client, client.get_experiment_by_name(EXPERIMENT)
    except Exception as error:  # MLflow's own, or of the database's driver, which may not even be installed
        reason = told(error, uri) or type(error).__name__
        text = f"MLflow does not answer at {without_password(uri)}: {reason[:400]}"
        if isinstance(error, ImportError) and uri.startswith("postgresql:"):
            text += "; with psycopg2 it is postgresql+psycopg2://"
        refused = isinstance(error, ImportError) or getattr(error, "error_code", "") in REFUSALS
        passing = uri.split(":")[0].split("+")[0] in SERVERS and not refused
        raise (Unreachable if passing else ValueError)(text) from None


def _runs(client: MlflowClient, experiment: Experiment, filter_: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], filter_, max_results=RUNS_AT_ONCE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def runs_through_mlflow(uri: str) -> list[MirroredRun]:
    """Every run of our experiment, the newest first. ValueError when MLflow can not be reached or has none."""
    client, experiment = reached(uri)
    if experiment is None:
        raise ValueError(
            f"no experiment {EXPERIMENT!r} at {without_password(uri)}; a sweep started with --tracking-uri makes it"
        )
    return [
        MirroredRun(run.info.run_id, run.info.status, run.info.start_time, run.info.artifact_uri, run.data.tags)
        for run in _runs(client, experiment, "")
    ]


def runs_of_store(uri: str, ledger: Ledger) -> list[Run]:
    """Every run in MLflow that was made for a store."""
    client, experiment = reached(uri)
    store = ledger.name
    return list(_runs(client, experiment, f"tags.`dmf.store` = '{store}'")) if experiment else []


def downloaded(client: MlflowClient, run: str, path: str) -> bytes | None:
    """A file of a run; None where it has none of that name."""
    folder = path.rpartition("/")[0] or None
    if path not in {file.path for file in client.list_artifacts(run, folder)}:
        return None
    with TemporaryDirectory() as room:
        return Path(client.download_artifacts(run, path, room)).read_bytes()


@dataclass
class TrainingRun:
    """A training's run, as MLflow holds it: nobody else writes to it while this process drives the store."""

    id: str
    artifacts: str
    """Its folder's URI."""
    status: str
    tags: dict[str, str]
    configured: bool
    """Whether it has its parameters and its configuration."""
    metrics: set[str]
    """Those with any point."""
    points: dict[str, set[tuple[int, float]]] = field(default_factory=dict)
    """Step and value of every point, of the metrics that were asked for."""
    uncertain: bool = False
    """A request failed, so it is to be looked up again."""

    @classmethod
    def of(cls, run: Run) -> TrainingRun:
        """As it was looked up."""
        info, data = run.info, run.data
        return cls(info.run_id, info.artifact_uri, info.status, dict(data.tags), bool(data.params), set(data.metrics))

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Around a request that writes: after one that failed nobody knows what is there."""
        try:
            yield
        except BaseException:
            self.uncertain = True
            raise


class SweepRuns:
    """The runs of one sweep in MLflow, brought to what the ledger says."""

    def __init__(self, client: MlflowClient, experiment: Experiment, ledger: Ledger, plan: SweepPlan) -> None:
        self.client, self.experiment, self.ledger, self.plan = client, experiment, ledger, plan
        self.store = ledger.name
        self.commit = git_commit() or ""
        self.trials = {trial.key: trial for trial in plan.trials()}
        self.uncertain = False
        """A request to make a run failed, so they are to be looked up again."""
        self.writes = 0
        """How many requests of this object have changed what MLflow holds."""
        self.parent = self._parent()
        self.children = self._children()
        self.complete: set[str] = set()
        """Keys of trainings that have ended and whose runs this process has brought to their last state."""

    def _parent(self) -> Run:
        found = [run for run in self._mine(SWEEP) if run.data.tags["dmf.store"] == self.store]
        if found:
            return self._first_of(found)
        return self._create(self.plan.name, {"dmf.kind": SWEEP, "mlflow.note.content": self.plan.about})

    def _children(self) -> dict[str, TrainingRun]:
        by_key: dict[str, list[Run]] = {}
        for run in self._mine(TRIAL):
            if run.data.tags["dmf.store"] == self.store:
                by_key.setdefault(run.data.tags["dmf.key"], []).append(run)
        return {key: TrainingRun.of(self._first_of(runs)) for key, runs in by_key.items()}

    def _mine(self, kind: str) -> Iterator[Run]:
        mine = f"tags.`dmf.kind` = '{kind}' and tags.`dmf.sweep` = '{self.plan.name}'"
        return _runs(self.client, self.experiment, mine)

    def _first_of(self, runs: list[Run]) -> Run:
        """The oldest. Others are deleted: a server that was asked again, since its answer was lost, made two."""
        first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        for run in others:
            self.client.delete_run(run.info.run_id)
            self.writes += 1
        return first

    def _create(self, name: str, tags: dict[str, str]) -> Run:
        tags = {**tags, "dmf.sweep": self.plan.name, "dmf.store": self.store, "mlflow.source.git.commit": self.commit}
        self.writes += 1
        return self.client.create_run(self.experiment.experiment_id, tags=tags, run_name=name)

    def open(self) -> None:
        """Say that the sweep runs, and what it plans."""
        parent = self.parent.info.run_id
        self.client.update_run(parent, status="RUNNING")
        self.keep_plan()
        self.parent = self.client.get_run(parent)

    def keep_plan(self) -> None:
        """Write what the sweep plans into its run's folder."""
        self.client.log_text(self.parent.info.run_id, self.plan.model_dump_json(indent=1), "plan.json")

    def begin(self, config: ExperimentConfig, label: str) -> None:
        """Say that a training runs. One that failed before has no outcome again."""
        self.complete.discard(config.key)
        run = self._child(config, label)
        failed_before = run.tags.get(OUTCOME) == "failed"
        self._log(run, {}, dict.fromkeys((OUTCOME, FAILURE, MIRRORED), "") if failed_before else {}, config)
        if run.status != "RUNNING":
            self.writes += 1
            with run.written():
                self.client.update_run(run.id, status="RUNNING")
            run.status = "RUNNING"

    def _child(self, config: ExperimentConfig, label: str) -> TrainingRun:
        """The run of a training, made when there is none."""
        run = self.children.get(config.key)
        if run is None:
            tags = {"dmf.kind": TRIAL, "dmf.key": config.key, PARENT: self.parent.info.run_id}
            try:
                run = TrainingRun.of(self._create(label, tags))
            except BaseException:
                self.uncertain = True  # it may be there all the same
                raise
            self.children[config.key] = run
        return self._certain(config.key, run)

    def be_certain(self) -> None:
        """After a request to make a run that failed: look up which there are."""
        if self.uncertain:
            self.children = self._children()
            self.uncertain = False

    def _certain(self, key: str, run: TrainingRun) -> TrainingRun:
        if run.uncertain:
            self.children[key] = run = TrainingRun.of(self.client.get_run(run.id))
        return run

    def _log(
        self,
        run: TrainingRun,
        metrics: Points,
        tags: dict[str, str],
        config: ExperimentConfig | None = None,
    ) -> None:
        """Write points and tags, and what is still missing of the configuration, where there is anything to write."""
        params = flattened(config) if config and not run.configured else {}
        if config and params:
            self._keep(run, {CONFIG: config.model_dump_json(indent=1)})
        if not (metrics or tags or params):
            return
        now = _now()
        self.writes += 1
        with run.written():
            self.client.log_batch(
                run.id,
                [Metric(name, value, now, step) for name, points in metrics.items() for step, value in points],
                [Param(path, str(value)) for path, value in params.items()],
                [RunTag(name, value) for name, value in tags.items()],
            )
        run.configured = run.configured or bool(params)
        run.tags |= tags
        run.metrics |= metrics.keys()
        for name in metrics.keys() & run.points.keys():
            run.points[name].update(metrics[name])

    def _keep(self, run: TrainingRun, texts: dict[str, str]) -> None:
        """Write files into a run's folder."""
        with run.written(), TemporaryDirectory() as room:
            for path, text in texts.items():
                file = Path(room, path)
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
            get_artifact_repository(run.artifacts, tracking_uri=self.client.tracking_uri).log_artifacts(room)

    def _points(self, run: TrainingRun, name: str) -> set[tuple[int, float]]:
        """Step and value of every point of a metric, asked for once."""
        if name not in run.points:
            history = self.client.get_metric_history(run.id, name) if name in run.metrics else ()
            run.points[name] = {(point.step, point.value) for point in history}
        return run.points[name]

    def forget(self, key: str) -> None:
        """Delete a training's run: it starts from nothing."""
        self.complete.discard(key)
        if run := self.children.pop(key, None):
            self.writes += 1
            self.client.delete_run(run.id)

    def epochs(self, key: str, history: Iterable[Epoch]) -> None:
        """Add the epochs that are not there, as curves over the epoch."""
        run = self._certain(key, self.children[key])
        for part in self._new_epochs(run, history):
            self._log(run, part, {})

    def _new_epochs(self, run: TrainingRun, history: Iterable[Epoch]) -> list[Points]:
        """The epochs that are not there, as parts for a request each; an epoch is never in two."""
        there = {step for step, _ in self._points(run, EVERY_EPOCH)}
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
        self, config: ExperimentConfig, wanted: Iterable[EvaluationConfig], label: str, interrupted: bool = False
    ) -> None:
        """Bring one training's run to what the ledger says of it, status included. For a training that is not running.

        Without a record it was interrupted: KILLED. One that diverged has ended: FINISHED, with the tag dmf.outcome.
        """
        record = self.ledger.training(config.key)
        if record is None:
            if run := self.children.get(config.key):
                self._end(self._certain(config.key, run), "KILLED")
            return
        run = self._child(config, label)
        tested = self._bring(run, record)
        untested = {e.key for e in wanted} - tested
        if record.outcome == "failed":
            self._end(run, "FAILED")
        elif record.outcome == "finished" and untested:
            if not (interrupted and run.status == "FAILED"):
                self._end(run, "KILLED" if interrupted else "FAILED")
        else:
            self._end(run, "FINISHED")
            self.complete.add(config.key)

    def _bring(self, run: TrainingRun, record: TrainingRecord) -> set[str]:
        """Write what a run does not have of a record and its evaluations; return the evaluations' keys."""
        tests = self.ledger.evaluations(record.key)
        seal = digest([record.model_dump(mode="json"), [test.evaluation_key for test in tests]])
        if run.tags.get(MIRRORED) != seal:
            self._write(run, record, tests, seal)
        return {test.evaluation_key for test in tests}

    def _write(self, run: TrainingRun, record: TrainingRecord, tests: tuple[EvaluationRecord, ...], seal: str) -> None:
        """Files first, then points, then the tags: the seal is true whenever a process dies.

        Points and tags can share a request, of which MLflow's stores write the tags last.
        """
        files = {f"{EVALUATIONS}/{test.evaluation_key}.json": test.model_dump_json(indent=1) for test in tests}
        self._keep(run, {RECORD: record.model_dump_json(indent=1), **files})
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
        """What a record and its evaluations come to, as far as it is not there."""
        new: Points = {name: [(0, value)] for name, value in _final(record).items() if name not in run.metrics}
        for test in tests:
            for name, value in _test_metrics(test).items():
                point = (test.config.episodes, value)
                if point not in self._points(run, name):
                    new.setdefault(name, []).append(point)
        return new

    def _end(self, run: TrainingRun, status: str) -> None:
        if run.status != status:
            self.writes += 1
            with run.written():
                self.client.set_terminated(run.id, status)
            run.status = status

    def settle(self, labels: dict[str, str], interrupted: bool) -> None:
        """Bring every training's run to what the ledger says, in other sweeps of this store too. For when none runs."""
        for key in [*self.trials, *(key for key in self.children if key not in self.trials)]:
            if key in self.complete:
                continue
            trial, record = self.trials.get(key), self.ledger.training(key)
            if record is not None:
                wanted = trial.evaluations if trial else ()
                self.mirror(record.config, wanted, labels.get(key, key), interrupted)
            elif run := self.children.get(key):
                self._end(self._certain(key, run), "KILLED")
        self._settle_elsewhere()

    def _settle_elsewhere(self) -> None:
        """Bring runs of other sweeps, whose training this one may have ended, to what the ledger says of it.

        Where an evaluation that the other sweep wants is missing, the run keeps its status.
        """
        others = f"tags.`dmf.kind` = '{TRIAL}' and tags.`dmf.sweep` != '{self.plan.name}'"
        plans = {name: {trial.key: trial for trial in plan.trials()} for name, plan in self.ledger.plans().items()}
        for found in _runs(self.client, self.experiment, others):
            key, sweep = found.data.tags["dmf.key"], found.data.tags["dmf.sweep"]
            ours = found.data.tags["dmf.store"] == self.store and key in self.children
            if not ours or (record := self.ledger.training(key)) is None:
                continue
            run = TrainingRun.of(found)
            tested = self._bring(run, record)
            trial = plans.get(sweep, {}).get(key)
            if record.outcome == "failed":
                self._end(run, "FAILED")
            elif record.outcome == "diverged" or (trial and tested >= {e.key for e in trial.evaluations}):
                self._end(run, "FINISHED")

    def close(self, status: str) -> None:
        """Say how the sweep ended."""
        if self.parent.info.status != status:
            self.writes += 1
            self.client.set_terminated(self.parent.info.run_id, status)
            self.parent = self.client.get_run(self.parent.info.run_id)


def _metrics(epoch: Epoch) -> dict[str, float]:
    values = {"loss": epoch.loss, EVERY_EPOCH: epoch.learning_rate, "epoch_seconds": epoch.seconds}
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
    """Accuracy and ci95, fractions in [0, 1]; their step in MLflow is the number of episodes."""
    what = f"{test.config.way}way_{test.config.shot}shot"
    return {f"{test.config.split}_accuracy/{what}": test.accuracy, f"{test.config.split}_ci95/{what}": test.ci95}


def _now() -> int:
    return int(time.time() * 1000)


@dataclass
class _News:
    """What MLflow has not yet been told of one training. What came before its last start or end is no news any more."""

    begun: tuple[ExperimentConfig, str] | None = None
    epochs: list[Epoch] = field(default_factory=list)
    ended: tuple[Trial, str] | None = None
    forgotten: bool = False

    def before(self, later: _News) -> _News:
        """This news, which MLflow did not take, and what came since, as one."""
        if later.forgotten:
            return later
        ended = later.ended or (None if later.begun else self.ended)
        return _News(later.begun or self.begun, [*self.epochs, *later.epochs], ended, self.forgotten)


class Tracker:
    """Mirrors a sweep while it runs, in a thread of its own: no trial waits for MLflow, and its errors stop none.

    A server that does not answer, at the start or on the way, is tried again; `stop` brings everything to the ledger's
    state and says what is missing.
    """

    def __init__(self, uri: str, ledger: Ledger, plan: SweepPlan, labels: dict[str, str]) -> None:
        """Connect and set right what a dead driver left RUNNING. ValueError when MLflow can never be written to."""
        self.uri, self.ledger, self.plan, self.labels = uri, ledger, plan, labels
        self.runs: SweepRuns | None = None
        self.expected: list[Trial] = []
        self._lock = threading.Lock()
        self._news: dict[str, _News] = {}
        self._told, self._stop = threading.Event(), threading.Event()
        self._skip = False
        try:
            self._connect()
        except Unreachable as error:
            log.warning("%s; the sweep goes on, and MLflow is told once it answers", error)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def _connect(self) -> SweepRuns:
        """The runs in MLflow, looked up when it first answers."""
        if self.runs is None:
            client, experiment = connect(self.uri, self.ledger.store / "artifacts")
            _settle_left_running(client, experiment, self.ledger)
            runs = SweepRuns(client, experiment, self.ledger, self.plan)
            runs.open()
            self.runs = runs
        self.runs.trials |= {trial.key: trial for trial in self.expected}
        return self.runs

    def expect(self, trial: Trial) -> None:
        """A training that the plan does not have and whose tests are wanted all the same: the best of a search."""
        self.expected.append(trial)

    @contextlib.contextmanager
    def _tell(self, key: str) -> Iterator[_News]:
        with self._lock:
            yield self._news.setdefault(key, _News())
        self._told.set()

    def forget(self, key: str) -> None:
        """A training that starts from nothing."""
        with self._tell(key) as news:
            news.begun, news.epochs, news.ended, news.forgotten = None, [], None, True

    def started(self, config: ExperimentConfig, label: str) -> None:
        """A training that begins or goes on."""
        with self._tell(config.key) as news:
            news.begun, news.ended = (config, label), None

    def epoch(self, key: str, epoch: Epoch) -> None:
        """An epoch that has ended."""
        with self._tell(key) as news:
            news.epochs.append(epoch)

    def ended(self, trial: Trial, label: str) -> None:
        """A training that has ended."""
        with self._tell(trial.key) as news:
            news.ended = (trial, label)

    def stop(self, status: str, interrupted: bool = False) -> str | None:
        """Bring all runs to their last state, the sweep's to `status`; None, or why MLflow is incomplete.

        With `interrupted`, what has not ended was stopped with the sweep.
        """
        self._skip = interrupted
        self._stop.set()
        self._told.set()
        self._thread.join()
        try:
            runs = self._connect()
            runs.be_certain()
            runs.settle(self.labels, interrupted)
            runs.close(status)
        except Exception as error:
            log.debug("settling", exc_info=True)
            return f"MLflow is incomplete: {told(error, self.uri)}"
        return None

    def _work(self) -> None:
        """Write the first news at once, and what comes while that is written and some seconds after together."""
        pause = SECONDS_BETWEEN_WRITES
        while self._told.wait():
            with self._lock:
                self._told.clear()
                waiting, self._news = self._news, {}
            refused = {} if self._skip else self._write(waiting)
            if refused:
                pause = min(2 * pause, LONGEST_PAUSE)
                with self._lock:
                    self._news = {key: news.before(self._news.pop(key, _News())) for key, news in refused.items()} | (
                        self._news
                    )
                self._told.set()
            else:
                pause = SECONDS_BETWEEN_WRITES
            if self._stop.wait(pause) and (refused or not self._news):
                return

    def _write(self, waiting: dict[str, _News]) -> dict[str, _News]:
        """Tell MLflow; returns what it did not take. After a second failure the rest is not tried."""
        refused: dict[str, _News] = {}
        for key, news in waiting.items():
            if len(refused) >= FAILURES_AT_ONCE:
                refused[key] = news
                continue
            try:
                runs = self._connect()
                runs.be_certain()
                self._write_one(runs, key, news)
            except Exception as error:
                refused[key] = news
                log.warning(
                    "MLflow did not take what is new of training %s, it is tried again: %s", key, told(error, self.uri)
                )
        return refused

    def _write_one(self, runs: SweepRuns, key: str, news: _News) -> None:
        if news.forgotten:
            runs.forget(key)
        # What has a record holds its epochs, and its run is made with it.
        whole = news.ended and self.ledger.training(key) is not None
        if news.begun and not whole:
            runs.begin(*news.begun)
        if news.epochs and not whole:
            runs.epochs(key, news.epochs)
        if news.ended:
            trial, label = news.ended
            runs.mirror(trial.config, trial.evaluations, label)


def _settle_left_running(client: MlflowClient, experiment: Experiment, ledger: Ledger) -> None:
    """Bring sweeps of this store that a dead driver left RUNNING to what the ledger says of them."""
    store = ledger.name
    running = _runs(client, experiment, "attributes.status = 'RUNNING'")
    left = {run.data.tags["dmf.sweep"] for run in running if run.data.tags.get("dmf.store") == store}
    for name, plan in ledger.plans().items():
        if name in left:
            runs = SweepRuns(client, experiment, ledger, plan)
            runs.settle({}, interrupted=True)
            runs.close("KILLED")


def reconcile(uri: str, ledger: Ledger) -> dict[str, int]:
    """Bring MLflow to what the ledger says of every sweep that was started in its store, when none runs.

    Returns by sweep how many requests changed something; done again, none does. ValueError when MLflow does not answer.
    """
    client, experiment = connect(uri, ledger.store / "artifacts")
    writes = {}
    for name, plan in ledger.plans().items():
        runs = SweepRuns(client, experiment, ledger, plan)
        if not any(file.path == "plan.json" for file in client.list_artifacts(runs.parent.info.run_id)):
            runs.keep_plan()
            runs.writes += 1
        trials = plan.trials()
        runs.settle(labels(trial.config for trial in trials), interrupted=True)
        if trials and all(ledger.state(trial) in ("done", "diverged") for trial in trials):
            runs.close("FINISHED")
        elif runs.parent.info.status == "RUNNING" or (trials and runs.parent.info.status == "FINISHED"):
            runs.close("KILLED")  # whether a search, which has no cells, has ended is known to nobody else
        writes[name] = runs.writes
    return writes
