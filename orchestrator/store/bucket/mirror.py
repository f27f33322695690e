"""A store in an object store (`--store s3://bucket/prefix`), mirrored by ordinary folders.

Every process works in a folder of its own machine, laid out as the ledger says; files are brought there and back. An
object store has no rename, and a write that fails midway may leave a short object behind. Contents of checkpoints
therefore go under a name that nothing had before, and a pointer that is written after them names them:

    <uri>/trainings/<key>/last.safetensors.at                 size, SHA-256, name of the contents
    <uri>/trainings/<key>/last.safetensors.9f86d081884c7d65   the contents

Who follows the pointer gets the former contents or the new ones, whole. All other files are small, are written in one
request and keep their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from dmf.machine.files import replacing
from dmf.values import Value
from orchestrator.store.bucket.objects import Objects, Seen

if TYPE_CHECKING:
    from orchestrator.store.bucket.lease import Lease

EVERYTHING = ("",)
"""Suffixes of all files."""
CHECKPOINT, POINTER = ".safetensors", ".at"
CONTENTS = re.compile(rf"\{CHECKPOINT}\.[0-9a-f]{{16}}$")
LEASES, OWNERS = "leases", "owners"
"""Folders of who is at work; they are not mirrored."""
LEASE_SECONDS = 60.0
"""Without being renewed, until a driver's lease has lapsed."""
GOING = "going.json"
"""How far a training is, beside its checkpoint, which is not brought to those who only ask."""
INDEX = ".remote.json"
DOWNLOADS_AT_ONCE = 16
SECOND_NS = 1_000_000_000


class Pointer(Value):
    """What a checkpoint's name stands for."""

    contents: str
    """Name of the object, in the pointer's folder."""
    size: int
    sha256: str


class Copy(Value):
    """A file as it was brought, and the object that it was brought from."""

    source: Seen | None
    """None: it was about to change, perhaps."""
    modified_ns: int


class Index(Value):
    """What a folder has of a store, by name."""

    copies: dict[str, Copy] = Field(default_factory=dict)


