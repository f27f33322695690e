"""Ends a process that shows no sign of life, after writing down the stack traces of its threads.

It uses faulthandler's timer, a C thread that needs no interpreter lock, so it also ends a process that hangs in a
library. Signs of life are training steps, batches of an evaluation and decoded images.
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
"""Smallest interval between resets of the timer, in seconds."""


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
    """End this process with exit status 1 if the block goes `limit` seconds without a call to `alive`.

    Stack traces go to the file `stacks`, which exists and has content only after such an end.
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
    """Give a sign of life. This is cheap, and has no effect outside `watched`."""
    timer = _timer
    if timer is not None and time.monotonic() - timer.last_sign > SECONDS_BETWEEN_SIGNS:
        timer.set_back()
