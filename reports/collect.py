"""The episodes behind a planned cell, read from records and held against what the records say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records import EvaluationRecord
from dmf.values import printable
from reports.staleness import Today
from reports.statistics import Samples, mean_ci95
from reports.tables import Ended, PlannedCell, Records

TOLERANCE = 1e-9
"""Between a stored summary and the same recomputed from its episodes."""

State = Literal[
    "done", "partial", "failed", "diverged", "stale", "running", "not evaluated", "missing", "refused", "not planned"
]
GRAVEST_FIRST: tuple[State, ...] = ("failed", "diverged", "stale", "running", "not evaluated", "missing")


@dataclass(frozen=True)
class Collected:
    """What a planned cell has: its state, why seeds are absent, and the episodes of those that are there."""

    state: State
    reasons: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    """Those done, in the order of `accuracies`."""
    accuracies: Samples | None = None
    """[S, E]: accuracy of every episode for every seed done."""
    bank: str = ""
    """Which episodes of which images: cells that share it can be compared episode by episode."""
    records: tuple[str, ...] = ()
    """`training key/evaluation key` for every seed done."""
    parameters: int | None = None
    training_seconds: float | None = None
    """Mean over the seeds done."""
    doubts: tuple[str, ...] = ()
    """Why its records are stale, where they were taken all the same."""

    def of_seeds(self, seeds: tuple[int, ...]) -> Samples:
        """Accuracies [len(seeds), E] of some of the seeds, in the order asked for."""
        assert self.accuracies is not None
        return self.accuracies[[self.seeds.index(seed) for seed in seeds]]


def collect(cell: PlannedCell, records: Records, today: Today | None = None) -> Collected:
    """Read a planned cell's records; with `today`, those that are stale count only if it accepts them.

    ValueError, naming the record, when one contradicts itself or the plan.
    """
    done: list[tuple[int, Ended | None, EvaluationRecord]] = []
    absent: list[tuple[int, State, str]] = []
    doubted: set[str] = set()
    asked = cell.evaluation.key
    for seed, training in zip(cell.seeds, cell.trainings, strict=True):
        key = training.key
        record = records.evaluation(key, asked)
        if record is None:
            absent.append((seed, *_absence(key, records)))
            continue
        _check(record, key, cell.evaluation)
        ended = records.how_ended(key)
        doubts = _doubts(training, ended, record, today) if today else ()
        if doubts and today and not today.accept_stale:
            absent.append((seed, "stale", f"stale: {', '.join(doubts)}"))
        else:
            doubted.update(doubts)
            done.append((seed, ended, record))
    reasons = _by_reason([(seed, reason) for seed, _, reason in absent], len(cell.seeds))
    if not done:
        return Collected(min((state for _, state, _ in absent), key=GRAVEST_FIRST.index), reasons)
    # A bank is positions in a split; with other images at them it is other episodes.
    banks = {f"{record.bank} of {record.data_fingerprint[:16]}" for _, _, record in done}
    if len(banks) > 1:
        return Collected("refused", (f"its seeds were tested on different episodes ({', '.join(sorted(banks))})",))
    trainings = [training for _, training, _ in done if training is not None]
    return Collected(
        "partial" if absent else "done",
        reasons,
        tuple(seed for seed, _, _ in done),
        np.array([record.episode_accuracies for _, _, record in done], dtype=np.float64),
        banks.pop(),
        tuple(f"{record.training_key}/{record.evaluation_key}" for _, _, record in done),
        trainings[0].parameters if trainings else None,
        sum(training.seconds for training in trainings) / len(trainings) if trainings else None,
        tuple(sorted(doubted)),
    )


def _doubts(training: ExperimentConfig, ended: Ended | None, record: EvaluationRecord, today: Today) -> tuple[str, ...]:
    """Why a training or its evaluation is stale, each reason once."""
    found = today.doubts(training, record.code, record.data_fingerprint)
    if ended and ended.provenance:
        found += today.doubts(training, ended.provenance.code, ended.provenance.data_fingerprint)
    return tuple(dict.fromkeys(found))


def _by_reason(absent: list[tuple[int, str]], planned: int) -> tuple[str, ...]:
    """Each reason once, with its seeds where it is not that of all."""
    seeds: dict[str, list[str]] = {}
    for seed, reason in absent:
        seeds.setdefault(reason, []).append(str(seed))
    return tuple(
        reason if len(those) == planned else f"{'seeds' if len(those) > 1 else 'seed'} {', '.join(those)}: {reason}"
        for reason, those in seeds.items()
    )


def _absence(key: str, records: Records) -> tuple[State, str]:
    """Why a training has no evaluation."""
    record = records.how_ended(key)
    if record is None:
        return ("running", "running") if records.running(key) else ("missing", "missing")
    if record.outcome == "finished":
        return "not evaluated", "trained, not evaluated"
    failure = record.failure
    if record.outcome == "diverged":
        return "diverged", f"diverged at step {failure.step}" if failure and failure.step else "diverged"
    return "failed", f"failed: {printable(failure.reason)}" if failure else "failed"


def _check(record: EvaluationRecord, training_key: str, asked: EvaluationConfig) -> None:
    name = f"evaluation {record.training_key}/{record.evaluation_key}"
    expected = f"{training_key}/{asked.key}"
    if f"{record.training_key}/{record.evaluation_key}" != expected or record.config.key != asked.key:
        raise ValueError(f"{name} lies where {expected} belongs; remove it and evaluate again")
    count = len(record.episode_accuracies)
    if count != asked.episodes:
        raise ValueError(f"{name} holds {count} episodes, its config says {asked.episodes}; evaluate again")
    if min(record.episode_accuracies) < 0 or max(record.episode_accuracies) > 1:
        raise ValueError(f"{name} holds accuracies beyond 0 and 1; evaluate again")
    for what, stored, recomputed in zip(
        ("accuracy", "ci95"), (record.accuracy, record.ci95), mean_ci95(record.episode_accuracies), strict=True
    ):
        if not abs(stored - recomputed) <= TOLERANCE:
            raise ValueError(f"{name} says {what}={stored!r}, its episodes give {recomputed!r}; evaluate again")
