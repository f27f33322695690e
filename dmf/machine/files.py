"""Writes files completely or not at all, and locks them."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dmf.machine.watchdog import alive

SECONDS_BETWEEN_TRIES = 0.2
"""Seconds between attempts to take a lock that another process holds."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    The bytes are on disk before the rename, so a killed process or machine leaves either the old file or the new one.
    """
    path = Path(path)
    _make(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        aside.chmod(0o666 & ~_umask())
        os.replace(aside, path)
        _sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """Make a folder and those above it, whose names are then on disk."""
    missing = [folder]
    while not missing[-1].exists():
        missing.append(missing[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing[1:]:
        _sync_folder(made)


def _sync_folder(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@functools.cache
def _umask() -> int:
    """The process's file mode creation mask. It can only be read by setting it, which other threads would notice."""
    try:
        found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return int(found[1], 8) if found else 0o022


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a lock file until the block or the process ends. Raises BlockingIOError if another process has it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def taken(lock: IO[Any]) -> bool:
    """Try to lock an open file. Returns whether that succeeded; if not, another process holds the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(lock: IO[Any]) -> None:
    """Lock an open file as soon as no other process holds the lock. Waiting does not count as a hang."""
    while not taken(lock):
        alive()
        time.sleep(SECONDS_BETWEEN_TRIES)
