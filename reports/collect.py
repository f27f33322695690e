"""Collects the episodes behind a planned cell from its records, and checks the records' summaries against them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.facts import Ended, Tested
from dmf.records.staleness import Today
from dmf.values import Damaged, printable
from reports.statistics.cells import Samples, means_ci95
from reports.tables import PlannedCell, Records

TOLERANCE = 1e-9
"""Largest difference between a stored summary and the value recomputed from the episodes."""
LAST_TRIED = "failed when last tried"
"""A table is filled from the store, whose failure may be of an earlier start."""


class State(StrEnum):
    """How far a cell has come. Tables print the value."""

    DONE = "done"
    PARTIAL = "partial"
    """Some of its seeds are done."""
    FAILED = "failed"
    DIVERGED = "diverged"
    STALE = "stale"
    DAMAGED = "damaged"
    """A record cannot be read, or contradicts itself or the plan."""
    RUNNING = "running"
    NOT_EVALUATED = "not evaluated"
    MISSING = "missing"
    REFUSED = "refused"
    """Its seeds were tested on different episodes and cannot be averaged."""
    NOT_PLANNED = "not planned"


GRAVEST_FIRST = (
    State.DAMAGED,
    State.FAILED,
    State.DIVERGED,
    State.STALE,
    State.RUNNING,
    State.NOT_EVALUATED,
    State.MISSING,
)
"""States of seeds in order of gravity. A cell with no seed done takes the gravest state among its seeds."""


class Absence(NamedTuple):
    """Why a seed has no evaluation that counts."""

    state: State
    reason: str
    """In words."""


@dataclass(frozen=True)
class Collected:
    """The results of a planned cell: its state, why seeds are absent, and the episodes of the seeds done."""

    state: State
    reasons: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    """Seeds done, in the order of `accuracies`."""
    accuracies: Samples | None = None
    """[S, E]: accuracy of every episode for every seed done."""
    class_sums: Samples | None = None
    """[S, C]: per class of the test split the sum of accuracies over the episodes that draw it; None if not known."""
    bank: str = ""
    """Identifies the test episodes and their images. Cells with the same bank can be compared episode by episode."""
    records: tuple[str, ...] = ()
    """`training key/evaluation key` for every seed done."""
    parameters: int | None = None
    image_flops: int | None = None
    training_seconds: float | None = None
    """Mean over the seeds done. This and what follows is None where CPUs trained some of them and GPUs others."""
    training_minutes: float | None = None
    """Mean core-minutes of the trainings, or GPU-minutes (`Ended.minutes`)."""
    stage_minutes: float | None = None
    """The same of the trainings that they start from; None if they start from none, there is no record, or other
    devices trained them, whose minutes are others."""
    on_gpu: bool = False
    """Whether a GPU trained them, so that these are GPU-minutes."""
    test_seconds: float | None = None
    """Mean time of their tests: wall time on a GPU, and CPU time on a CPU where it is known."""
    image_sizes: tuple[str, ...] = ()
    """As the trainings found them, each once, where their records say it."""
    doubts: tuple[str, ...] = ()
    """Why its records are stale, if they were accepted anyway."""
    data_doubts: tuple[str, ...] = ()
    """What trainings and tests noted about their images, each once, after the data set's name."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the method counted beside its answers (`EvaluationRecord.counts`), over the seeds done."""

    def of_seeds(self, seeds: tuple[int, ...]) -> Samples:
        """Accuracies [len(seeds), E] of the given seeds, in that order."""
        assert self.accuracies is not None
        if seeds == self.seeds:
            return self.accuracies
        place = {seed: number for number, seed in enumerate(self.seeds)}
        return self.accuracies[[place[seed] for seed in seeds]]

    @property
    def training_keys(self) -> tuple[str, ...]:
        """The key of each seed's training, in the order of `seeds`."""
        return tuple(name.partition("/")[0] for name in self.records)


def may_be_tested(ended: Ended | None) -> bool:
    """Whether a training's tests count, by its record: not if it failed or diverged; yes if the record is absent."""
    return ended is None or ended.outcome == "finished"