@dataclass(frozen=True)
class RemoteStore(Objects):
    """A store under a URI. Names of files are paths relative to the store, with "/"."""

    @staticmethod
    def is_remote(store: str) -> bool:
        """Whether `store` is no folder."""
        return "://" in store

    def names(self, under: str = "") -> dict[str, Seen]:
        """Every file in a folder and its folders, by name; a checkpoint as its pointer was listed."""
        return {
            name.removesuffix(POINTER): seen
            for name, seen in self.listed(under).items()
            if not CONTENTS.search(name) and not name.startswith((f"{LEASES}/", f"{OWNERS}/"))
        }

    def push(self, folder: Path, names: Sequence[str]) -> None:
        """Bring files of `folder` to the store, in this order. One that can not be brought stays there as it was."""
        for name in names:
            data = (folder / name).read_bytes()
            if name.endswith(CHECKPOINT):
                self._push_checkpoint(name, data)
            else:
                self.write(name, data)

    def _push_checkpoint(self, name: str, data: bytes) -> None:
        former, sha256 = self._pointer(name), hashlib.sha256(data).hexdigest()
        if former and former.sha256 == sha256:
            return
        contents = f"{name}.{secrets.token_hex(8)}"
        self.write(contents, data)
        pointer = Pointer(contents=contents.rpartition("/")[2], size=len(data), sha256=sha256)
        self.write(name + POINTER, pointer.model_dump_json().encode())
        # Nothing goes but what the former pointer named: no pointer loses its contents, whoever else writes here.
        if former:
            self.remove(_beside(name, former.contents))

    def _pointer(self, name: str) -> Pointer | None:
        try:
            return Pointer.model_validate_json(self.read(name + POINTER))
        except FileNotFoundError:
            return None

    def delete(self, names: Iterable[str]) -> None:
        """Remove files from the store; one that is not there needs nothing."""
        for name in names:
            if name.endswith(CHECKPOINT) and (former := self._pointer(name)):
                self.remove(name + POINTER)
                self.remove(_beside(name, former.contents))
            self.remove(name)

    def pull(self, folder: Path, under: str = "", suffixes: tuple[str, ...] = (".json",)) -> int:
        """Bring to `folder` what it does not have as the store has it; how many files that were.

        A file that was brought here, is as it was brought, and is gone from the store, goes here too. What never came
        from the store stays.
        """
        there = {name: seen for name, seen in self.names(under).items() if name.endswith(suffixes)}
        copies = dict(Index.read(folder / INDEX).copies) if (folder / INDEX).is_file() else {}
        # Times of change may be whole seconds: what is replaced within the second of its listing looks the same ever
        # after, so what changed last is not taken as known.
        settled = max((seen.modified_ns for seen in there.values()), default=0) - SECOND_NS
        wanted = [name for name, seen in there.items() if copies.get(name) != _copy(seen, folder / name)]
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            brought = sum(pool.map(lambda name: self._bring(name, folder / name), wanted))
        prefix = f"{under}/" if under else ""
        for name in [name for name in copies if name.startswith(prefix) and name.endswith(suffixes)]:
            if name not in there and copies.pop(name).modified_ns == _modified_ns(folder / name):
                (folder / name).unlink()
        for name in wanted:
            seen = there[name]
            copies[name] = _copy(seen if seen.modified_ns <= settled else None, folder / name)
        Index(copies=copies).write(folder / INDEX)
        return brought

    def _bring(self, name: str, path: Path) -> bool:
        """Bring one file; whether there was another one here, or none."""
        if name.endswith(CHECKPOINT) and (pointer := self._pointer(name)):
            return self._bring_checkpoint(name, pointer, path)
        data = self.read(name)
        if path.is_file() and path.read_bytes() == data:
            return False
        with replacing(path) as aside:
            aside.write_bytes(data)
        return True

    def _bring_checkpoint(self, name: str, pointer: Pointer, path: Path) -> bool:
        if path.is_file() and path.stat().st_size == pointer.size and _sha256(path) == pointer.sha256:
            return False
        contents = _beside(name, pointer.contents)
        try:
            with replacing(path) as aside:
                with open(aside, "wb") as file:
                    file.writelines(self.chunks(contents))
                if _sha256(aside) != pointer.sha256:
                    raise OSError(
                        f"{contents} at {self.uri} has {aside.stat().st_size} bytes and is not the {pointer.size} that "
                        f"were written; delete it and {name}{POINTER} to go without it"
                    )
        except OSError:
            if self._pointer(name) == pointer:
                raise
            return self._bring(name, path)  # it was replaced meanwhile
        return True

    def at_work(self) -> set[str]:
        """Keys of trainings that a process works on, while the store has a driver; by this machine's clock."""
        leases = self.listed(LEASES).values()
        if not any(time.time_ns() - seen.modified_ns <= LEASE_SECONDS * SECOND_NS for seen in leases):
            return set()
        return self.owned()

    def owned(self) -> set[str]:
        """Keys of trainings that a process has taken and not let go of; it may have died since."""
        return {name.partition("/")[2] for name, seen in self.listed(OWNERS).items() if seen.size}

    def free(self, keys: Iterable[str]) -> None:
        """Have nobody own these trainings: who still works on one finds it taken over, and writes nothing more."""
        for key in keys:
            self.write(f"{OWNERS}/{key}", b"")

    def lease(self, owner: str, seconds: float = LEASE_SECONDS) -> contextlib.AbstractContextManager[Lease]:
        """Be the only driver of this store, as `owner`. BlockingIOError when it has another one."""
        from orchestrator.store.bucket.lease import held

        return held(self, owner, seconds)


def _beside(name: str, other: str) -> str:
    return f"{name.rpartition('/')[0]}/{other}"


def _copy(seen: Seen | None, path: Path) -> Copy:
    return Copy(source=seen, modified_ns=_modified_ns(path))


def _modified_ns(path: Path) -> int:
    """A file's time of change; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
