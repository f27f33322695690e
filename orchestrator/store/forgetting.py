"""What goes with a sweep, a training, decoded images, or temporary files of processes that have ended."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from dmf.data.kept import KeptImages, kept_images
from dmf.machine.files import TEMPORARY, taken
from dmf.machine.paths import default_cache_dir
from dmf.values import Damaged
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import KEY, Ledger
from orchestrator.store.leftovers import Leftover, drop, folder_of
from orchestrator.store.searches import keys_of

OF_RAY = re.compile(r"session_[0-9_-]+_(\d+)")
"""Matches the folder of a Ray in its temporary folder; the number is its driver's process."""


def of_sweep(ledger: Ledger, name: str) -> tuple[list[Leftover], list[str]]:
    """A sweep's folder and the trainings that only it asks for; and those that stay, since other sweeps do too.

    Raises ValueError if there is no such sweep, or a process works on one of the trainings.
    """
    plans = {other: _plan(ledger, other) for other in {*ledger.sweeps(), name}}
    others = {key for other, plan in plans.items() if other != name for key in keys_of(ledger, plan)}
    own = [key for key in dict.fromkeys(keys_of(ledger, plans[name])) if ledger.sizes(f"trainings/{key}")]
    going = [_in_store(ledger, "the plan and the looks of a sweep", f"sweeps/{name}")]
    return [*going, *(of_training(ledger, key) for key in own if key not in others)], [k for k in own if k in others]


def _plan(ledger: Ledger, name: str) -> SweepPlan:
    try:
        return ledger.plan(name)
    except Damaged as error:
        raise ValueError(f"{error}; until then it is not known which trainings sweep {name} asks for") from None


def of_training(ledger: Ledger, key: str) -> Leftover:
    """A training's records and weights. Raises ValueError if there are none, or a process works on it."""
    if not (KEY.fullmatch(key) and ledger.sizes(f"trainings/{key}")):
        raise ValueError(f"no training {key!r} in {ledger.name}; `python -m orchestrator.status` lists their keys")
    if ledger.running(key):
        raise ValueError(f"a process works on training {key}; wait for it or end it, then start again")
    return _in_store(ledger, "a training, with its records and weights", f"trainings/{key}")


def asking_for(ledger: Ledger, key: str) -> list[str]:
    """The sweeps that ask for a training, and would train it again."""
    return [name for name, plan in ledger.plans().items() if key in keys_of(ledger, plan)]


def _in_store(ledger: Ledger, what: str, folder: str) -> Leftover:
    files = ledger.sizes(folder)
    return Leftover(what, folder, sum(files.values()), partial(drop, ledger, folder, files))


def of_images(names: Sequence[str]) -> list[Leftover]:
    """Decoded images of the data sets `names`, or of all. Raises ValueError for a name without any."""
    cache = default_cache_dir()
    found: list[KeptImages] = []
    for name in names or ("*",):
        these = list(kept_images(cache, name))
        if names and not these:
            there = ", ".join(sorted({each.name for each in kept_images(cache)})) or "none"
            raise ValueError(f"no decoded images of {name!r} in {cache}; there are: {there}")
        found += these
    return [
        Leftover(f"decoded images ({each.form})", str(each.folder), each.bytes, partial(shutil.rmtree, each.folder))
        for each in found
        if not _being_written(each)
    ]


def _being_written(images: KeptImages) -> bool:
    if not images.lock.is_file():
        return False
    with open(images.lock) as lock:
        return not taken(lock)


def of_temporary_files() -> Iterator[Leftover]:
    """Our folders and Ray's in the temporary folder whose process has ended."""
    room = Path(tempfile.gettempdir())
    for path in sorted(room.glob(f"{TEMPORARY}*-*-*")):
        if path.is_dir() and not _lives(path.name.split("-")[2]):
            yield folder_of("a temporary folder of a process that has ended", path)
    for path in sorted(room.glob("ray/session_*")):
        named = OF_RAY.fullmatch(path.name)
        if named and path.is_dir() and not path.is_symlink() and not (_lives(named[1]) or _has_sockets(path)):
            yield folder_of("files of a Ray that has ended", path)


def _has_sockets(session: Path) -> bool:
    """Whether a process listens in a Ray's folder: `ray start`, whose number it has, ends when its Ray has begun."""
    try:
        return f" {session}/" in Path("/proc/net/unix").read_text(errors="replace")
    except OSError:
        return True


def _lives(process: str) -> bool:
    """Whether there is a process of this number; anything that is no number counts as one."""
    if not process.isdigit():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
