"""Ends a process that shows no sign of life, after writing down the stack traces of its threads.

It uses faulthandler's timer, a C thread that needs no interpreter lock, so it also ends a process that hangs in a
library. Signs of life are training steps, batches of an evaluation and decoded images. A process that is frozen itself
needs somebody else to notice, whom the signs are passed on to.
"""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

SECONDS_BETWEEN_SIGNS = 1.0
"""Smallest interval between resets of the timer, in seconds."""
SIGNS_TOLD = 8
"""Signs that are passed on within a limit, at most."""


@dataclass
class _Timer:
    limit: float
    stacks: TextIO
    told: Callable[[], None]
    last_sign: float = 0.0
    last_told: float = 0.0

    def set_back(self) -> None:
        self.last_sign = time.monotonic()
        if self.last_sign - self.last_told > self.limit / SIGNS_TOLD:
            self.last_told = self.last_sign
            self.told()
        faulthandler.dump_traceback_later(self.limit, exit=True, file=self.stacks)


_timer: _Timer | None = None


@contextlib.contextmanager
def watched(limit: float, stacks: Path, told: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End this process with exit status 1 if the block goes `limit` seconds without a call to `alive`.

    Stack traces go to the file `stacks`, which exists and has content only after such an end. Signs of life are passed
    on by calling `told`, a few times within `limit`.
    """
    global _timer
    with open(stacks, "w", encoding="utf-8") as file:
        _timer = _Timer(limit, file, told)
        _timer.set_back()
        try:
            yield
        finally:
            _timer = None
            faulthandler.cancel_dump_traceback_later()
    stacks.unlink(missing_ok=True)


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Do not count the time inside the block, in which this process waits for the one that watches over it."""
    timer = _timer
    faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        if timer is not None and timer is _timer:
            timer.set_back()


def alive() -> None:
    """Give a sign of life. This is cheap, and has no effect outside `watched`."""
    timer = _timer
    if timer is not None and time.monotonic() - timer.last_sign > SECONDS_BETWEEN_SIGNS:
        timer.set_back()
