"""One training in a remote store: downloaded to this machine, trained here, uploaded after every epoch."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from dmf.records.checkpoints import State, read_state_of
from dmf.records.records import BEST, LAST, RECORD, STACKS, Going, Kept
from orchestrator.store.bucket.mirror import EVERYTHING, GOING, OWNERS, RemoteStore

log = logging.getLogger("dmf.remote")

PAUSES_S = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Pauses between attempts; each attempt itself takes a second or two, during which obstore retries."""


class TakenOver(Exception):
    """Another process has taken over this training."""


class RemoteTraining:
    """A training in `folder`, which has the layout of a store, and its counterpart in `remote`.

    Whoever calls `fetch` last owns the training; a former owner learns this at its next epoch and stops writing. If
    both write at the same moment, each file is still whole and comes from one of them.
    """

    def __init__(self, remote: RemoteStore, folder: Path, key: str) -> None:
        self.remote, self.folder, self.key = remote, folder, key
        self.under = f"trainings/{key}"
        self.owner = f"{OWNERS}/{key}"
        self.token = secrets.token_hex(8).encode()

    def fetch(self) -> None:
        """Take over the training, and make the folder equal to the store's, except for stacks left by a hang here."""
        _patiently(self._take_over)

    def epoch(self) -> None:
        """Upload what an epoch has changed. A failure is logged; the next epoch makes up for it. Raises TakenOver."""
        try:
            self._bring()
        except OSError as error:
            log.warning("training %s: its last epoch did not reach %s: %s", self.key, self.remote.uri, error)

    def finish(self) -> None:
        """Upload everything, the record last; delete from the store what is gone here; release. Raises TakenOver."""
        _patiently(self._bring)
        _patiently(self._let_go)

    def _take_over(self) -> None:
        self.owned = self.remote.write(self.owner, self.token)
        self.remote.pull(self.folder, self.under, EVERYTHING)
        for name in self._here() - self.remote.names(self.under).keys():
            (self.folder / name).unlink()

    def _bring(self) -> None:
        self._check_ours()
        self._tell_how_far()
        here = self._here()
        order = ["", *self._checkpoints(), RECORD]
        self.remote.push(self.folder, sorted(here, key=lambda name: (_rank(name, order), name)))
        self.remote.delete(self.remote.names(self.under).keys() - here)

    def _let_go(self) -> None:
        self.remote.swap(self.owner, b"", self.owned)  # refused if another process has taken over the training

    def _check_ours(self) -> None:
        found = self.remote.find(self.owner)
        if found is None or found.data != self.token:
            raise TakenOver(f"training {self.key} in {self.remote.uri} was taken over by another process")

    def _checkpoints(self) -> tuple[str, str]:
        """The upload order of the checkpoints: a kill in between neither loses weights nor restores old ones.

        Best weights of the checkpoint's own epoch can be made from it, and go after it: on a GPU, an epoch that is
        retrained has other bits. Those of an earlier epoch, which a failed upload left here, go before it.
        """
        going, best = self._state(Going, LAST), self._state(Kept, BEST)
        return (LAST, BEST) if going and best and best.epoch == len(going.history) else (BEST, LAST)

    def _tell_how_far(self) -> None:
        path = self.folder / self.under / GOING
        if going := self._state(Going, LAST):
            going.write(path)
        else:
            path.unlink(missing_ok=True)

    def _state(self, kind: type[State], name: str) -> State | None:
        """The state in a checkpoint; None if it is missing or cannot be read, which the training itself reports."""
        try:
            return read_state_of(kind, self.folder / self.under / name)
        except (FileNotFoundError, ValueError):
            return None

    def _here(self) -> set[str]:
        """Names of the training's files that all machines share: no locks, stacks or temporary files."""
        paths = (path for path in (self.folder / self.under).rglob("[!.]*") if path.is_file() and path.name != STACKS)
        return {path.relative_to(self.folder).as_posix() for path in paths}


def _patiently(action: Callable[[], None]) -> None:
    """Run an action that may be repeated; retry after pauses while the object store does not answer."""
    for pause_s in PAUSES_S:
        try:
            action()
            return
        except OSError as error:
            log.warning("will retry in %g s: %s", pause_s, error)
            time.sleep(pause_s)
    action()


def _rank(name: str, order: list[str]) -> int:
    file = name.rpartition("/")[2]
    return order.index(file if file in order else "")
