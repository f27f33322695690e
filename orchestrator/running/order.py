"""Orders trials: those that start from a pre-training wait for it, and are skipped if it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dmf.config import AnyTraining
from dmf.records.records import Failure
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
    ended = ledger.how_ended(config.stage.key)
    if ended is not None and ended.outcome == "finished":
        return None
    told = f"its pre-training {config.stage.key}"
    if ended is None:
        return Failure(kind="stage", reason=f"{told} has not ended")
    reason = f": {ended.failure.reason}" if ended.failure else ""
    return Failure(kind="stage", reason=f"{told} {ended.outcome}{reason}")


class Order:
    """Gives out trials in order, each after its pre-training has ended.

    A trial whose pre-training ended without weights is passed to `skip` instead.
    """

    def __init__(self, trials: Iterable[Trial], ledger: Ledger, skip: Callable[[str, Failure], None]) -> None:
        self.waiting = {trial.key: trial for trial in stages_first(trials)}
        self.ledger, self.skip = ledger, skip
        self.at_work: set[str] = set()

    def next(self) -> Trial | None:
        """The next trial that can start; None if none can, now (while `waiting` has some) or at all."""
        for key, trial in list(self.waiting.items()):
            stage = trial.config.stage
            if stage is not None and (stage.key in self.waiting or stage.key in self.at_work):
                continue
            del self.waiting[key]
            if failure := without_start(trial.config, self.ledger):
                self.skip(key, failure)
                continue
            self.at_work.add(key)
            return trial
        return None

    def ended(self, key: str) -> None:
        """Note that a trial has ended, with or without success."""
        self.at_work.discard(key)
