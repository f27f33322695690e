"""One training in a remote store: brought to this machine, trained here, brought back after every epoch."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from dmf.records import BEST, LAST, RECORD
from orchestrator.remote import EVERYTHING, OWNERS, RemoteStore

log = logging.getLogger("dmf.remote")

ORDER = (BEST, "", LAST, RECORD)
"""In which files go to the store, "" for all others: a checkpoint after the best weights of its history, the record
when all is there that it speaks of."""

PAUSES_S = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Between tries; each of them lasts seconds itself, in which pyarrow tries again."""


class TakenOver(Exception):
    """Another process works on this training."""


class RemoteTraining:
    """A training's folder below `folder`, which is laid out as a store, and the same in `remote`.

    Whoever calls `fetch` last owns the training; an owner of before learns it at its next epoch, and writes nothing
    from there on. Should both write at the same moment, each file there is still whole and one of the two's.
    """

    def __init__(self, remote: RemoteStore, folder: Path, key: str) -> None:
        self.remote, self.folder, self.key = remote, folder, key
        self.under = f"trainings/{key}"
        self.token = secrets.token_hex(8).encode()

    def fetch(self) -> None:
        """Take the training over: the folder has then what the store has, and nothing else of this training."""
        _patiently(self._take_over)

    def epoch(self) -> None:
        """Bring what an epoch has changed. A failure is logged: the next epoch brings it along. Raises TakenOver."""
        try:
            self._bring()
        except OSError as error:
            log.warning("training %s: its last epoch did not reach %s: %s", self.key, self.remote.uri, error)

    def finish(self) -> None:
        """Bring everything, the record last, and drop from the store what is no more here. Raises TakenOver."""
        _patiently(self._bring)

    def _take_over(self) -> None:
        self.remote.write(f"{OWNERS}/{self.key}", self.token)
        self.remote.pull(self.folder, self.under, EVERYTHING)
        for name in self._here() - self.remote.names(self.under).keys():
            (self.folder / name).unlink()

    def _bring(self) -> None:
        if self.remote.read(f"{OWNERS}/{self.key}") != self.token:
            raise TakenOver(f"training {self.key} in {self.remote.uri} was taken over by another process")
        here = self._here()
        self.remote.push(self.folder, sorted(here, key=lambda name: (_rank(name), name)))
        self.remote.delete(self.remote.names(self.under).keys() - here)

    def _here(self) -> set[str]:
        """Names of the training's files on this machine, without locks and what is about to be renamed."""
        paths = (path for path in (self.folder / self.under).rglob("[!.]*") if path.is_file())
        return {path.relative_to(self.folder).as_posix() for path in paths}


def _patiently(action: Callable[[], None]) -> None:
    """Do what may be done twice, again after pauses while the object store does not answer."""
    for pause_s in PAUSES_S:
        try:
            return action()
        except OSError as error:
            log.warning("to be tried again in %g s: %s", pause_s, error)
            time.sleep(pause_s)
    action()


def _rank(name: str) -> int:
    file = name.rpartition("/")[2]
    return ORDER.index(file if file in ORDER else "")
