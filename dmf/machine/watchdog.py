"""Ends a process that gives no sign of life, with the stacks of its threads written down.

The timer is faulthandler's: a thread of C that needs no interpreter lock, so that it also ends what hangs in a library.
Training steps, batches of an evaluation and decoded images are signs of life.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

SECONDS_BETWEEN_SIGNS = 1.0
"""More often the timer is not set back."""


@dataclass
class _Timer:
    limit: float
    stacks: TextIO
    last_sign: float

    def set_back(self) -> None:
        self.last_sign = time.monotonic()
        faulthandler.dump_traceback_later(self.limit, exit=True, file=self.stacks)


_timer: _Timer | None = None


@contextlib.contextmanager
def watched(limit: float, stacks: Path) -> Iterator[None]:
    """End this process, exit status 1, when inside `limit` seconds pass without `alive`; its stacks go to `stacks`.

    The file is there, and not empty, only after such an end.
    """
    global _timer
    with open(stacks, "w", encoding="utf-8") as file:
        _timer = _Timer(limit, file, 0.0)
        _timer.set_back()
        try:
            yield
        finally:
            _timer = None
            faulthandler.cancel_dump_traceback_later()
    stacks.unlink(missing_ok=True)


def alive() -> None:
    """A sign of life. Cheap, and without effect where nothing watches."""
    timer = _timer
    if timer is not None and time.monotonic() - timer.last_sign > SECONDS_BETWEEN_SIGNS:
        timer.set_back()
