"""Orders trials: those that start from another training wait for it, and are skipped if it failed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable, Mapping

from dmf.config import AnyTraining
from dmf.records.records import Failure
from dmf.records.staleness import Today
from dmf.values import Damaged
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import Standing, start_blocked


def stages_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The same trials, with each one before the first that starts from it."""
    by_key = {trial.key: trial for trial in trials}
    found: dict[str, Trial] = {}
    for trial in by_key.values():
        for key in (*(stage.key for stage in trial.config.stages), trial.key):
            if key in by_key:
                found.setdefault(key, by_key[key])
    return tuple(found.values())


def with_stages(chosen: Iterable[Trial], trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The `chosen` trials and those that they start from, in the order of `trials`."""
    wanted = {each.key for trial in chosen for each in (*trial.config.stages, trial.config)}
    return tuple(trial for trial in trials if trial.key in wanted)


def startable(
    chosen: Iterable[Trial],
    asked: Iterable[Trial],
    stands: Mapping[str, Standing],
    ledger: Ledger,
    today: Today,
    retrain_lost: bool,
) -> tuple[tuple[Trial, ...], set[str], dict[str, str]]:
    """The `chosen` trials that can run, with what is made anew for them; `stands` are those of all `asked`.

    Where `retrain_lost`, trainings that have ended, and whose weights others need and were not kept, are made anew.
    Returns all that run, the keys of these trainings, and why each of the others cannot start, by its key.
    """
    by_key = {trial.key: trial for trial in asked}
    found: dict[str, Trial] = {}
    lost: set[str] = set()
    left: dict[str, str] = {}
    for trial in stages_first(chosen):
        stage, why = trial.config.stage, ""
        if stage is not None and stage.key not in found and stands[trial.key].state != "untested":
            gone = _without_weights(trial, found, stands, ledger) if retrain_lost else []
            if stage.key in left:
                why = left[stage.key]
            elif gone:
                lost.update(gone)
                found |= {key: by_key[key] for key in gone}
            else:
                why = _why_blocked(trial, stands[trial.key], ledger, today)
        if why:
            left[trial.key] = why
        else:
            found[trial.key] = trial
    return stages_first(found.values()), lost, left


def _why_blocked(trial: Trial, stands: Standing, ledger: Ledger, today: Today) -> str:
    """Why a trial cannot start from the one before it; empty if it can."""
    if stands.record is None:
        return stands.why if stands.state == "blocked" else ""
    blocked = start_blocked(trial.config, ledger, today)
    return blocked[0] if blocked else ""


def _without_weights(trial: Trial, found: Container[str], stands: Mapping[str, Standing], ledger: Ledger) -> list[str]:
    """Keys of trainings that have ended, and without whose weights a trial cannot start, first to last.

    Those `found` run before it.
    """
    gone: list[str] = []
    for stage in reversed(trial.config.stages):
        record = stands[stage.key].record
        if stage.key in found or record is None or record.outcome != "finished" or ledger.has_weights(stage.key):
            break
        gone.insert(0, stage.key)
    return gone


def without_start(config: AnyTraining, ledger: Ledger) -> Failure | None:
    """Why a training cannot start: the one before it has not ended, or ended without weights. None: it can start."""
    if config.stage is None:
        return None
    told = f"its {config.stage.as_start} {config.stage.key}"
    try:
        ended = ledger.how_ended(config.stage.key)
    except Damaged as error:
        return Failure(kind="stage", reason=f"{told} is damaged: {' '.join(str(error).split())}")
    if ended is not None and ended.outcome == "finished":
        return None
    if ended is None:
        return Failure(kind="stage", reason=f"{told} has not ended")
    reason = f": {ended.failure.reason}" if ended.failure else ""
    return Failure(kind="stage", reason=f"{told} {ended.outcome}{reason}")


class Order:
    """Gives out trials in order, each after the one that it starts from has ended.

    If that one ended without weights, the trial is passed to `skip` instead.
    """

    def __init__(self, trials: Iterable[Trial], ledger: Ledger, skip: Callable[[str, Failure], None]) -> None:
        self.trials = stages_first(trials)
        self.ledger, self.skip = ledger, skip
        pending = {trial.key for trial in self.trials}
        self.ready: list[int] = []
        """A heap of positions in `trials`."""
        self.after: dict[str, list[int]] = {}
        """By the key of a trial that has not ended, the positions of those that start from it."""
        for position, trial in enumerate(self.trials):
            stage = trial.config.stage
            if stage is not None and stage.key in pending:
                self.after.setdefault(stage.key, []).append(position)
            else:
                self.ready.append(position)

    @property
    def waiting(self) -> bool:
        """Whether some trials have not been given out."""
        return bool(self.ready or self.after)

    def next(self) -> Trial | None:
        """The next trial that can start; None if none can, now (while some are `waiting`) or at all."""
        while self.ready:
            trial = self.trials[heapq.heappop(self.ready)]
            failure = without_start(trial.config, self.ledger)
            if failure is None:
                return trial
            self.skip(trial.key, failure)
        return None

    def ended(self, key: str) -> None:
        """Note that a trial has ended, with or without success: those that wait for it may start."""
        for position in self.after.pop(key, ()):
            heapq.heappush(self.ready, position)
