"""Ends a sweep early, by a signal or for another reason, with an exception at a point where the driver can stop."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator


class Stopped(BaseException):
    """The sweep ends early; the text says why. Nothing is lost: the next start continues."""


class Interrupted(Stopped):
    """SIGINT, SIGTERM or SIGHUP arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


ONE_EVENT_S = 1.0
"""Signals that arrive within this time are one event: a terminal that is closed sends several, and so do systemd, Slurm
and programs that pass on the Ctrl-C that the terminal has sent to us already."""


class Signals:
    """Raises `Interrupted` for a signal, at once or, if deferred, at the next check.

    A second signal, which is not part of the same event, is raised at once. For another reason to stop it raises
    `Stopped`, at the next check.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.arrived: int | None = None
        self.since = -math.inf
        """When the last event began, by `time.monotonic`."""
        self.reason: str | None = None
        self.deadline = math.inf
        """The sweep stops at this time of `time.monotonic`."""
        self.deferred = False
        self.listened: list[signal.Signals] = []

    def _handle(self, number: int, frame: object) -> None:
        signal.alarm(0)  # Ray's handler, which stands before ours for a moment while Ray starts, sets one that aborts
        again, now = self.arrived is not None, time.monotonic()
        if again and now - self.since < ONE_EVENT_S:
            return
        self.arrived, self.since = number, now
        if again or not self.deferred:
            raise Interrupted(number)

    def stop(self, reason: str) -> None:
        """Make the next `check` end the sweep."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raise `Interrupted` or `Stopped` if there is a reason."""
        if self.arrived is not None:
            raise Interrupted(self.arrived)
        if time.monotonic() > self.deadline:
            self.stop("the time budget is used up")
        if self.reason is not None:
            raise Stopped(self.reason)

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """Inside the block, signals wait for the next check; the block's end is one."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False
        self.check()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals inside the block, except those that are ignored already (nohup)."""
        before = {number: signal.getsignal(number) for number in self.NUMBERS}
        self.listened = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers, again after ray.init, which installs its own."""
        for number in self.listened:
            signal.signal(number, self._handle)
