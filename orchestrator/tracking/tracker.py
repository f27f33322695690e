"""Mirrors the ledger in MLflow while a sweep runs, and completes the mirror afterwards.

Only the driver writes, from one thread. Updates are collected for `SECONDS_BETWEEN_WRITES`; those of one training in
that time are one request. Updates that MLflow does not accept are retried after longer and longer pauses, and nothing
waits for them. What is still missing at the sweep's end is in the ledger, and the next start or
`python -m orchestrator.sync` adds it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dmf.config import AnyTraining
from dmf.records.records import Epoch
from dmf.values import Damaged
from orchestrator.spec.plan import SweepPlan, Trial, labels
from orchestrator.store.ledger import PLAN, Ledger
from orchestrator.tracking.database import settle
from orchestrator.tracking.names import STORE, database_of
from orchestrator.tracking.runs import FAILURES_AT_ONCE, Incomplete, SweepRuns, one_line
from orchestrator.tracking.server import Unreachable, answering, connect, refuses, runs_of
from orchestrator.tracking.uris import told

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

log = logging.getLogger("dmf.tracking")

SECONDS_BETWEEN_WRITES = 2.0
"""Short compared with an epoch, and long compared with a request."""
LONGEST_PAUSE = 60.0
"""The longest pause between retries, in seconds; the first is `SECONDS_BETWEEN_WRITES`, and each is twice the one
before."""


def pause_after(failures: int) -> float:
    """Seconds until the next request after this many failures in a row."""
    doublings = min(max(0, failures - 1), 16)  # a float overflows after a thousand
    return float(min(SECONDS_BETWEEN_WRITES * 2**doublings, LONGEST_PAUSE))


@dataclass
class _News:
    """Updates about one training that MLflow has not received; only the last start or end counts."""

    begun: tuple[AnyTraining, str] | None = None
    epochs: list[Epoch] = field(default_factory=list)
    ended: tuple[Trial, str] | None = None
    forgotten: bool = False

    def before(self, later: _News) -> _News:
        """Merge these updates, which MLflow did not accept, with later ones."""
        if later.forgotten:
            return later
        ended = later.ended or (None if later.begun else self.ended)
        return _News(later.begun or self.begun, [*self.epochs, *later.epochs], ended, self.forgotten)


class Tracker:
    """Mirrors a sweep in its own thread while it runs: no trial waits for MLflow or stops at its errors.

    If a server does not answer, at the start or later, requests are retried; `stop` updates everything from the ledger
    and says what is missing.
    """

    def __init__(self, uri: str, ledger: Ledger, plan: SweepPlan, labels: dict[str, str]) -> None:
        """Connect, and correct runs that a dead driver left RUNNING. Raise ValueError if MLflow cannot ever be used."""
        self.uri, self.ledger, self.plan, self.labels = uri, ledger, plan, labels
        self.runs: SweepRuns | None = None
        self.expected: list[Trial] = []
        self._lock = threading.Lock()
        self._news: dict[str, _News] = {}
        self._told, self._stop = threading.Event(), threading.Event()
        self._skip = False
        try:
            self._connect()
        except (Unreachable, OSError) as error:
            log.warning("%s; the sweep continues, and MLflow is updated once it answers", error)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def _connect(self) -> SweepRuns:
        """The runs in MLflow, looked up once it answers."""
        if self.runs is None:
            client, experiment = connected(self.uri, self.ledger)
            with answering(self.uri):
                _settle_left_running(client, experiment, self.ledger)
                runs = SweepRuns(client, experiment, self.ledger, self.plan)
                runs.open()
            self.runs = runs
        self.runs.trials |= {trial.key: trial for trial in self.expected}
        return self.runs

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id in MLflow; None if it has not answered."""
        return self.runs.experiment.experiment_id if self.runs else None

    def expect(self, trial: Trial) -> None:
        """Add a training that is not in the plan, whose tests are wanted: the best of a search."""
        self.expected.append(trial)

    @contextlib.contextmanager
    def _tell(self, key: str) -> Iterator[_News]:
        with self._lock:
            yield self._news.setdefault(key, _News())
        self._told.set()

    def forget(self, key: str) -> None:
        """Note that a training starts from scratch."""
        with self._tell(key) as news:
            news.begun, news.epochs, news.ended, news.forgotten = None, [], None, True

    def started(self, config: AnyTraining, label: str) -> None:
        """Note that a training begins or continues."""
        with self._tell(config.key) as news:
            news.begun, news.ended = (config, label), None

    def epoch(self, key: str, epoch: Epoch) -> None:
        """Note that an epoch has ended."""
        with self._tell(key) as news:
            news.epochs.append(epoch)

    def ended(self, trial: Trial, label: str) -> None:
        """Note that a training has ended."""
        with self._tell(trial.key) as news:
            news.ended = (trial, label)

    def stop(self, status: str, interrupted: bool = False) -> str | None:
        """Complete all runs and set the sweep's `status`; return None, or why MLflow is incomplete.

        With `interrupted`, trainings that have not ended were stopped with the sweep.
        """
        self.abandon(interrupted)
        try:
            runs = self._connect()
            runs.be_certain()
            try:
                runs.settle(self.labels, interrupted)
            finally:
                runs.close(status)
                runs.keep_results()
        except Exception as error:
            log.debug("settling", exc_info=True)
            return f"MLflow is incomplete: {told(error, self.uri)}"
        return None

    def abandon(self, skip: bool = True) -> None:
        """Stop writing to MLflow, after the waiting updates unless `skip` is set."""
        self._skip = skip
        self._stop.set()
        self._told.set()
        self._thread.join()

    def _work(self) -> None:
        """Write the first update at once, and later ones in batches every few seconds."""
        failures = 0
        while self._told.wait():
            with self._lock:
                self._told.clear()
                waiting, self._news = self._news, {}
            refused = {} if self._skip else self._write(waiting)
            if refused:
                failures += 1
                with self._lock:
                    later = {key: news.before(self._news.pop(key, _News())) for key, news in refused.items()}
                    self._news |= later  # last, so that trouble with some runs does not keep others waiting
                self._told.set()
            else:
                failures = 0
            if self._stop.wait(pause_after(failures)) and (refused or not self._news):
                return

    def _write(self, waiting: dict[str, _News]) -> dict[str, _News]:
        """Send updates to MLflow; return those to send again, failed ones last.

        After a second failure the rest is not sent.

        An update that MLflow refuses, because something about its run is wrong, is left to `stop`.
        """
        refused: dict[str, _News] = {}
        rest = dict(waiting)
        for key, news in waiting.items():
            if len(refused) >= FAILURES_AT_ONCE:
                break
            del rest[key]
            try:
                runs = self._connect()
                runs.be_certain()
                runs.surely(key, functools.partial(self._write_one, runs, key, news))
            except Exception as error:
                later = isinstance(error, Damaged) or refuses(error)
                if not later:
                    refused[key] = news
                when = "at the end of the sweep" if later else "soon"
                text = told(error, self.uri)
                log.warning("MLflow did not accept an update of training %s, will retry %s: %s", key, when, text)
        return rest | refused

    def _write_one(self, runs: SweepRuns, key: str, news: _News) -> None:
        if news.forgotten:
            runs.forget(key)
        # A record contains its epochs, and the run is written from it.
        whole = news.ended and self.ledger.training(key) is not None
        if news.begun and not whole:
            runs.begin(*news.begun)
        if news.epochs and not whole:
            runs.epochs(key, news.epochs)
        if news.ended:
            trial, label = news.ended
            runs.mirror(trial.config, trial.evaluations, label)


