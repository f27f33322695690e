"""The progress display's running sums, against sums over all its rows."""

from __future__ import annotations

import random
import re
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dmf.records.records import Epoch
from orchestrator.running.progress import Progress, shortened
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import labels, plan
from orchestrator.text import duration

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"


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


LABELS = tuple(
    labels(trial.config for trial in plan(read_spec(SWEEPS / "table2.yaml", ["seeds=[0]"])).trials()).values()
)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_narrow_terminal_keeps_what_changes_and_shortens_the_label(width: int) -> None:
    progress = Progress("table2", Console(file=StringIO(), width=width, height=50))
    for number, label in enumerate(LABELS):
        progress.planned(f"{number:016x}", label, 95)
    for key in list(progress.rows)[:3]:
        progress.started(key)
        progress.epoch(key, epoch(12, seconds=300))
    progress.ended("1".zfill(16), "failed", "ValueError: a reason that is longer than any terminal has room for " * 3)
    printed = StringIO()
    Console(file=printed, width=width, height=50).print(progress.table())
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= width and len(lines) == 2 + len(LABELS), "a line each"
    running = next(line for line in lines if line.startswith("0" * 5))
    for told in ("running", "12/95", "50.00 %", "6 h 55 min"):
        assert told in running, f"{told} is not in {running!r}"
    assert ("0" * 16 in running) == (width >= 80)
    label = running.lstrip("0…").split("running")[0].split()
    assert re.fullmatch("s[hot]*=1", label[0]), "the first word of the label"
    assert (LABELS[0] in running and "ValueError: a reason" in printed.getvalue()) == (width == 200)


def test_labels_are_shortened_word_by_word() -> None:
    label = "shot=1 last_pooling=False groups=64 alignment=ode seed=0"
    assert shortened(label, 56) == label
    assert shortened(label, 50) == "shot=1 last_pooli=False group=64 align=ode seed=0"
    assert shortened(label, 36) == "sh=1 la_po=False gr=64 al=ode se=0"
    assert shortened(label, 12) == "s=1 l_p=Fal…"
    assert shortened("pre-training seed=0", 12) == "pre-trainin…"
    assert shortened("raw_pixels", 3) == "ra…"


def test_an_accuracy_is_told_with_its_epoch_and_in_the_end_it_is_the_selected_one() -> None:
    output = StringIO()
    progress = Progress("one", Console(file=output, width=200))
    progress.planned("a", "row a", 7)
    progress.started("a")
    progress.rows["a"].told = -1e9
    progress.epoch("a", epoch(5, 1.0))
    shown = [str(next(iter(column.cells))) for column in progress.table().columns]
    assert shown[3:5] == ["5/7", "50.00 %"]
    progress.rows["a"].told = -1e9
    progress.epoch("a", epoch(6, 1.0).replace(validation_accuracy=None))
    shown = [str(next(iter(column.cells))) for column in progress.table().columns]
    assert shown[3:5] == ["6/7", "50.00 % (epoch 5)"]
    progress.ended("a", "done", "test 5-way 1-shot 61.00 %", selected=0.75)
    assert output.getvalue().splitlines()[1:] == [
        "[0/1] a row a: epoch 5/7, validation accuracy 50.00 %, about 2 s left",
        "[0/1] a row a: epoch 6/7, validation accuracy 50.00 % (epoch 5), about 1 s left",
        "[1/1] a row a: done, validation accuracy 75.00 % at its best epoch: test 5-way 1-shot 61.00 %",
    ]
    assert str(next(iter(progress.table().columns[4].cells))) == "75.00 %"


def test_what_is_only_tested_says_so_and_has_no_epochs_left() -> None:
    output = StringIO()
    progress = Progress("one", Console(file=output, width=200))
    progress.planned("a", "row a", 7, trained=True)
    progress.started("a")
    assert progress.epochs_left == 0 and output.getvalue() == "[0/1] a row a: is tested\n"
