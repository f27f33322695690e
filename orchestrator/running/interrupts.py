"""The early end of a sweep, by a signal or for another reason, as an exception raised where the driver can take it."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator


class Stopped(BaseException):
    """The sweep ends before all is done; its text says why. Nothing is lost: started again, it goes on."""


class Interrupted(Stopped):
    """SIGINT, SIGTERM or SIGHUP arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Raises signals as `Interrupted`, at once or, where they are deferred, at the next check; and reasons to stop as
    `Stopped`, at the next check."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.arrived: int | None = None
        self.reason: str | None = None
        self.deadline = math.inf
        """Of `time.monotonic`: from then on there is a reason to stop."""
        self.deferred = False
        self.listened: list[signal.Signals] = []

    def _handle(self, number: int, frame: object) -> None:
        again = self.arrived is not None
        self.arrived = number
        if again or not self.deferred:
            raise Interrupted(number)

    def stop(self, reason: str) -> None:
        """Have the next `check` end the sweep."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raise what has arrived."""
        if self.arrived is not None:
            raise Interrupted(self.arrived)
        if time.monotonic() > self.deadline:
            self.stop("the budget of time is used up")
        if self.reason is not None:
            raise Stopped(self.reason)

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """Inside, signals wait for the next check; the end is one."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False
        self.check()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals inside; those that the caller was told to ignore (nohup) stay ignored."""
        before = {number: signal.getsignal(number) for number in self.NUMBERS}
        self.listened = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals (back): ray.init installs handlers of its own."""
        for number in self.listened:
            signal.signal(number, self._handle)
