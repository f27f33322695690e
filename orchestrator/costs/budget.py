"""Selects which of a sweep's trials to run: those that match a pattern, and those that fit a time budget."""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections.abc import Sequence

from orchestrator.costs.estimates import Cost
from orchestrator.running.order import stages_first
from orchestrator.spec.plan import Trial

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
TOLD = 10
"""Names that are listed if nothing matches."""


def parse_duration(text: str) -> float:
    """Convert a duration such as 3600s, 90m, 12h or 2d to seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or not float(found[1]):
        raise ValueError(
            f"{text!r} is not a duration; write a positive number and one of s, m, h, d, such as 90m, 12h or 2d"
        )
    return float(found[1]) * UNITS[found[2]]


def within(
    trials: Sequence[Trial], costs: dict[str, Cost], seconds: float, at_a_time: int, seeds: Sequence[int] = ()
) -> tuple[Trial, ...]:
    """The most wanted trials that should end within `seconds`, in the order in which to run them.

    Started trials come first, then the first of the sweep's `seeds` for every cell, then the second, each after what it
    starts from; ties keep the file's order. The first trial that would end too late ends the selection: no cheaper one
    overtakes it.
    """
    ends = [0.0] * at_a_time
    chosen = []
    for trial in in_order(trials, costs, seeds):
        end = ends[0] + (costs[trial.key].seconds or 0.0)
        if end > seconds:
            break
        heapq.heapreplace(ends, end)
        chosen.append(trial)
    return tuple(chosen)


def in_order(trials: Sequence[Trial], costs: dict[str, Cost], seeds: Sequence[int] = ()) -> list[Trial]:
    """The trials as a budget wants them, the first one first. Raises ValueError if the cost of one is unknown."""
    unknown = [trial.key for trial in trials if costs[trial.key].seconds is None]
    if unknown:
        raise ValueError(
            f"a budget needs an estimate for every training, and {len(unknown)} of {len(trials)} have none, such as "
            f"{unknown[0]}; measure them with --calibrate"
        )
    rank = {seed: number for number, seed in enumerate(seeds)}

    def wanted(trial: Trial) -> tuple[bool, int]:
        return not costs[trial.key].earlier_seconds, rank.get(trial.config.training.seed, len(rank))

    return list(stages_first(sorted(trials, key=wanted)))


def select(trials: Sequence[Trial], labels: dict[str, str], patterns: Sequence[str]) -> tuple[Trial, ...]:
    """The trials that match one of some shell-style patterns.

    A pattern can match a training's key, its label ("groups=64 shot=1"), a word of the label ("groups=64"), or
    "table 2c".
    """
    chosen = []
    for trial in trials:
        label = labels[trial.key]
        names = {trial.key, label, *label.split(), *(f"table {name}" for name in trial.tables)}
        if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns):
            chosen.append(trial)
    if not chosen:
        there = [f"{trial.key} ({labels[trial.key]})" for trial in trials[:TOLD]]
        more = [f"and {len(trials) - TOLD} more"] if len(trials) > TOLD else []
        tables = sorted({f"table {name}" for trial in trials for name in trial.tables})
        raise ValueError(
            f"no training matches {' or '.join(map(repr, patterns))}; there are {', '.join([*there, *more, *tables])}"
        )
    return tuple(chosen)