def connected(uri: str, ledger: Ledger) -> tuple[MlflowClient, Experiment]:
    """A client and the experiment, where the store's runs have their files in the store."""
    client, experiment = connect(uri, ledger.store / "artifacts")
    if database := database_of(uri):
        settle(database, ledger)
    return client, experiment


def _settle_left_running(client: MlflowClient, experiment: Experiment, ledger: Ledger) -> None:
    """Update sweeps of this store that a dead driver left RUNNING from the ledger."""
    running = runs_of(client, experiment, f"attributes.status = 'RUNNING' and tags.`{STORE}` = '{ledger.id}'")
    left = {run.data.tags["dmf.sweep"] for run in running}
    for name, plan in ledger.plans().items():
        if name in left:
            runs = SweepRuns(client, experiment, ledger, plan)
            try:
                runs.settle({}, interrupted=True)
            except Incomplete as error:
                log.warning("MLflow, sweep %s: %s", name, error)
            runs.close("KILLED")


def reconcile(uri: str, ledger: Ledger) -> dict[str, int]:
    """Update every sweep in MLflow from the ledger's store. Call it when no sweep runs.

    Returns, by sweep, how many requests changed something; a second call changes nothing. Raises ValueError if MLflow
    does not answer or, at the end, if some runs could not be updated.
    """
    client, experiment = connected(uri, ledger)
    writes = {}
    incomplete = []
    ledger.index.look_once()
    try:
        for name, plan in ledger.plans().items():
            runs = SweepRuns(client, experiment, ledger, plan)
            if not any(file.path == PLAN for file in client.list_artifacts(runs.parent.info.run_id)):
                runs.keep_plan()
                runs.writes += 1
            trials = plan.trials()
            try:
                runs.settle(labels(trial.config for trial in trials), interrupted=True)
            except Incomplete as error:
                incomplete.append(f"{name}: {error}")
            try:
                asked = ledger.asked(plan).trials()
            except Damaged as error:  # its looks: what they ask for, and so whether it has ended, is not known
                incomplete.append(f"{name}: {one_line(error)}")
                writes[name] = runs.writes
                continue
            if asked and all(ledger.state(trial) in ("done", "diverged") for trial in asked):
                runs.close("FINISHED")
            elif runs.parent.info.status == "RUNNING" or (trials and runs.parent.info.status == "FINISHED"):
                runs.close("KILLED")  # a search has no cells, so only its driver knows whether it has ended
            runs.keep_results()
            writes[name] = runs.writes
    finally:
        ledger.index.look_again()
    if incomplete:
        raise ValueError(f"MLflow is incomplete: {'; '.join(incomplete)}")
    return writes
