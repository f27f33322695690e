"""The standing of trials: what the ledger holds, and whether today's code and images would make the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dmf.config import AnyTraining, EvaluationConfig
from dmf.records.facts import Ended, MadeBy
from dmf.records.records import FORMAT, Going, damaged_weights
from dmf.records.staleness import Today
from dmf.values import Damaged
from orchestrator.spec.plan import Trial
from orchestrator.store import ledger as ledgers
from orchestrator.store.ledger import Ledger

State = ledgers.State | Literal["stale", "no weights", "blocked"]
"""`stale`: made or begun by other code or from other images than today's. `no weights`: trained, but evaluations are
missing and their weights were not kept. `blocked`: what it starts from failed, diverged, is stale, damaged or blocked,
or has no weights. `damaged`: a record or the weights that tests need are not what was written, or cannot be read."""
BLOCKS = {
    "failed": "failed",
    "diverged": "diverged",
    "stale": "is stale",
    "damaged": "is damaged",
    "blocked": "is blocked",
}
"""States of a training that keep those which start from it from starting, in words."""


RETRAIN_LOST = "--retrain-lost puts it aside and retrains it"


@dataclass(frozen=True)
class Standing:
    """The standing of one trial, and what was looked up to tell it."""

    state: State
    why: str = ""
    """The reason of a failure or divergence, or what makes it stale."""
    again: bool = False
    """For `failed`: the next start retries it: a machine was at fault, or data.root, device or threads changed."""
    record: Ended | None = None
    """How its training ended; None if it has not, or if its record is damaged."""
    tested: frozenset[str] = frozenset()
    """Keys of its evaluations that are recorded."""
    going: Going | None = None
    """Its last checkpoint's progress, if the training has not ended; None also if that is damaged."""

    @property
    def ended(self) -> bool:
        """Whether it has all the records that it can have."""
        return self.state in ("done", "diverged")

    def whole(self, trial: Trial) -> bool:
        """Whether all records of the trial are there, stale or not."""
        outcome = self.record.outcome if self.record else None
        return outcome == "diverged" or (outcome == "finished" and len(self.tested) == len(trial.evaluations))

    @property
    def runs(self) -> bool:
        """Whether the next start runs it."""
        return self.state in ("missing", "started", "untested") or self.again


def standing(trial: Trial, ledger: Ledger, today: Today) -> Standing:
    """The standing of a trial. Each of its records is looked at once."""
    try:
        record = ledger.how_ended(trial.key)
        tests = {test.key: ledger.evaluation_made_by(trial.key, test.key) for test in trial.evaluations if record}
    except Damaged as error:
        return Standing("damaged", " ".join(str(error).split()))
    made = {key: test for key, test in tests.items() if test}
    going: Going | ValueError | None = None
    if record is None or record.outcome == "failed":
        try:
            going = ledger.checkpoint(trial.key)
        except ValueError as error:
            going = error
    state, why, again = _judged(trial, ledger, today, record, made, going)
    return Standing(state, why, again, record, frozenset(made), None if isinstance(going, ValueError) else going)


def start_blocked(config: AnyTraining, ledger: Ledger, today: Today) -> tuple[str, bool] | None:
    """Why a training cannot start from the one before it, and whether the next start retries that one.

    None: it can, or that one has yet to be made.
    """
    stage = config.stage
    if stage is None:
        return None
    before = standing(Trial(stage, (), starts_others=True), ledger, today)
    told = f"its {stage.as_start} {stage.key}"
    if before.state in BLOCKS:
        why = f"{told} {BLOCKS[before.state]}"
        return f"{why}: {before.why}" if before.why else why, before.again
    if before.state == "done" and not ledger.has_weights(stage.key):
        return f"{told} has ended and its weights were not kept; {RETRAIN_LOST}", False
    return None


def _judged(
    trial: Trial,
    ledger: Ledger,
    today: Today,
    record: Ended | None,
    tests: dict[str, MadeBy],
    going: Going | ValueError | None,
) -> tuple[State, str, bool]:
    """State, reason and whether it is retried, from how the training ended, what made its tests, and how far it is."""
    blocked = start_blocked(trial.config, ledger, today) if record is None else None
    if blocked:
        return "blocked", *blocked
    if isinstance(going, Damaged):
        return "damaged", f"{' '.join(str(going).split())}; the training starts from its beginning", True
    failed = record is not None and record.outcome == "failed"
    if isinstance(going, ValueError):  # the trial will meet the same error and record it
        return _failed(trial.config, ledger) if failed else ("failed", str(going), True)
    state = _state(trial, ledger, record, tests, going)
    made = _made_by(trial, record, tests, going)
    doubts = [doubt for each in made for doubt in today.doubts(trial.config, *each)]
    if doubts and not today.accept_stale:
        return "stale", ", ".join(dict.fromkeys(doubts)), False
    if state == "failed":
        return _failed(trial.config, ledger)
    needed = state == "untested" or (state == "done" and trial.starts_others)
    if needed and not ledger.has_weights(trial.key):
        if ledger.has_damaged_weights(trial.key):
            return "damaged", damaged_weights(trial.key), False
        if state == "untested":
            return "no weights", f"tests are missing, and its weights were not kept; {RETRAIN_LOST}", False
    return state, record.failure.reason if record and record.failure else "", False


def _state(
    trial: Trial, ledger: Ledger, record: Ended | None, tests: dict[str, MadeBy], going: Going | None
) -> ledgers.State:
    if record is None:
        return "started" if going or ledger.begun_elsewhere(trial.key) else "missing"
    if record.outcome != "finished":
        return record.outcome
    return "done" if len(tests) == len(trial.evaluations) else "untested"


def _failed(config: AnyTraining, ledger: Ledger) -> tuple[State, str, bool]:
    try:
        record = ledger.training(config.key)
    except Damaged as error:
        return "damaged", " ".join(str(error).split()), False
    if record is None or record.failure is None:
        return "failed", "", True
    moved = record.config != config  # the keys are equal, so data.root, device or threads differ
    return "failed", record.failure.reason, moved or record.failure.kind in ("machine", "disk")


def _made_by(
    trial: Trial, record: Ended | None, tests: dict[str, MadeBy], going: Going | None
) -> list[tuple[str, str, int, EvaluationConfig | None]]:
    """Code, images and record format of everything that the store holds for a trial, and of which evaluation."""
    if record is None or record.outcome == "failed":
        return [(going.code, going.data, FORMAT, None)] if going else []
    found = [(tests[evaluation.key], evaluation) for evaluation in trial.evaluations if evaluation.key in tests]
    made: list[tuple[str, str, int, EvaluationConfig | None]] = [
        (test.code, test.data_fingerprint, test.format, evaluation) for test, evaluation in found
    ]
    if record.provenance:
        made.insert(0, (record.provenance.code, record.provenance.data_fingerprint, record.format, None))
    return made
