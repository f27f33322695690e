"""Orders trials: those that start from a pre-training wait for it, and are skipped if it failed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from dmf.config import AnyTraining
from dmf.records.records import Failure
from dmf.values import Damaged
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger


def stages_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The same trials, with each pre-training before the first one that starts from it."""
    by_key = {trial.key: trial for trial in trials}
    found: dict[str, Trial] = {}
    for trial in by_key.values():
        if trial.config.stage is not None and (stage := by_key.get(trial.config.stage.key)):
            found.setdefault(stage.key, stage)
        found.setdefault(trial.key, trial)
    return tuple(found.values())


def with_stages(chosen: Iterable[Trial], trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The `chosen` trials and the pre-trainings that they start from, in the order of `trials`."""
    wanted = {key for trial in chosen for key in (trial.key, trial.config.stage and trial.config.stage.key)}
    return tuple(trial for trial in trials if trial.key in wanted)


def without_start(config: AnyTraining, ledger: Ledger) -> Failure | None:
    """Why a training cannot start: its pre-training has not ended, or ended without weights. None: it can start."""
    if config.stage is None:
        return None
    told = f"its pre-training {config.stage.key}"
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
    """Gives out trials in order, each after its pre-training has ended.

    A trial whose pre-training ended without weights is passed to `skip` instead.
    """

    def __init__(self, trials: Iterable[Trial], ledger: Ledger, skip: Callable[[str, Failure], None]) -> None:
        self.trials = stages_first(trials)
        self.ledger, self.skip = ledger, skip
        pending = {trial.key for trial in self.trials}
        self.ready: list[int] = []
        """A heap of positions in `trials`."""
        self.after: dict[str, list[int]] = {}
        """By the key of a pre-training that has not ended, the positions of those that start from it."""
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
