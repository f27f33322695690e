"""The progress display's running sums, against sums over all its rows."""

from __future__ import annotations

import random
from collections import Counter
from io import StringIO

from rich.console import Console

from dmf.records.records import Epoch
from orchestrator.running.progress import Progress
from orchestrator.text import duration


def epoch(number: int, seconds: float) -> Epoch:
    return Epoch(epoch=number, loss=1.0, losses={}, learning_rate=0.1, validation_accuracy=0.5, seconds=seconds)


def test_sums_are_those_of_the_rows_after_any_events() -> None:
    draw = random.Random(0)
    console = Console(file=StringIO(), width=200)
    progress, seconds = Progress("many", console), []
    for number in range(20):
        progress.planned(f"k{number}", f"row {number}", 5)
    for _ in range(300):
        key = f"k{draw.randrange(20)}"
        event = draw.choice(["started", "epoch", "epoch", "ended"])
        if event == "started":
            progress.started(key)
        elif event == "ended":
            progress.ended(key, draw.choice(["done", "failed", "diverged", "stopped"]))
        else:
            seconds.append(draw.random())
            progress.epoch(key, epoch(draw.randint(1, 5), seconds[-1]))
    rows = progress.rows.values()
    assert +progress.stages == Counter(row.stage for row in rows)
    left, running = sum(row.left for row in rows), sum(row.stage == "running" for row in rows)
    assert progress.epochs_left == left > 0
    expected = f"about {duration(left * sum(seconds) / len(seconds) / max(1, running))} left"
    assert progress.time_left() == expected and expected in progress.table().title


def test_lines_count_what_has_ended() -> None:
    output = StringIO()
    progress = Progress("two", Console(file=output, width=200))
    for key in ("a", "b"):
        progress.planned(key, f"row {key}", 2)
    for key in ("a", "b"):
        progress.started(key)
    assert progress.time_left() == "time left unknown"
    progress.ended("a", "done")
    progress.ended("b", "failed", "no images")
    assert output.getvalue().splitlines() == [
        "[0/2] a row a: starts",
        "[0/2] b row b: starts",
        "[1/2] a row a: done",
        "[2/2] b row b: failed: no images",
    ]
