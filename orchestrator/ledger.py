"""The store: what has been trained and tested. The only module that knows where in the store things lie.

    <store>/trainings/<training key>/   config.json, checkpoints, log.txt, training.json, evaluations/<key>.json
    <store>/sweeps/<name>/              plan.json, search.json
    <store>/mlflow.db, artifacts/, ray/, driver.lock

Records are written whole or not at all, so what is there is true whenever a process dies. A training is done when its
record is there and says finished or diverged, whatever a scheduler believes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmf.records import BEST, EVALUATIONS, LAST, LOCK, RECORD, EvaluationRecord, TrainingRecord
from orchestrator.plan import SweepPlan, Trial
from reports.tables import Ended

State = Literal["missing", "started", "failed", "untested", "done", "diverged"]
"""Of a trial: nothing there; a checkpoint there; ended by an error; trained, evaluations missing; ended with all."""

log = logging.getLogger("dmf.ledger")


@dataclass(frozen=True)
class Ledger:
    """Reads and writes one store."""

    store: Path

    def folder(self, key: str) -> Path:
        """Of one training."""
        return self.store / "trainings" / key

    def training(self, key: str) -> TrainingRecord | None:
        """How a training ended; None: it has not."""
        path = self.folder(key) / RECORD
        return TrainingRecord.read(path) if path.is_file() else None

    def how_ended(self, key: str) -> Ended | None:
        """The same, as far as a table needs it."""
        path = self.folder(key) / RECORD
        return Ended.read(path) if path.is_file() else None

    def write_training(self, record: TrainingRecord) -> None:
        """Write a training's record."""
        record.write(self.folder(record.key) / RECORD)

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """How a trained model did; None: not tested."""
        path = self._evaluation_path(training_key, evaluation_key)
        return EvaluationRecord.read(path) if path.is_file() else None

    def write_evaluation(self, record: EvaluationRecord) -> None:
        """Write an evaluation's record."""
        record.write(self._evaluation_path(record.training_key, record.evaluation_key))

    def evaluations(self, training_key: str) -> tuple[EvaluationRecord, ...]:
        """Everything that a trained model was tested on."""
        paths = sorted(self.folder(training_key).glob(f"{EVALUATIONS}/*.json"))
        return tuple(EvaluationRecord.read(path) for path in paths if not path.name.startswith("."))

    def running(self, key: str) -> bool:
        """Whether a process is at work on a training."""
        path = self.folder(key) / LOCK
        if not path.is_file():
            return False
        with open(path) as lock:
            return not _locked(lock.fileno())

    def _evaluation_path(self, training_key: str, evaluation_key: str) -> Path:
        return self.folder(training_key) / EVALUATIONS / f"{evaluation_key}.json"

    def state(self, trial: Trial) -> State:
        """Where a trial stands."""
        record = self.training(trial.key)
        if record is None:
            return "started" if (self.folder(trial.key) / LAST).is_file() else "missing"
        if record.outcome != "finished":
            return record.outcome
        tested = (self._evaluation_path(trial.key, evaluation.key).is_file() for evaluation in trial.evaluations)
        return "done" if all(tested) else "untested"

    def reopen(self, key: str) -> None:
        """Drop a training's record, so that it goes on from its checkpoint."""
        (self.folder(key) / RECORD).unlink(missing_ok=True)

    def forget(self, key: str) -> None:
        """Drop a training's record and checkpoints, so that it starts from nothing."""
        self.reopen(key)
        for name in (LAST, BEST):
            (self.folder(key) / name).unlink(missing_ok=True)

    def sweep_folder(self, name: str) -> Path:
        """Of one sweep."""
        return self.store / "sweeps" / name

    def write_plan(self, plan: SweepPlan) -> None:
        """Keep what a sweep plans, for the report."""
        plan.write(self.sweep_folder(plan.name) / "plan.json")

    def plan(self, name: str) -> SweepPlan:
        """The plan of a sweep that was started here."""
        path = self.sweep_folder(name) / "plan.json"
        if not path.is_file():
            there = ", ".join(sorted(self.plans())) or "none"
            raise ValueError(f"no sweep {name!r} was started in {self.store}; there are: {there}")
        return SweepPlan.read(path)

    def plans(self) -> dict[str, SweepPlan]:
        """Every sweep that was started here, by name; one whose plan can not be read is left out with a warning."""
        found = {}
        for path in sorted(self.store.glob("sweeps/*/plan.json")):
            try:
                found[path.parent.name] = SweepPlan.read(path)
            except (ValueError, OSError) as error:
                log.warning("%s can not be read, that sweep is left out: %s", path, " ".join(str(error).split())[:300])
        return found

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[Path]:
        """Have a training's folder to oneself: yield it when no other process works there.

        A process that dies lets go at once. Files that it was about to rename are removed.
        """
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "w") as lock:
            if not _locked(lock.fileno()):
                log.warning("waiting for another process that works in %s", folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left in [*folder.glob(".*.*.*"), *folder.glob(f"{EVALUATIONS}/.*")]:
                left.unlink()
            yield folder

    @contextlib.contextmanager
    def driving(self, wait: bool = False) -> Iterator[Ledger]:
        """Be the only driver of this store. The lease ends with the process, however it ends.

        What a driver that was killed left of Ray's is removed.

        Raises:
            BlockingIOError: another driver has the store and `wait` is false.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with open(self.store / "driver.lock", "a+") as lock:
            while not _locked(lock.fileno()):
                if not wait:
                    lock.seek(0)
                    raise BlockingIOError(
                        f"{self.store} is in use by {lock.read().strip() or 'another driver'}; wait for it with --wait "
                        "or take another --store"
                    )
                time.sleep(0.5)
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            lock.flush()
            for left in self.store.glob("ray/*"):
                shutil.rmtree(left, ignore_errors=True)
            yield self


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