def collect(cell: PlannedCell, records: Records, today: Today | None = None) -> Collected:
    """Read the records of a planned cell; if `today` is given, stale records count only if it accepts them.

    A record that is damaged, or contradicts itself or the plan, does not count, nor does the test of a training that
    failed or diverged.
    """
    found: list[tuple[int, Ended | None, Tested]] = []
    absent: dict[int, Absence] = {}
    asked = cell.evaluation.key
    for seed, key in zip(cell.seeds, cell.training_keys, strict=True):
        try:
            tested, ended = records.how_tested(key, asked), records.how_ended(key)
            if tested is None or not may_be_tested(ended):
                absent[seed] = _absence(cell.of_seed(seed), key, records)
                continue
            _check(tested, f"{key}/{asked}", cell.evaluation)
            found.append((seed, ended, tested))
        except Damaged as error:
            absent[seed] = Absence(State.DAMAGED, f"damaged: {printable(' '.join(str(error).split()))}")
    accuracies = np.array([tested.accuracies for _, _, tested in found])
    wrong = _wrong_summaries([tested for _, _, tested in found], accuracies)
    if wrong:
        absent |= {found[n][0]: Absence(State.DAMAGED, f"damaged: {told}") for n, told in wrong.items()}
        found = [each for n, each in enumerate(found) if n not in wrong]
        accuracies = np.delete(accuracies, list(wrong), axis=0)
    done, doubted = [], set[str]()
    doubts_of = _doubts(cell, today) if today else lambda ended, tested: ()
    for seed, ended, tested in found:
        doubts = doubts_of(ended, tested)
        if doubts and today and not today.accept_stale:
            absent[seed] = Absence(State.STALE, f"stale: {', '.join(doubts)}")
        else:
            doubted.update(doubts)
            done.append((seed, ended, tested))
    reasons = _by_reason({seed: absent[seed].reason for seed in cell.seeds if seed in absent}, len(cell.seeds))
    if not done:
        return Collected(min((absence.state for absence in absent.values()), key=GRAVEST_FIRST.index), reasons)
    # A bank holds rows of a split, so with other images its episodes are different ones.
    banks = {f"{tested.bank} of {tested.data_fingerprint[:16]}" for _, _, tested in done}
    if len(banks) > 1:
        return Collected(State.REFUSED, (f"its seeds were tested on different episodes ({', '.join(sorted(banks))})",))
    trainings = [training for _, training, _ in done if training is not None]
    on_gpu = any(training.on_gpu for training in trainings)
    before = [_stage_minutes(cell.of_seed(seed), records, on_gpu) for seed, _, _ in done]
    mixed = len({training.on_gpu for training in trainings}) > 1
    timed = [] if mixed else trainings  # minutes of CPUs and of GPUs have no mean
    return Collected(
        State.PARTIAL if absent else State.DONE,
        reasons,
        tuple(seed for seed, _, _ in done),
        accuracies if len(done) == len(found) else np.array([tested.accuracies for _, _, tested in done]),
        _class_sums([tested for _, _, tested in done], cell.evaluation),
        banks.pop(),
        tuple(tested.name for _, _, tested in done),
        trainings[0].parameters if trainings else None,
        trainings[0].image_flops if trainings else None,
        sum(training.seconds for training in timed) / len(timed) if timed else None,
        sum(training.minutes for training in timed) / len(timed) if timed else None,
        sum(filter(None, before)) / len(before) if not mixed and None not in before else None,
        on_gpu,
        None if mixed else sum(_test_seconds(tested, on_gpu) for _, _, tested in done) / len(done),
        tuple(sorted({t.provenance.image_sizes for t in trainings if t.provenance and t.provenance.image_sizes})),
        tuple(sorted(doubted)),
        _data_doubts(cell, done),
        dict(sum((Counter(tested.counts) for _, _, tested in done), Counter())),
    )


def _test_seconds(tested: Tested, on_gpu: bool) -> float:
    return tested.seconds if on_gpu or tested.cpu_seconds is None else tested.cpu_seconds


def _stage_minutes(config: ExperimentConfig, records: Records, on_gpu: bool) -> float | None:
    """Minutes, of GPUs or of CPUs, of all trainings that one starts from.

    None if there are none, a record is missing or damaged, or one was trained on the other.
    """
    found = []
    for stage in config.stages:
        try:
            found.append(records.how_ended(stage.key))
        except Damaged:
            return None
    known = [ended.minutes for ended in found if ended and ended.on_gpu == on_gpu]
    return sum(known) if known and len(known) == len(found) else None


def _class_sums(done: Sequence[Tested], asked: EvaluationConfig) -> Samples | None:
    """[S, C], as in `Collected`; None unless all of them have sums, over the same number of classes."""
    if len({len(tested.class_sums) for tested in done}) > 1 or not done[0].class_sums:
        return None
    return np.array([tested.class_sums for tested in done]) / (asked.way * asked.queries)


