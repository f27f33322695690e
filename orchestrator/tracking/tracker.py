"""MLflow as a mirror of the ledger, fed while a sweep runs and made whole afterwards.

Only the driver writes, from one thread. News of trainings is gathered for `SECONDS_BETWEEN_WRITES`: what happened to
one in that time is one request. News that MLflow does not take waits, and is tried again after longer and longer
pauses; nothing waits for it. What still waits at the sweep's end is in the ledger, from which the next start or
`python -m orchestrator.sync` tells it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dmf.config import AnyTraining
from dmf.records.records import Epoch
from orchestrator.spec.plan import SweepPlan, Trial, labels
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.names import STORE
from orchestrator.tracking.runs import SweepRuns
from orchestrator.tracking.server import Unreachable, answering, connect, runs_of
from orchestrator.tracking.uris import told

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

log = logging.getLogger("dmf.tracking")

SECONDS_BETWEEN_WRITES = 2.0
"""Short beside an epoch, and long beside a request."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries while MLflow does not answer; the first pause is `SECONDS_BETWEEN_WRITES`, each next is
twice as long."""
FAILURES_AT_ONCE = 2
"""Requests in a row that fail before what else there is waits for the next try."""


def pause_after(failures: int) -> float:
    """Seconds until the next request, after so many that failed in a row."""
    doublings = min(max(0, failures - 1), 16)  # a float ends after a thousand
    return float(min(SECONDS_BETWEEN_WRITES * 2**doublings, LONGEST_PAUSE))


@dataclass
class _News:
    """What MLflow has not yet been told of one training. What came before its last start or end is no news any more."""

    begun: tuple[AnyTraining, str] | None = None
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
            with answering(self.uri):
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

    def started(self, config: AnyTraining, label: str) -> None:
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
        self.abandon(interrupted)
        try:
            runs = self._connect()
            runs.be_certain()
            runs.settle(self.labels, interrupted)
            runs.close(status)
        except Exception as error:
            log.debug("settling", exc_info=True)
            return f"MLflow is incomplete: {told(error, self.uri)}"
        return None

    def abandon(self, skip: bool = True) -> None:
        """Write no more to MLflow; what is waiting still, unless it is to be skipped."""
        self._skip = skip
        self._stop.set()
        self._told.set()
        self._thread.join()

    def _work(self) -> None:
        """Write the first news at once, and what comes while that is written and some seconds after together."""
        failures = 0
        while self._told.wait():
            with self._lock:
                self._told.clear()
                waiting, self._news = self._news, {}
            refused = {} if self._skip else self._write(waiting)
            if refused:
                failures += 1
                with self._lock:
                    self._news = {key: news.before(self._news.pop(key, _News())) for key, news in refused.items()} | (
                        self._news
                    )
                self._told.set()
            else:
                failures = 0
            if self._stop.wait(pause_after(failures)) and (refused or not self._news):
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
    running = runs_of(client, experiment, f"attributes.status = 'RUNNING' and tags.`{STORE}` = '{ledger.id}'")
    left = {run.data.tags["dmf.sweep"] for run in running}
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
