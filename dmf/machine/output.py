"""Runs a command whose output may go away: a reader that quits, a closed terminal, a full disk, a narrow encoding."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any

from dmf.machine.starting import started

UNREAD = (errno.EPIPE, errno.EIO)
"""Errors of a pipe whose reader has ended, and of a terminal that was closed."""
MARKS = "dmf.marks"
"""The name of the handler for characters that an output cannot encode."""
MARK = "?"
LIKE = {"±": "+-", "\N{MINUS SIGN}": "-", "─": "-", "–": "-", "…": "...", "×": "x", "≥": ">=", "≤": "<="}
"""What stands for some of them; for all others it is `MARK`."""


class _Lasting(io.FileIO):
    """Standard output or error. What it cannot take is dropped, and no write raises an error."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, "w", closefd=False)
        self.what = name
        self.lost: OSError | None = None
        """The first error of a write."""
        self.goes_on = ""
        """Said when something is lost, of a command that then still has something to do."""

    def write(self, data: Any) -> int:
        while True:
            try:
                written = super().write(data)
            except OSError as error:  # a disk may have room again, so the next write is tried as well
                self._lose(error)
                return memoryview(data).nbytes
            if written is not None:
                return written
            select.select([], [self], [])  # another program has made it non-blocking, and it is full

    def _lose(self, error: OSError) -> None:
        first, self.lost = self.lost is None, self.lost or error
        unread = error.errno in UNREAD
        if first and _err and self is not _err and (self.goes_on or not unread):
            said = "is no longer read" if unread else f"cannot be written: {error.strerror}, and what it misses is lost"
            # Not to sys.stderr: rich sends that through standard output while it shows a live table.
            _err.write(f"warning: {self.what} {said}{self.goes_on}\n".encode())


_out: _Lasting | None = None
_err: _Lasting | None = None


def run(main: Callable[[], int]) -> int:
    """Run a command's `main` on outputs that last, and return its exit status, for `sys.exit`.

    Whatever becomes of standard output and error, printing raises no error: what cannot be written is dropped, and what
    cannot be encoded is replaced. The status is 1 instead of 0 if standard output was cut short by anything but its
    reader. Ctrl-C ends the command with 130 and no traceback.
    """
    global _out, _err
    started()
    _open_closed()
    codecs.register_error(MARKS, _marked)
    _out, _err = _Lasting(1, "standard output"), _Lasting(2, "standard error")
    sys.stdout, sys.stderr = _text(_out, sys.stdout), _text(_err, sys.stderr, by_line=True)
    try:
        status = main()
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        status = 130
    finally:
        sys.stdout.flush()
    cut_short = _out.lost is not None and _out.lost.errno not in UNREAD and not _out.goes_on
    return status or int(cut_short)


def go_on(said: str) -> None:
    """From now on the command's work is elsewhere than in its output: a loss is told with `said`, and is no error."""
    if _out is not None:
        _out.goes_on = f"; {said}"


def _open_closed() -> None:
    """Open what of 0, 1 and 2 is closed, so that no other file gets its number, and with it what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _text(raw: _Lasting, former: Any, by_line: bool = False) -> io.TextIOWrapper:
    """A text stream like the `former` one, which is None if it was closed."""
    encoding = getattr(former, "encoding", None) or "utf-8"
    by_line = by_line or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, MARKS, line_buffering=by_line)


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(LIKE.get(c, MARK) for c in error.object[error.start : error.end]), error.end
