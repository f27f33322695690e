"""Previews a sweep: its cost on this machine, and warnings about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.costs.estimates import Cost, estimate
from orchestrator.costs.machine import Machine, at_a_time, shortages, this_machine
from orchestrator.costs.rates import Calibration
from orchestrator.costs.totals import told
from orchestrator.spec.lint import lint
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import SweepPlan, Trial
from orchestrator.store.ledger import Ledger
from orchestrator.text import duration


@dataclass(frozen=True)
class Preview:
    """The preview of the trials that are not done yet."""

    costs: dict[str, Cost]
    """The cost of all requested trials, by training key."""
    at_a_time: int
    """How many trials run together on this machine."""
    lines: tuple[str, ...]
    """The total cost, as text."""
    warnings: tuple[str, ...]

    def of(self, key: str) -> str:
        """One trial's cost as text; empty if it is unknown or nothing is left to do."""
        return f"about {duration(seconds)}" if (seconds := self.costs[key].seconds) else ""


def preview(
    spec: SweepSpec,
    planned: SweepPlan,
    ledger: Ledger,
    asked: Sequence[Trial] | None = None,
    whole: Mapping[str, bool] | None = None,
    base_classes: Mapping[str, int] = MappingProxyType({}),
) -> Preview:
    """Estimate the cost of a sweep, or of the `asked` trials of it, and collect warnings.

    Starts nothing. `whole` is as in `estimate`, and `base_classes` as in `shortages`.
    """
    trials = planned.trials() if asked is None else asked
    costs = estimate(trials, ledger, Calibration.of(ledger.store), whole=whole)
    left = [trial for trial in trials if costs[trial.key].source != "done"]
    machine = machine_for(left, costs, spec)
    together = at_a_time(left, spec.resources, machine)
    return Preview(
        costs=costs,
        at_a_time=together,
        lines=tuple(told([costs[trial.key] for trial in left], together)),
        warnings=(
            *lint(spec, planned),
            *shortages(left, costs, spec.resources, machine, ledger.store, spec.keep_weights, base_classes),
        ),
    )


def machine_for(trials: Sequence[Trial], costs: dict[str, Cost], spec: SweepSpec) -> Machine:
    """This machine; its GPUs are looked for only if trials of known cost would use them."""
    known = any(costs[trial.key].seconds is not None for trial in trials)
    on_gpu = spec.resources.gpu != 0 and any(trial.config.training.device != "cpu" for trial in trials)
    return this_machine(uses_gpu=known and on_gpu)
