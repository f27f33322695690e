"""Shows a sweep's progress: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dmf.records.records import Epoch
from orchestrator.text import duration, plain

SECONDS_BETWEEN_LINES = 30
"""For one trial, if stdout is not a terminal."""
Stage = Literal["waiting", "running", "done", "diverged", "failed", "stopped"]
ORDER: tuple[Stage, ...] = ("running", "waiting", "failed", "diverged", "stopped", "done")
"""The order of rows; a small terminal shows only the first ones."""


COLUMNS = ("training", "what differs", "state", "epoch", "validation", "left", "note")
GAP = 2
"""Blanks between columns."""
SHRINKING = {"note": 0, "what differs": 12, "training": 6}
"""Columns that give way on a narrow terminal, in this order, and the characters that they keep."""
LONGEST_PART = 7
"""Letters to which the words of a name are cut first."""


@dataclass
class Row:
    """One trial's progress."""

    label: str
    epochs: int
    stage: Stage = "waiting"
    epoch: int = 0
    validation_accuracy: float | None = None
    """The last one; once the trial has ended, that of the epoch whose weights are kept."""
    validated: int = 0
    """The epoch of `validation_accuracy`, while the trial runs."""
    note: str = ""
    seconds: float = 0.0
    """Total time of the epochs seen."""
    seen: int = 0
    told: float = 0.0

    @property
    def left(self) -> int:
        """Epochs still to do."""
        return self.epochs - self.epoch if self.stage in ("waiting", "running") else 0


