"""Mirrors a store in an object store (`--store s3://bucket/prefix`) in ordinary folders.

Every process works in a folder on its own machine, with the ledger's layout, and files are copied there and back. An
object is written whole or not at all, so a name always has either the former file or the new one. Its SHA-256 is stored
with it and checked when it is read.

Besides the store's files there are `leases/` (the driver) and `owners/` (who works on each training).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dmf.machine.files import replacing
from orchestrator.store.bucket.copies import Copies, Copy
from orchestrator.store.bucket.lease import LEASE_SECONDS, LEASES, Lease, driven, held
from orchestrator.store.bucket.objects import DamagedObject, Objects, Seen, sha256

log = logging.getLogger("dmf.remote")

EVERYTHING = ("",)
"""The suffixes that match all files."""
CHECKPOINT = ".safetensors"
POINTER = f"{CHECKPOINT}.at"
"""The suffix of objects that earlier versions wrote beside a checkpoint."""
OWNERS = "owners"
GOING = "going.json"
"""A training's progress, in a small file beside its checkpoint, which only trials download."""
DOWNLOADS_AT_ONCE = 16


@dataclass(frozen=True)
class RemoteStore(Objects):
    """A store at a URI. File names are paths relative to the store, with "/"."""

    @staticmethod
    def is_remote(store: str) -> bool:
        """Whether `store` is a URI, not a folder."""
        return "://" in store

    def names(self, under: str = "") -> dict[str, Seen]:
        """Every file below a folder, by name. Raises ValueError for a store of an earlier version."""
        there = self.listed(under)
        if former := next((name for name in there if name.endswith(POINTER)), None):
            raise ValueError(
                f"{self.uri} was written by an earlier version, which kept a checkpoint in two objects: {former} names "
                "the other one. Copy each of those to the name without .at and delete both, or use another "
                "--store"
            )
        return {name: seen for name, seen in there.items() if not name.startswith((f"{LEASES}/", f"{OWNERS}/"))}

    def push(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files of `folder` to the store, in this order. If one fails, the store keeps the former file."""
        for name in names:
            data = (folder / name).read_bytes()
            if not name.endswith(CHECKPOINT) or self.checksum(name) != sha256(data):
                self.write(name, data)

    def pull(self, folder: Path, under: str = "", suffixes: tuple[str, ...] = (".json",)) -> int:
        """Copy files that differ from the store's to `folder`; return how many changed here.

        A file that came from the store and has not changed since is deleted here once it is gone there. A file that
        never came from the store stays. Several processes may do this in one folder.
        """
        with Copies.of(folder) as copies:
            # Before the listing: a file that another process writes and copies meanwhile is in neither.
            known = copies.under(f"{under}/" if under else "")
            there = {name: seen for name, seen in self.names(under).items() if name.endswith(suffixes)}
            wanted = [
                name for name, seen in there.items() if known.get(name) != Copy(seen.e_tag, _modified_ns(folder / name))
            ]
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                answers = list(pool.map(lambda name: self._bring(name, folder / name), wanted))
            brought = {name: copy for name, (copy, _) in zip(wanted, answers, strict=True) if copy}
            still = (there.keys() - wanted) | brought.keys()
            gone = {name: copy for name, copy in known.items() if name.endswith(suffixes) and name not in still}
            gone = {name: copy for name, copy in gone.items() if not self.exists(name)}  # it may have come back
            for name, copy in gone.items():
                if copy.modified_ns == _modified_ns(folder / name):
                    (folder / name).unlink(missing_ok=True)
            copies.change(brought, gone)
        return sum(changed for _, changed in answers)

    def _bring(self, name: str, path: Path) -> tuple[Copy | None, bool]:
        """Copy one file here; return its copy (None if there is none), and whether the file changed.

        An object that is damaged is copied as an empty file, which its reader finds damaged too. A file that changes
        here meanwhile, because its process is about to push it, stays as it is.
        """
        before = _modified_ns(path)
        try:
            if (found := self.find(name)) is None:
                return None, False
            data, e_tag = found.data, found.e_tag
        except DamagedObject as error:
            log.warning("%s", error)
            data, e_tag = b"", None
        if _modified_ns(path) != before:
            return None, False
        changed = not path.is_file() or path.read_bytes() != data
        if changed:
            with replacing(path) as aside:
                aside.write_bytes(data)
        return Copy(e_tag, _modified_ns(path)), changed

    def at_work(self) -> set[str]:
        """Keys of trainings that a process works on; none if the store has no driver (by this machine's clock)."""
        return self.owned() if driven(self) else set()

    def owned(self) -> set[str]:
        """Keys of trainings that a process has taken and not released; it may have died since."""
        return {name.partition("/")[2] for name, seen in self.listed(OWNERS).items() if seen.size}

    def free(self, keys: Iterable[str]) -> None:
        """Release these trainings; a process that still works on one finds it taken over and stops writing."""
        for key in keys:
            self.write(f"{OWNERS}/{key}", b"")

    def lease(self, owner: str, seconds: float = LEASE_SECONDS) -> contextlib.AbstractContextManager[Lease]:
        """Be the only driver of this store, as `owner`. Raises BlockingIOError if it has another one."""
        return held(self, owner, seconds)


def _modified_ns(path: Path) -> int:
    """A file's modification time; 0 if there is no file."""
    return path.stat().st_mtime_ns if path.is_file() else 0
