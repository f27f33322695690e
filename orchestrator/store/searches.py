"""What a search has tried, as kept in the store."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from dmf.config import ExperimentConfig
from dmf.records.records import TrainingRecord
from dmf.values import Checked, Damaged, Fraction, Value
from orchestrator.spec.model import Range, Search, SweepSpec
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger

log = logging.getLogger("dmf.ledger")
SEARCH = "search.json"


class Tried(Value):
    """One proposal and its outcome."""

    values: dict[Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")], Any]
    """Dotted path -> value."""
    key: str
    accuracy: Fraction
    """Its best validation accuracy at the end; 0 if it diverged, failed or is impossible."""
    epochs: int
    outcome: Literal["running", "finished", "diverged", "failed", "stopped", "impossible"]
    """`running`: begun, and not known to have ended. `stopped`: by ASHA, before its last epoch; it has a checkpoint but
    no record. `impossible`: values that no configuration can combine."""


class SearchResults(Checked):
    """Everything that a search has tried."""

    base: ExperimentConfig
    parameters: dict[str, Any]
    tried: tuple[Tried, ...] = ()
    trials: int = 0
    """How many trials the last start asked for."""

    @property
    def best(self) -> Tried | None:
        """The fully trained proposal with the highest validation accuracy."""
        finished = [tried for tried in self.tried if tried.outcome == "finished"]
        return max(finished, key=lambda tried: tried.accuracy, default=None)

    @property
    def open(self) -> tuple[Tried, ...]:
        """Proposals that an error or a kill ended, so nothing is known about their values."""
        return tuple(tried for tried in self.tried if tried.outcome in ("failed", "running"))

    def with_tried(self, tried: Iterable[Tried]) -> SearchResults:
        """The same search with other proposals."""
        return SearchResults(base=self.base, parameters=self.parameters, tried=tuple(tried), trials=self.trials)


def results_path(ledger: Ledger, name: str) -> Path:
    """The file that holds what a search has tried."""
    return ledger.sweep_folder(name) / SEARCH


def results_of(ledger: Ledger, name: str) -> SearchResults | None:
    """What a search has tried; None if there is no search of that name."""
    path = results_path(ledger, name)
    return SearchResults.read(path) if path.is_file() else None


def keys_of(ledger: Ledger, plan: SweepPlan) -> list[str]:
    """The keys of all that a sweep, or a search, has asked for or may ask for."""
    if plan.cells:
        return [trial.key for trial in plan.trials()]
    tried = results_of(ledger, plan.name)
    return [each.key for each in tried.tried] if tried else []


def kept(spec: SweepSpec, ledger: Ledger) -> SearchResults:
    """Everything that a search has tried so far. Raises ValueError if the store has another search of its name."""
    assert spec.search is not None
    search = spec.search
    fresh = SearchResults(base=spec.config_for({}), parameters=search.parameters.given(), trials=search.trials)
    path, earlier = results_path(ledger, spec.name), results_of(ledger, spec.name)
    if earlier is None:
        return fresh
    if (earlier.base.key, earlier.parameters) != (fresh.base.key, fresh.parameters):
        raise ValueError(
            f"{path} belongs to a search with another base or other ranges; give this one its own name (name=...)"
        )
    return fresh.with_tried(earlier.tried)


def training_or_none(ledger: Ledger, key: str) -> TrainingRecord | None:
    """The record of a proposal's training; None if it has not ended or, with a warning, if its record is damaged.

    The search itself remembers the outcome.
    """
    try:
        return ledger.training(key)
    except Damaged as error:
        log.warning("training %s is damaged: %s", key, " ".join(str(error).split())[:300])
        return None


def resume(spec: SweepSpec, ledger: Ledger) -> SearchResults:
    """What a search continues from: `kept` without what failed or was cut off, which will be retried."""
    results = kept(spec, ledger)
    return results.with_tried(tried for tried in results.tried if tried not in results.open)


def first_point(base: ExperimentConfig, search: Search) -> dict[str, Any] | None:
    """The base configuration as a proposal; None if it lies outside a range."""
    point = {}
    for path, given in search.parameters.given().items():
        value, range_ = base.at(path), Range.from_dict(given)
        inside = value in range_.ends if range_.choice else range_.ends[0] <= value <= range_.ends[1]
        if not inside:
            return None
        point[path] = value
    return point


def label(values: dict[str, Any]) -> str:
    """Proposed values in short form: `learning_rate=0.1 groups=64`."""
    short = {path.split(".")[1]: f"{v:.4g}" if isinstance(v, float) else v for path, v in values.items()}
    return " ".join(f"{name}={value}" for name, value in short.items())


def listing(results: SearchResults) -> str:
    """What was tried, best first, and the best values as `set` lines for a sweep file."""
    lines = ["validation  epochs  outcome    values"]
    for tried in sorted(results.tried, key=lambda tried: (tried.outcome != "finished", -tried.accuracy)):
        lines.append(f"{100 * tried.accuracy:8.2f} %  {tried.epochs:>6}  {tried.outcome:<10} {label(tried.values)}")
    if results.best is not None:
        text = yaml.safe_dump({"set": results.best.values}, sort_keys=False).rstrip()
        lines.append(f"best: training {results.best.key}\n{text}")
    return "\n".join(lines)
