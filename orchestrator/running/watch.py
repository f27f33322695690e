"""Passes on what happens to trials: to the progress display, to MLflow, and to the ledger if a process died."""

from __future__ import annotations

import abc
import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dmf.config import AnyTraining
from dmf.records.records import FORMAT, Epoch, Failure, TrainingRecord
from dmf.values import Damaged
from orchestrator.running.interrupts import Signals
from orchestrator.running.progress import Progress, Stage
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger

if TYPE_CHECKING:
    from orchestrator.tracking.tracker import Tracker

log = logging.getLogger("dmf.watch")

FAILURES_IN_A_ROW = 3
"""Trainings that may fail in a row through a machine's fault, each after its retries, before the sweep stops."""


class Watcher(Protocol):
    """An executor reports to it what trials do, in the driver's main thread."""

    def check(self) -> None:
        """Called regularly; may end the sweep."""

    def started(self, key: str) -> None:
        """A trial has started."""

    def epoch(self, key: str, epoch: Epoch) -> None:
        """An epoch has ended."""

    def recovering(self, key: str, reason: str | None = None) -> None:
        """A trial ended too early and restarts; without a reason, its process died."""

    def ended(self, key: str, failure: Failure | None) -> None:
        """A trial has ended; `failure` says what went wrong, if anything did."""


def logged(hook: Callable[..., None]) -> Callable[..., None]:
    """Log a hook's exceptions, which would end Tune's experiment or fail an innocent training."""

    @functools.wraps(hook)
    def safe(*arguments: Any, **named: Any) -> None:
        try:
            hook(*arguments, **named)
        except Exception:
            log.exception("%s", hook.__name__)

    return safe


class End(NamedTuple):
    """How a trial ended, for the progress display."""

    stage: Stage
    note: str = ""
    selected: float | None = None
    """The validation accuracy of the epoch whose weights are kept."""


class Watch(abc.ABC):
    """A watcher that reports to the progress display and MLflow, and to the ledger for trials whose process died."""

    def __init__(self, spec: SweepSpec, ledger: Ledger, tracker: Tracker, signals: Signals, progress: Progress) -> None:
        self.spec, self.ledger, self.tracker, self.signals, self.progress = spec, ledger, tracker, signals, progress
        self.breaker = Breaker(ledger, signals, spec.fail_fast)

    @abc.abstractmethod
    def trial(self, key: str) -> Trial | None:
        """The trial; None if its configuration is impossible."""

    @abc.abstractmethod
    def name(self, key: str) -> str:
        """The trial's label."""

    @abc.abstractmethod
    def settle(self, key: str, failure: Failure | None) -> End:
        """Write down how a trial ended; return what the progress display shows."""

    def check(self) -> None:
        """Stop the sweep if another driver may have taken its store."""
        try:
            self.ledger.check()
        except OSError as error:
            self.signals.stop(str(error))

    def started(self, key: str) -> None:
        if trial := self.trial(key):
            self.tracker.started(trial.config, self.name(key))
        self.progress.started(key)

    def epoch(self, key: str, epoch: Epoch) -> None:
        self.tracker.epoch(key, epoch)
        self.progress.epoch(key, epoch)

    def recovering(self, key: str, reason: str | None = None) -> None:
        self.progress.note(key, f"{reason or self.ledger.how_lost(key)}, continues from its checkpoint")

    def ended(self, key: str, failure: Failure | None) -> None:
        self.breaker.ended(failure)  # first, because what follows may fail
        self.ledger.ended(key, failure is not None)
        end = self.settle(key, failure)
        if trial := self.trial(key):
            self.tracker.ended(trial, self.name(key))
        self.progress.ended(key, *end)


