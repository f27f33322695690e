"""Ends, from the driver, trials whose process shows no sign of life.

The watchdog in a worker (`dmf.machine.watchdog`) ends a process that hangs, and leaves its stacks. It cannot end one
that is frozen itself: stopped by a signal, suspended with its machine, or waiting for a file system that does not
answer. So a worker passes its signs of life on to Ray's key-value store, where the driver looks.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

log = logging.getLogger("dmf.watch")

SPACE = b"dmf-alive"
LONGEST_GRACE_S = 30.0
"""How much longer than the worker's watchdog the driver waits, at most."""
LOOKS = 10
"""Looks within a timeout."""
LONGEST_PAUSE_S = 30.0
"""The longest time between two looks."""


def _place(store: str, key: str) -> bytes:
    return f"{store} {key}".encode()


def sign(store: str, key: str) -> None:
    """Give a sign of life about a training, from its worker."""
    try:
        _internal_kv_put(_place(store, key), str(time.time_ns()).encode(), overwrite=True, namespace=SPACE)
    except Exception as error:  # Ray is away, and the driver will notice by itself
        log.warning("a sign of life did not reach Ray: %s", error)


@dataclass
class _Mark:
    trial: Any
    """Tune's trial."""
    place: bytes
    sign: bytes | None
    since: float
    """When it was first seen, by `time.monotonic`."""


class Silence:
    """The signs of life of the trials that run."""

    def __init__(self, store: str, timeout_s: float) -> None:
        self.store = store
        self.limit_s = timeout_s + min(timeout_s, LONGEST_GRACE_S)
        self.pause_s = min(timeout_s / LOOKS, LONGEST_PAUSE_S)
        self.looked = time.monotonic()
        self.marks: dict[str, _Mark] = {}
        """By training key."""
        self.ended_here: set[str] = set()
        """Keys of trainings whose process was ended from here."""

    def started(self, key: str, trial: Any) -> None:
        """Note that a trial has started, perhaps again."""
        place = _place(self.store, key)
        self.marks[key] = _Mark(trial, place, _internal_kv_get(place, namespace=SPACE), time.monotonic())
        self.ended_here.discard(key)

    def ended(self, key: str) -> None:
        """Note that a trial has ended."""
        if mark := self.marks.pop(key, None):
            _internal_kv_del(mark.place, namespace=SPACE)

    def check(self) -> None:
        """Look at intervals, and end the processes of trials that were silent for too long."""
        now = time.monotonic()
        away = now - self.looked - self.pause_s
        if away < 0:
            return
        self.looked = now
        for key, mark in self.marks.items():
            mark.since += away  # this process looked elsewhere, or was stopped, and its trials may have waited for it
            sign = _internal_kv_get(mark.place, namespace=SPACE)
            if sign != mark.sign:
                mark.sign, mark.since = sign, now
            elif now - mark.since > self.limit_s and (actor := mark.trial.temporary_state.ray_actor):
                log.warning("training %s showed no sign of life for %.0f s; its process is ended", key, self.limit_s)
                self.ended_here.add(key)
                mark.since = now
                ray.kill(actor)
