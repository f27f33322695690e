"""The standing of trials: what the ledger holds, and whether today's code and images would make the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dmf.config import EvaluationConfig
from dmf.records.facts import Ended
from dmf.records.records import FORMAT, without_weights
from dmf.records.staleness import Today
from orchestrator.spec.plan import Trial
from orchestrator.store import ledger as ledgers
from orchestrator.store.ledger import Ledger

State = ledgers.State | Literal["stale", "no weights", "blocked"]
"""`stale`: made or begun by other code or from other images than today's. `no weights`: trained, but evaluations are
missing and their weights were not kept. `blocked`: its pre-training failed, diverged or is stale."""


@dataclass(frozen=True)
class Standing:
    """The standing of one trial."""

    state: State
    why: str = ""
    """The reason of a failure or divergence, or what makes it stale."""
    again: bool = False
    """For `failed`: the next start retries it: a machine was at fault, or data.root, device or threads changed."""

    @property
    def ended(self) -> bool:
        """Whether it has all the records that it can have."""
        return self.state in ("done", "diverged")

    @property
    def runs(self) -> bool:
        """Whether the next start runs it."""
        return self.state in ("missing", "started", "untested") or self.again


def standing(trial: Trial, ledger: Ledger, today: Today) -> Standing:
    """The standing of a trial."""
    if trial.config.stage is not None and ledger.how_ended(trial.key) is None:
        before = standing(Trial(trial.config.stage, ()), ledger, today)
        if before.state in ("failed", "diverged", "stale"):
            why = f"its pre-training {trial.config.stage.key} {'is stale' if before.state == 'stale' else before.state}"
            return Standing("blocked", f"{why}: {before.why}" if before.why else why, before.again)
    ended = ledger.how_ended(trial.key)
    state = ledger.state_after(trial, ended)
    try:
        made = _made_by(trial, ledger, state, ended)
    except ValueError as error:  # the trial will meet the same error and record it
        return _failed(trial, ledger) if state == "failed" else Standing("failed", str(error), again=True)
    doubts = [doubt for each in made for doubt in today.doubts(trial.config, *each)]
    if doubts and not today.accept_stale:
        return Standing("stale", ", ".join(dict.fromkeys(doubts)))
    if state == "failed":
        return _failed(trial, ledger)
    if state == "untested" and not ledger.has_weights(trial.key):
        return Standing("no weights", without_weights(trial.key))
    return Standing(state, ended.failure.reason if ended and ended.failure else "")


def _failed(trial: Trial, ledger: Ledger) -> Standing:
    record = ledger.training(trial.key)
    assert record is not None
    if record.failure is None:
        return Standing("failed", again=True)
    moved = record.config != trial.config  # the keys are equal, so data.root, device or threads differ
    return Standing("failed", record.failure.reason, again=moved or record.failure.kind in ("machine", "disk"))


def _made_by(
    trial: Trial, ledger: Ledger, state: ledgers.State, ended: Ended | None
) -> list[tuple[str, str, int, EvaluationConfig | None]]:
    """Code, images and record format of everything that the store holds for a trial, and of which evaluation."""
    if state == "missing":
        return []
    if state in ("started", "failed"):
        at = ledger.checkpoint(trial.key)
        return [(at.code, at.data, FORMAT, None)] if at else []
    tests = [(ledger.evaluation_made_by(trial.key, evaluation.key), evaluation) for evaluation in trial.evaluations]
    made: list[tuple[str, str, int, EvaluationConfig | None]] = [
        (each.code, each.data_fingerprint, each.format, evaluation) for each, evaluation in tests if each
    ]
    if ended and ended.provenance:
        made.insert(0, (ended.provenance.code, ended.provenance.data_fingerprint, ended.format, None))
    return made
