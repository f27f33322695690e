"""Totals over many trials: before a sweep how long it will take, after it how good the estimates were."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dmf.config import AnyTraining
from dmf.values import Damaged
from orchestrator.costs.estimates import Cost, Source
from orchestrator.costs.rates import cost_class, representative
from orchestrator.spec.plan import labels
from orchestrator.store.ledger import Ledger
from orchestrator.text import duration
from reports.words import counted

KNOWN_FROM: dict[Source, str] = {
    "records": "from records of the same kind",
    "calibration": "from a calibration",
    "FLOPs": "from others, scaled by FLOPs",
}

ROUGH = 3.0
"""How many times the low end of its range an estimate is at least, to be called a rough guess."""


@dataclass(frozen=True)
class Total:
    """The total of several trials: `seconds` of computing, and `makespan` until the last ends; each with its range."""

    seconds: tuple[float, float, float]
    makespan: tuple[float, float, float]


def total(costs: Iterable[Cost], at_a_time: int) -> Total:
    """The total of the known costs, in the order in which the trials start."""
    ranges = [
        (cost.seconds, cost.seconds_low or 0.0, cost.seconds_high or 0.0) for cost in costs if cost.seconds is not None
    ]
    middle, low, high = zip(*ranges, strict=True) if ranges else ((), (), ())
    return Total(
        seconds=(sum(middle), sum(low), sum(high)),
        makespan=(makespan(middle, at_a_time), makespan(low, at_a_time), makespan(high, at_a_time)),
    )


def makespan(seconds: Iterable[float], at_a_time: int) -> float:
    """When the last of several tasks ends, if each starts in turn as soon as fewer than `at_a_time` run."""
    ends = [0.0] * at_a_time
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def told(costs: Sequence[Cost], at_a_time: int) -> list[str]:
    """A sweep's costs as lines of text: computing, wall time, and the sources of the estimates."""
    left = [cost for cost in costs if cost.source != "done"]
    sources = Counter(cost.source for cost in left)
    unknown = sources.pop("unknown", 0)
    lines = []
    if sources:
        summed = total(left, at_a_time)
        lines = [
            f"estimated: {said(*summed.seconds)} of computing, {said(*summed.makespan)} with {at_a_time} at a time",
            "  " + ", ".join(f"{counted(count, 'training')} {KNOWN_FROM[source]}" for source, count in sources.items()),
        ]
        guessed = total((cost for cost in left if cost.source == "FLOPs"), at_a_time).seconds
        if guessed[0] > ROUGH * guessed[1]:
            lines.append(
                "  a rough guess: those others computed far less in a second than this machine can, because they are "
                "small or it was busy; --calibrate measures"
            )
    if unknown:
        lines.append(f"unknown: the cost of {unknown} of {counted(len(left), 'training')}; --calibrate measures it")
    return lines


def said(seconds: float, low: float, high: float) -> str:
    """A duration with its range: 3 h 20 min (2 h 50 min to 4 h 10 min)."""
    return f"{duration(seconds)} ({duration(low)} to {duration(high)})"


def compare(estimates_before: dict[str, Cost], ledger: Ledger) -> str:
    """Compare estimated and actual seconds of the trainings that have ended since, per cost class and in total."""
    configs: dict[str, AnyTraining] = {}
    pairs: dict[str, list[tuple[Cost, float]]] = {}
    for key, cost in estimates_before.items():
        if not cost.seconds:
            continue
        try:
            record, tests = ledger.training(key), ledger.evaluations(key)
        except Damaged:  # the summary says so
            continue
        if record is None or record.outcome != "finished":
            continue
        actual = record.seconds + sum(test.seconds for test in tests) - cost.earlier_seconds
        name = cost_class(record.config)
        configs.setdefault(name, record.config)
        pairs.setdefault(name, []).append((cost, actual))
    if not pairs:
        return "no training with an estimate has ended"
    names = class_labels(configs)
    rows = [(names[name], found) for name, found in pairs.items()]
    if len(rows) > 1:
        rows.append(("total", [pair for _, found in rows for pair in found]))
    width = max(len("trainings"), *(len(label) for label, _ in rows))
    lines = [f"{'trainings':<{width}}  number  {'estimated':<32}  {'actual':<11}  actual / estimated"]
    for label, found in rows:
        estimated, actual = total((cost for cost, _ in found), 1).seconds, sum(seconds for _, seconds in found)
        ratio = f"{actual / estimated[0]:.2f}"
        lines.append(f"{label:<{width}}  {len(found):>6}  {said(*estimated):<32}  {duration(actual):<11}  {ratio}")
    return "\n".join(lines)


def class_labels(configs: dict[str, AnyTraining]) -> dict[str, str]:
    """Labels for cost classes, given one training of each: by what affects cost, not by seed or learning rate."""
    return labels(representative(config) for config in configs.values())
