"""Formats numbers and messages for people to read. Every command prints through it."""

from __future__ import annotations

import logging
import sys

from rich.text import Text

from dmf.values import printable


def duration(seconds: float) -> str:
    """Seconds in readable units: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes, hours, days = round(seconds / 60), seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{int(days)} d {round(hours) - 24 * int(days)} h"


def say(text: str) -> None:
    """Print lines to standard output, without what a terminal would obey."""
    print(printable(text, lines=True), flush=True)


def complain(text: str) -> None:
    """Print lines to standard error, without what a terminal would obey."""
    print(printable(text, lines=True), file=sys.stderr, flush=True)


def plain(text: str, style: str = "") -> Text:
    """`text` for rich, which takes brackets in strings for markup."""
    return Text(printable(text), style)


class PlainFormatter(logging.Formatter):
    """Formats log messages without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


def log_to_terminal() -> None:
    """Show warnings on standard error. A trial in this process logs more, to its folder."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(PlainFormatter("%(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