class Progress:
    """Shows what happens to trials, which it is told by key. A context manager."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(soft_wrap=True)
        self.rows: dict[str, Row] = {}
        # Running sums over the rows, so that the cost of an event does not grow with the number of trials.
        self.stages: Counter[Stage] = Counter()
        self.epochs_left = self.epochs_seen = 0
        self.seconds = 0.0
        self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2, transient=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def planned(self, key: str, label: str, epochs: int, trained: bool = False) -> None:
        """Add a trial that will run; one that is `trained` is only tested."""
        with self._counted(Row(label, epochs, epoch=epochs if trained else 0)) as row:
            self.rows[key] = row

    @contextlib.contextmanager
    def _counted(self, row: Row, known: bool = False) -> Iterator[Row]:
        """Update the sums around a change of a row, which they contain already if it is `known`."""
        if known:
            self.stages[row.stage] -= 1
            self.epochs_left -= row.left
        yield row
        self.stages[row.stage] += 1
        self.epochs_left += row.left

    def started(self, key: str) -> None:
        """Note that a trial has started, or restarted."""
        with self._counted(self.rows[key], known=True) as row:
            row.stage = "running"
        at = "is tested" if row.epoch == row.epochs else f"continues after epoch {row.epoch}"
        self._line(key, at if row.epoch else "starts")

    def epoch(self, key: str, epoch: Epoch) -> None:
        """Note that an epoch has ended."""
        with self._counted(self.rows[key], known=True) as row:
            row.epoch = epoch.epoch
        row.seconds, self.seconds = row.seconds + epoch.seconds, self.seconds + epoch.seconds
        row.seen, self.epochs_seen = row.seen + 1, self.epochs_seen + 1
        if epoch.validation_accuracy is not None:
            row.validation_accuracy, row.validated = epoch.validation_accuracy, epoch.epoch
        if time.monotonic() - row.told > SECONDS_BETWEEN_LINES:
            row.told = time.monotonic()
            self._line(key, f"epoch {row.epoch}/{row.epochs}{_validation(row)}, {self.time_left()}")

    def ended(self, key: str, stage: Stage, note: str = "", selected: float | None = None) -> None:
        """Note that a trial has ended; `selected` is the validation accuracy of the epoch whose weights are kept."""
        with self._counted(self.rows[key], known=True) as row:
            row.stage, row.note = stage, note
            row.validation_accuracy, row.validated = selected, row.epoch
        chosen = "" if selected is None else f", validation accuracy {_percent(selected)} at its best epoch"
        self._line(key, stage + chosen + (f": {note}" if note else ""))

    def note(self, key: str, text: str) -> None:
        """Show a note about a trial."""
        self.rows[key].note = text
        self._line(key, text)

    def _line(self, key: str, text: str) -> None:
        if not self.console.is_terminal:
            ended = len(self.rows) - self.stages["waiting"] - self.stages["running"]
            self.console.print(plain(f"[{ended}/{len(self.rows)}] {key} {self.rows[key].label}: {text}"))

    def time_left(self) -> str:
        """The estimated time left: epochs left times their mean time, divided by the number of running trials."""
        if not self.epochs_seen:
            return "time left unknown"
        running = max(1, self.stages["running"])
        return f"about {duration(self.epochs_left * self.seconds / self.epochs_seen / running)} left"

    def table(self) -> Table:
        """The live table: one row per trial, as many as fit on the terminal.

        A narrow terminal takes first from the notes, then from what differs, which is shortened, and last from the key.
        """
        counts = ", ".join(f"{self.stages[stage]} {stage}" for stage in ORDER if self.stages[stage])
        told = plain(f"{self.title}: {counts}; {self.time_left()}")
        table = Table(title=told, title_justify="left", box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        room = max(3, self.console.height - 6)
        shown = heapq.nsmallest(room, self.rows.items(), key=lambda item: ORDER.index(item[1].stage))
        cells = [_cells(key, row) for key, row in shown]
        widths = {name: max(map(len, (name, *(each[name] for each in cells)))) for name in COLUMNS}
        fitting = _fitting(widths, self.console.width)
        for name, width in fitting.items():
            table.add_column(name, no_wrap=True, width=width)
        for each in cells:
            each["what differs"] = shortened(each["what differs"], fitting["what differs"])
            table.add_row(*(plain(each[name]) for name in fitting))
        if len(self.rows) > len(shown):
            table.caption = f"and {len(self.rows) - len(shown)} more"
        return table


def _cells(key: str, row: Row) -> dict[str, str]:
    """A row's text in each of COLUMNS."""
    mean = row.seconds / row.seen if row.seen else None
    left = duration(row.left * mean) if mean and row.stage == "running" else ""
    return dict(
        zip(
            COLUMNS,
            (key, row.label, row.stage, f"{row.epoch}/{row.epochs}", _last_validation(row), left, row.note),
            strict=True,
        )
    )


def _fitting(widths: dict[str, int], room: int) -> dict[str, int]:
    """Widths of columns that are together no wider than `room`, as far as that is possible."""
    over = sum(widths.values()) + GAP * len(widths) - room
    fitting = dict(widths)
    for name, least in SHRINKING.items():
        taken = min(max(0, over), max(0, fitting[name] - least))
        fitting[name] -= taken
        over -= taken
    return {name: width for name, width in fitting.items() if width}


def shortened(label: str, width: int) -> str:
    """A label in at most `width` characters: names cut word by word, `last_pooling=False` to `las_poo=False`."""
    if len(label) <= width:
        return label
    for letters in range(LONGEST_PART, 0, -1):
        parts = [word.partition("=") for word in label.split(" ")]
        cut = " ".join(
            "_".join(part[:letters] for part in name.split("_")) + equals + value if equals else name
            for name, equals, value in parts
        )
        if len(cut) <= width:
            return cut
    return cut[: max(0, width - 1)] + "…"


def _validation(row: Row) -> str:
    return "" if row.validation_accuracy is None else f", validation accuracy {_last_validation(row)}"


def _last_validation(row: Row) -> str:
    """The last validation accuracy, with its epoch if that is not the last one."""
    if row.validation_accuracy is None:
        return ""
    told = _percent(row.validation_accuracy)
    return told if row.validated == row.epoch else f"{told} (epoch {row.validated})"


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"