def _doubts(cell: PlannedCell, today: Today) -> Callable[[Ended | None, Tested], tuple[str, ...]]:
    """Tells the distinct reasons why a training of a cell, with whichever seed, or its evaluation is stale.

    Seeds with the same code and images are looked at once.
    """

    @functools.cache
    def of_record(code: str, images: str, format_: int, is_test: bool) -> tuple[str, ...]:
        return today.doubts(cell.config, code, images, format_, cell.evaluation if is_test else None)

    def of_seed(ended: Ended | None, tested: Tested) -> tuple[str, ...]:
        found = of_record(tested.code, tested.data_fingerprint, tested.format, True)
        if ended and ended.provenance:
            made = ended.provenance
            found += of_record(made.code, made.data_fingerprint, ended.format, False)
        return tuple(dict.fromkeys(found))

    return of_seed


def _data_doubts(cell: PlannedCell, done: Sequence[tuple[int, Ended | None, Tested]]) -> tuple[str, ...]:
    trained, tested = cell.config.data.name, cell.evaluation.data_of(cell.config).name
    found: dict[str, None] = {}
    for _, ended, test in done:
        of_training = ended.provenance.data_doubts if ended and ended.provenance else ()
        found.update({f"{trained}: {doubt}": None for doubt in of_training})
        found.update({f"{tested}: {doubt}": None for doubt in test.data_doubts})
    return tuple(found)


def _by_reason(reasons: dict[int, str], planned: int) -> tuple[str, ...]:
    """The distinct reasons, each with its seeds unless it holds for all `planned` seeds."""
    seeds: dict[str, list[str]] = {}
    for seed, reason in reasons.items():
        seeds.setdefault(reason, []).append(str(seed))
    return tuple(
        reason if len(those) == planned else f"{'seeds' if len(those) > 1 else 'seed'} {', '.join(those)}: {reason}"
        for reason, those in seeds.items()
    )


def _absence(training: ExperimentConfig, key: str, records: Records) -> Absence:
    """Why a training has no evaluation that counts."""
    record = records.how_ended(key)
    if record is None:
        stage = training.stage
        if stage is not None and (before := records.how_ended(stage.key)) and before.failure:
            state = State.DIVERGED if before.outcome == "diverged" else State.FAILED
            told = LAST_TRIED if state is State.FAILED else state
            return Absence(state, f"its {stage.as_start} {stage.key} {told}: {printable(before.failure.reason)}")
        state = State.RUNNING if records.running(key) else State.MISSING
        return Absence(state, state.value)
    failure = record.failure
    if record.outcome == "finished":
        return Absence(State.NOT_EVALUATED, "trained, not evaluated")
    if record.outcome == "diverged":
        return Absence(State.DIVERGED, f"diverged at step {failure.step}" if failure and failure.step else "diverged")
    return Absence(State.FAILED, f"{LAST_TRIED}: {printable(failure.reason)}" if failure else LAST_TRIED)


def _check(tested: Tested, expected: str, asked: EvaluationConfig) -> None:
    if tested.name != expected or tested.config_key != asked.key:
        raise Damaged(f"evaluation {tested.name} is in the place of {expected}; remove it and evaluate again")
    count = len(tested.accuracies)
    if count != asked.tested:
        raise Damaged(
            f"evaluation {tested.name} holds {count} episodes, but its config says {asked.tested}; evaluate again"
        )


def _wrong_summaries(found: Sequence[Tested], accuracies: Samples) -> dict[int, str]:
    """The numbers of records whose mean or interval differs from their episodes', a row of `accuracies`; in words."""
    if not found:
        return {}
    wrong: dict[int, str] = {}
    outside = (accuracies.min(axis=1) < 0) | (accuracies.max(axis=1) > 1)
    for number in np.flatnonzero(outside).tolist():
        wrong[number] = f"evaluation {found[number].name} holds accuracies outside [0, 1]; evaluate again"
    for number, (tested, accuracy, ci95) in enumerate(zip(found, *means_ci95(accuracies), strict=True)):
        for what, stored, right in (("accuracy", tested.accuracy, accuracy), ("ci95", tested.ci95, ci95)):
            if number not in wrong and not abs(stored - right) <= TOLERANCE:
                wrong[number] = (
                    f"evaluation {tested.name} says {what}={stored!r}, but its episodes give {float(right)!r}; "
                    "evaluate again"
                )
    return wrong
