"""Writes files completely or not at all, and locks them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dmf.machine.paths import expanded
from dmf.machine.watchdog import alive

SECONDS_BETWEEN_TRIES = 0.2
"""Seconds between attempts to take a lock that another process holds."""
LONGEST_WAIT_S = 1800.0
"""How long a lock file may stay as it is while another process holds it."""


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
        with naming(path):
            yield aside
            with open(aside, "rb") as written:
                os.fsync(written.fileno())
        aside.chmod(0o666 & ~_umask())
        os.replace(aside, path)
        _sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give errors of the operating system inside the block, about writing or locking `path`, its name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


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


TEMPORARY = "dmf-"
"""How the names of temporary folders begin; what it holds and its process follow."""


def temporary_folder(what: str) -> tempfile.TemporaryDirectory[str]:
    """A folder in TMPDIR that goes with its context, named by what it holds and this process."""
    return tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{what}-{os.getpid()}-")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sha256_of(path: str, setting: str) -> str:
    """The SHA-256 of a file, read once as long as it does not change. `~` is the user's folder.

    Raises ValueError, naming the `setting` that names it, if there is no such file or it cannot be read.
    """
    file = Path(expanded(path, setting))
    try:
        seen = file.stat()
        if not file.is_file():
            raise ValueError(f"{setting}={path!r} is not a file; name the file itself")
        return _sha256(file, seen.st_mtime_ns, seen.st_size)
    except OSError as error:
        raise ValueError(f"{setting}={path!r} cannot be read: {error.strerror or error}") from error


@functools.cache
def _sha256(file: Path, modified_ns: int, size: int) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a lock file until the block or the process ends. Raises BlockingIOError if another process has it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        with naming(path):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sign(lock)
        yield


def taken(lock: IO[Any]) -> bool:
    """Try to lock an open file. Returns whether that succeeded; if not, another process holds the lock."""
    try:
        with naming(lock.name):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(lock: IO[Any], limit_s: float = LONGEST_WAIT_S) -> None:
    """Lock an open file as soon as no other process holds the lock. Waiting does not count as a hang.

    Raises TimeoutError, which names the holder if the file does, once the file has not changed for `limit_s`: a process
    that is frozen keeps its locks. One that works for longer touches its lock file meanwhile.
    """
    changed, since = os.fstat(lock.fileno()).st_mtime_ns, time.monotonic()
    while not taken(lock):
        alive()
        now = os.fstat(lock.fileno()).st_mtime_ns
        if now != changed:
            changed, since = now, time.monotonic()
        elif time.monotonic() - since > limit_s:
            holder = Path(lock.name).read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"{holder} has held {lock.name} for {limit_s:.0f} s without a sign of life; end it, then start again",
            )
        time.sleep(min(SECONDS_BETWEEN_TRIES, limit_s))


def this_process() -> str:
    """This process, for the lock files that it holds."""
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def sign(lock: IO[str]) -> None:
    """Write this process into a lock file that it holds, which is opened for appending."""
    lock.seek(0)
    lock.truncate()
    lock.write(this_process())
    lock.flush()