class SweepWatch(Watch):
    """Watches trials that are known before they start."""

    def __init__(
        self,
        spec: SweepSpec,
        ledger: Ledger,
        tracker: Tracker,
        signals: Signals,
        progress: Progress,
        trials: tuple[Trial, ...],
        names: dict[str, str],
    ) -> None:
        super().__init__(spec, ledger, tracker, signals, progress)
        self.names = names
        self.trials = {trial.key: trial for trial in trials}
        self.before = {trial.key: ledger.training(trial.key) for trial in trials}
        self.failures: dict[str, Failure] = {}
        self.not_indexed: deque[Trial] = deque()
        for key, trial in self.trials.items():
            record = self.before[key]
            trained = record is not None and record.outcome == "finished"
            progress.planned(key, names[key], trial.config.training.epochs, trained)

    def trial(self, key: str) -> Trial:
        return self.trials[key]

    def name(self, key: str) -> str:
        return self.names[key]

    def settle(self, key: str, failure: Failure | None) -> End:
        if failure:
            self.failures[key] = failure
        if failure and failure.kind != "stage":  # a failed pre-training is recorded only as its own failure
            note_failure(self.ledger, self.trials[key].config, failure, self.before[key])
        state = self.ledger.state(self.trials[key])
        if state == "done":
            record = self.ledger.how_ended(key)
            return End("done", self._tests(key), record.best_validation_accuracy if record else None)
        return End("diverged" if state == "diverged" else "failed", failure.reason if failure else "")

    def _tests(self, key: str) -> str:
        """The accuracies of a trial's tests."""
        told = []
        for test in self.trials[key].evaluations:
            on = f"{test.data.name} " if test.data else ""
            if tested := self.ledger.how_tested(key, test.key):
                told.append(f"{on}{test.split} {test.way}-way {test.shot}-shot {100 * tested.accuracy:.2f} %")
        return ", ".join(told)

    def ended(self, key: str, failure: Failure | None) -> None:
        super().ended(key, failure)
        self.not_indexed.append(self.trials[key])
        while self.not_indexed and self.ledger.indexed(self.not_indexed[0]):
            self.not_indexed.popleft()


def note_failure(
    ledger: Ledger, config: AnyTraining, failure: Failure, before: TrainingRecord | None
) -> TrainingRecord | None:
    """Write the record of a training whose process could not; return the training's record, if it has one now.

    `before` is its record when the sweep began. A full disk has no room for a record either; a training without one has
    not failed, and continues when there is room. A failure that equals the one before is already in the record, with
    its traceback.
    """
    try:
        record = ledger.training(config.key)
    except Damaged:  # it stays, for the user to decide
        return None
    known = record is not None and record.failure is not None and record.failure.reason == failure.reason
    if failure.kind != "disk" and (record is None or (record.outcome == "failed" and record == before and not known)):
        record = TrainingRecord(format=FORMAT, key=config.key, config=config, outcome="failed", failure=failure)
        ledger.write_training(record)
    return record


class Breaker:
    """Stops the sweep when further trials would fail as well: one bad disk or node must not use up the queue."""

    def __init__(self, ledger: Ledger, signals: Signals, fail_fast: bool) -> None:
        self.ledger, self.signals, self.fail_fast = ledger, signals, fail_fast
        self.in_a_row = 0
        """Failures through a machine's fault since the last trial that ended without one."""

    def ended(self, failure: Failure | None) -> None:
        """Note that a trial has ended."""
        if failure is None:
            self.in_a_row = 0
            return
        if failure.kind == "disk":
            self.signals.stop(f"a disk takes no more files ({failure.reason}); make room, or make it writable")
        elif failure.kind == "machine":
            self.in_a_row += 1
            self._probe()
            if self.in_a_row >= FAILURES_IN_A_ROW:
                self.signals.stop(
                    f"{self.in_a_row} trainings in a row failed because of their machine, the last one with: "
                    f"{failure.reason}; look after it, or leave it out"
                )
        if self.fail_fast:
            self.signals.stop(f"fail_fast is set, and a trial failed: {failure.reason}")

    def _probe(self) -> None:
        try:
            self.ledger.probe()
        except OSError as error:
            self.signals.stop(f"the store cannot be written ({error}); look after its disk")
