"""Says in a sentence what is wrong with a file: the file, the setting that leads there, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping

from dmf.machine.paths import default_cache_dir

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EREMOTEIO,
    errno.ENODEV,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EUCLEAN,
    errno.ENXIO,
}
"""Errors of a disk that fails, or of a network file system while its server is away."""
REMEDIES = {
    errno.EROFS: "its disk is read-only: make it writable",
    errno.ENOLCK: "its file system has no locks: mount it with locks (NFS without nolock, Lustre with flock)",
    errno.ENOSYS: "its file system cannot do this: use one that has locks and renames",
    errno.EOPNOTSUPP: "its file system cannot do this: use one that has locks and renames",
    errno.EMFILE: "this process has too many files open: raise the limit (ulimit -n 65536)",
    errno.ENFILE: "this machine has too many files open: close some programs",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOTDIR: "a file is where a folder should be: move it away",
    errno.EEXIST: "a file is where a folder should be: move it away",
    errno.EISDIR: "a folder is where a file should be: move it away",
    errno.ENOENT: "it, or its folder, is gone: put it back",
    errno.ELOOP: "its links lead in a circle: mend them",
    errno.ENOMEM: "this machine has no memory left: close some programs",
}
NO_TEMPORARY_FOLDER = "No usable temporary directory"
"""How Python's error begins if no temporary file can be written; it has the number of a file that is missing."""
SOCKET_PATH = "AF_UNIX"
"""In errors about the path of a socket that is too long; they have no number."""


Places = Mapping[str, str | os.PathLike[str]]


def sentence(error: Exception, places: Places, again: str = "") -> str:
    """What is wrong and what to do; `again`, how to continue, only where that helps, by itself or after the remedy.

    Args:
        error: one of the operating system. The text of another one is a sentence already.
        places: setting -> its file or folder, such as "--store" -> "runs". The error's file is told with the setting of
            the innermost place that holds it. Those of TMPDIR and DMF_CACHE are known.
    """
    if not isinstance(error, OSError):
        return str(error)
    told = " ".join(str(error).split())
    if SOCKET_PATH in told:
        return f"{told}: the path of a socket is too long; set TMPDIR to a short path, such as /tmp"
    if NO_TEMPORARY_FOLDER in told:
        return f"{told}: make room in one of them, or set TMPDIR to a folder that can be written to"
    if error.errno is None or error.errno in PASSING:
        return _and(told if error.errno is None else _named(error, _setting(error, places)), again)
    setting = _setting(error, places)
    named = _named(error, setting)
    another = f", or give another {setting}" if setting else ""
    if error.errno in NO_ROOM:
        return _and(f"{named}; make room on its disk{another}", f"then {again}" if again else "")
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{named}; let this user (number {os.geteuid()}) read and write it{another}"
    if error.errno in REMEDIES:
        return f"{named}; {REMEDIES[error.errno]}{another}"
    return _and(named, again)


def _and(told: str, again: str) -> str:
    return f"{told}; {again}" if again else told


def _named(error: OSError, setting: str) -> str:
    if not isinstance(error.filename, str | bytes):  # none, or the number of an open file
        return str(error.strerror)
    behind = f" (in {setting})" if setting else ""
    return f"{os.fsdecode(error.filename)}: {error.strerror}{behind}"


def _setting(error: OSError, places: Places) -> str:
    """The setting behind an error's file; empty if none is."""
    if not isinstance(error.filename, str | bytes):
        return ""
    file = _whole(error.filename)
    known: dict[str, str | os.PathLike[str]] = {"TMPDIR": os.environ.get("TMPDIR") or "/tmp"}
    with contextlib.suppress(ValueError):  # there is no home
        known["DMF_CACHE"] = default_cache_dir()
    known |= places
    holding = {name: _whole(place) for name, place in known.items()}
    holding = {name: place for name, place in holding.items() if os.path.commonpath([file, place]) == place}
    return max(holding, key=lambda name: len(holding[name]), default="")


def _whole(path: str | bytes | os.PathLike[str]) -> str:
    return os.path.realpath(os.fsdecode(path))
