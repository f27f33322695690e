"""SIGINT, SIGTERM and SIGHUP as one exception, raised where the driver can take it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Turns signals into `Interrupted`: at once, or, while Tune's loop runs, between two of its steps."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.arrived: int | None = None
        self.deferred = False
        self.listened: list[signal.Signals] = []

    def _handle(self, number: int, frame: object) -> None:
        again = self.arrived is not None
        self.arrived = number
        if again or not self.deferred:
            raise Interrupted(number)

    def check(self) -> None:
        """Raise what has arrived."""
        if self.arrived is not None:
            raise Interrupted(self.arrived)

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
