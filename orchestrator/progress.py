"""How far a sweep is: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dmf.records import Epoch

SECONDS_BETWEEN_LINES = 30
"""Of one trial, when stdout is no terminal."""
Stage = Literal["waiting", "running", "done", "diverged", "failed", "stopped"]
ORDER = ("running", "waiting", "failed", "diverged", "stopped", "done")
"""What a small terminal shows first."""


@dataclass
class Row:
    """One trial, as far as it is known."""

    label: str
    epochs: int
    stage: Stage = "waiting"
    epoch: int = 0
    validation_accuracy: float | None = None
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    """Of every epoch seen."""
    told: float = 0.0

    @property
    def left(self) -> int:
        """Epochs still to do."""
        return self.epochs - self.epoch if self.stage in ("waiting", "running") else 0


class Progress:
    """Told what happens to trials, by key; shows it. A context manager."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(soft_wrap=True)
        self.rows: dict[str, Row] = {}
        self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2, transient=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def planned(self, key: str, label: str, epochs: int) -> None:
        """A trial that will run."""
        self.rows[key] = Row(label, epochs)

    def started(self, key: str) -> None:
        """A trial that runs from now on, or again."""
        row = self.rows[key]
        row.stage = "running"
        self._line(key, "starts" if not row.epoch else f"goes on after epoch {row.epoch}")

    def epoch(self, key: str, epoch: Epoch) -> None:
        """An epoch that has ended."""
        row = self.rows[key]
        row.epoch = epoch.epoch
        row.seconds.append(epoch.seconds)
        if epoch.validation_accuracy is not None:
            row.validation_accuracy = epoch.validation_accuracy
        if time.monotonic() - row.told > SECONDS_BETWEEN_LINES:
            row.told = time.monotonic()
            self._line(key, f"epoch {row.epoch}/{row.epochs}{_validation(row)}, {self.time_left()}")

    def ended(self, key: str, stage: Stage, note: str = "") -> None:
        """A trial that has ended."""
        row = self.rows[key]
        row.stage, row.note = stage, note
        self._line(key, stage + _validation(row) + (f": {note}" if note else ""))

    def note(self, key: str, text: str) -> None:
        """Something to be known about a trial."""
        self.rows[key].note = text
        self._line(key, text)

    def _line(self, key: str, text: str) -> None:
        if not self.console.is_terminal:
            ended = sum(row.stage not in ("waiting", "running") for row in self.rows.values())
            self.console.print(
                f"[{ended}/{len(self.rows)}] {key} {self.rows[key].label}: {text}", markup=False, highlight=False
            )

    def time_left(self) -> str:
        """How long the sweep may still take: epochs left times their mean time, shared by the trials that run."""
        rows = self.rows.values()
        seconds = [value for row in rows for value in row.seconds]
        if not seconds:
            return "time left unknown"
        running = max(1, sum(row.stage == "running" for row in rows))
        return f"about {duration(sum(row.left for row in rows) * sum(seconds) / len(seconds) / running)} left"

    def table(self) -> Table:
        """The live table: one row per trial, as many as the terminal has room for."""
        stages = [row.stage for row in self.rows.values()]
        counts = ", ".join(f"{stages.count(stage)} {stage}" for stage in ORDER if stage in stages)
        table = Table(title=f"{self.title}: {counts}; {self.time_left()}", title_justify="left", expand=False)
        for name in ("training", "what differs", "state", "epoch", "validation", "left", "note"):
            table.add_column(name, no_wrap=name != "note")
        room = max(3, self.console.height - 6)
        shown = sorted(self.rows.items(), key=lambda item: ORDER.index(item[1].stage))[:room]
        for key, row in shown:
            mean = sum(row.seconds) / len(row.seconds) if row.seconds else None
            table.add_row(
                key,
                Text(row.label),
                row.stage,
                f"{row.epoch}/{row.epochs}",
                "" if row.validation_accuracy is None else f"{100 * row.validation_accuracy:.2f} %",
                duration(row.left * mean) if mean and row.stage == "running" else "",
                Text(row.note),  # an error may have brackets, which are markup in a plain string
            )
        if len(self.rows) > len(shown):
            table.caption = f"and {len(self.rows) - len(shown)} more"
        return table


def _validation(row: Row) -> str:
    return "" if row.validation_accuracy is None else f", validation accuracy {100 * row.validation_accuracy:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes, hours, days = round(seconds / 60), seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{int(days)} d {round(hours) - 24 * int(days)} h"
