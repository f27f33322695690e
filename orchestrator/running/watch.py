"""What happens to trials, told to who has to know: progress, MLflow, and the ledger where a process could not."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from dmf.config import ExperimentConfig
from dmf.records.records import FORMAT, Epoch, Failure, TrainingRecord
from orchestrator.running.interrupts import Signals
from orchestrator.running.progress import Progress
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger

if TYPE_CHECKING:
    from orchestrator.tracking.tracker import Tracker


class Watch(contextlib.ExitStack):
    """Tells the progress display and MLflow what trials do, and the ledger of those whose process died."""

    def __init__(
        self,
        spec: SweepSpec,
        ledger: Ledger,
        tracker: Tracker,
        signals: Signals,
        trials: tuple[Trial, ...],
        names: dict[str, str],
    ) -> None:
        super().__init__()
        self.ledger, self.tracker, self.signals, self.names = ledger, tracker, signals, names
        self.fail_fast = spec.fail_fast
        self.trials = {trial.key: trial for trial in trials}
        self.before = {trial.key: ledger.training(trial.key) for trial in trials}
        self.failures: dict[str, Failure] = {}
        self.not_indexed: deque[Trial] = deque()
        self.progress = self.enter_context(Progress(spec.name))
        for key, trial in self.trials.items():
            self.progress.planned(key, names[key], trial.config.training.epochs)

    def check(self) -> None:
        check_lease(self.ledger, self.signals)

    def started(self, key: str) -> None:
        self.tracker.started(self.trials[key].config, self.names[key])
        self.progress.started(key)

    def epoch(self, key: str, epoch: Epoch) -> None:
        self.tracker.epoch(key, epoch)
        self.progress.epoch(key, epoch)

    def recovering(self, key: str) -> None:
        self.progress.note(key, f"{self.ledger.how_lost(key)}, goes on from its checkpoint")

    def ended(self, key: str, failure: Failure | None) -> None:
        stop_after(failure, self.fail_fast, self.signals)  # first: what follows may fail
        trial = self.trials[key]
        self.ledger.ended(key, failure is not None)
        if failure:
            self.failures[key] = failure
            note_failure(self.ledger, trial.config, failure, self.before[key])
        self.tracker.ended(trial, self.names[key])
        state = self.ledger.state(trial)
        stage = state if state in ("done", "diverged") else "failed"
        self.progress.ended(key, stage, failure.reason if failure else "")
        self.not_indexed.append(trial)
        while self.not_indexed and self.ledger.indexed(self.not_indexed[0]):
            self.not_indexed.popleft()


def check_lease(ledger: Ledger, signals: Signals) -> None:
    """End the sweep when another driver may have its store."""
    try:
        ledger.check()
    except OSError as error:
        signals.stop(str(error))


def note_failure(
    ledger: Ledger, config: ExperimentConfig, failure: Failure, before: TrainingRecord | None
) -> TrainingRecord | None:
    """Write the record of a training whose process could not, and return the record that there is.

    `before` is the record that it had when the sweep began. A disk without room has none for a record either, and a
    training that found none has not failed: it goes on when there is room. A failure like the one before is in the
    record already, with its traceback.
    """
    record = ledger.training(config.key)
    known = record is not None and record.failure is not None and record.failure.reason == failure.reason
    if failure.kind != "disk" and (record is None or (record.outcome == "failed" and record == before and not known)):
        record = TrainingRecord(format=FORMAT, key=config.key, config=config, outcome="failed", failure=failure)
        ledger.write_training(record)
    return record


def stop_after(failure: Failure | None, fail_fast: bool, signals: Signals) -> None:
    """End the sweep where a failure is all trials' that follow: no room on the disk; or the first, with `fail_fast`."""
    if failure and failure.kind == "disk":
        signals.stop(f"no room on a disk ({failure.reason}); make room")
    elif failure and fail_fast:
        signals.stop(f"fail_fast, and a trial failed: {failure.reason}")
