"""What a store holds that no sweep needs any more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dmf.machine.files import taken
from orchestrator.store.ledger import KEY, Ledger

OURS = re.compile(rf"\.?{KEY.pattern}(\..*)?")
"""Matches the names in code/ and work/, which are hashes, also of a copy that was not finished."""


@dataclass(frozen=True)
class Leftover:
    """A folder or file that can go."""

    what: str
    name: str
    """Its path, or its name in an object store."""
    bytes: int
    remove: Callable[[], None]


def leftovers(ledger: Ledger) -> list[Leftover]:
    """Everything that can go. Call it while driving the store, so that no process works there."""
    return [*_superseded(ledger), *_code(ledger.store), *_killed(ledger.store)]


def _superseded(ledger: Ledger) -> Iterator[Leftover]:
    """Trainings that were retrained, in the store itself."""
    files: dict[str, dict[str, int]] = {}
    for name, count in ledger.sizes("superseded").items():
        files.setdefault("/".join(name.split("/")[:2]), {})[name] = count
    for folder, names in sorted(files.items()):
        yield Leftover(
            "a training that was retrained", folder, sum(names.values()), partial(drop, ledger, folder, names)
        )


def drop(ledger: Ledger, folder: str, names: Iterable[str]) -> None:
    """Delete a folder of a store with its files `names`, wherever the store is."""
    ledger.drop(names)
    shutil.rmtree(ledger.store / folder, ignore_errors=True)  # with an object store, there may be no copy here


def _code(store: Path) -> Iterator[Leftover]:
    copies = [path for path in store.glob("code/*") if path.is_dir() and OURS.fullmatch(path.name)]
    newest = max(copies, key=lambda path: path.stat().st_mtime_ns, default=None)
    for path in sorted(copies):
        if path != newest:
            yield folder_of("a copy of the code of an earlier sweep", path)


def _killed(store: Path) -> Iterator[Leftover]:
    for path in sorted(store.glob("work/*")):
        if OURS.fullmatch(path.name) and not _in_use(path / "driver.lock"):
            yield folder_of("the work folder of a killed process", path)
    for path in sorted([*store.glob("trainings/*/.*.*.*"), *store.glob("trainings/*/evaluations/.*")]):
        if not _in_use(store / "trainings" / path.relative_to(store).parts[1] / ".lock"):
            yield Leftover("a file of a killed process", str(path), path.stat().st_size, path.unlink)


def _in_use(lock: Path) -> bool:
    if not lock.is_file():
        return False
    with open(lock) as file:
        return not taken(file)


def folder_of(what: str, path: Path) -> Leftover:
    """A folder on this machine."""
    count = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Leftover(what, str(path), count, partial(shutil.rmtree, path))
