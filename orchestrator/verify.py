"""Reads every file of a store that decides something, and says which are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dmf.machine.watchdog import alive
from dmf.records.checkpoints import read_checkpoint
from dmf.records.records import BEST, CONFIG, EVALUATIONS, LAST, RECORD, EvaluationRecord, TrainingRecord, read_training
from dmf.values import Damaged
from orchestrator.costs.rates import Calibration, calibration_path
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import IDENTITY, LOOKS, PLAN, Identity, Ledger
from orchestrator.store.searches import SEARCH, SearchResults
from reports.looks import Looks


def damaged_files(ledger: Ledger) -> tuple[int, list[str]]:
    """How many files of a store were read, and what is wrong with them, one sentence each.

    Forgets the index, which is then made again. Reading takes about 0.6 s per gigabyte of weights. Raises ValueError
    for a store that is not in a folder.
    """
    if not ledger.shared:
        raise ValueError("--verify reads the files of a folder; an object store has checksums of its own")
    ledger.index.clear()
    count, found = 0, []
    for read, path in _files(ledger):
        alive()
        try:
            read(path)
        except FileNotFoundError:  # a sweep that runs has removed or replaced it
            continue
        except ValueError as error:
            found.append(" ".join(str(error).split()))
        count += 1
    return count, found


def _files(ledger: Ledger) -> list[tuple[Callable[[Path], object], Path]]:
    """Every file with the function that reads and checks it."""
    store = ledger.store
    readers: list[tuple[Callable[[Path], object], str]] = [
        (_read_configuration, f"trainings/*/{CONFIG}"),
        (_read_record, f"trainings/*/{RECORD}"),
        (EvaluationRecord.read, f"trainings/*/{EVALUATIONS}/[!.]*.json"),
        (read_checkpoint, f"trainings/*/{BEST}"),
        (read_checkpoint, f"trainings/*/{LAST}"),
        (SweepPlan.read, f"sweeps/*/{PLAN}"),
        (Looks.read, f"sweeps/*/{LOOKS}"),
        (SearchResults.read, f"sweeps/*/{SEARCH}"),
        (Calibration.read, calibration_path(store).name),
        (Identity.read, IDENTITY),
    ]
    return [(read, path) for read, pattern in readers for path in sorted(store.glob(pattern))]


def _read_record(path: Path) -> None:
    key = TrainingRecord.read(path).key
    if key != path.parent.name:
        raise Damaged(f"{path} belongs to training {key}, not to {path.parent.name}; remove it")


def _read_configuration(path: Path) -> None:
    config, record = read_training(path), _record_of(path.parent)
    if record is not None and record.config.key != config.key:
        raise Damaged(f"{path} holds another configuration than the training's record; remove it")


def _record_of(folder: Path) -> TrainingRecord | None:
    """The record of a training; None if there is none, or a damaged one, which is told as such."""
    try:
        return TrainingRecord.read(folder / RECORD)
    except (FileNotFoundError, Damaged):
        return None
