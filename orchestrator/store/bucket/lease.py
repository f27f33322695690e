"""One driver per remote store, without locks, which object stores do not have.

A driver writes an object of its own, `leases/<id>`, and then lists all. It has the store when it sees no other; when it
sees one it takes its own back. Of two that write at the same time the one that lists last sees both, so never do both
have the store: perhaps neither, and they try again after pauses of different lengths. While it has the store, a thread
rewrites the object three times in `seconds`. One that was not rewritten for `seconds` has lapsed and counts no more.

Guaranteed, where a list shows every write that ended before it (S3, GCS): no two drivers hold a store at the same
moment, unless one of them was stopped (SIGSTOP, a suspended machine) or could not reach the store for longer than
`seconds`. Such a one learns it from `check` before it does anything more: by its own stopwatch, whose zero lies before
the rewrite reached the store, or because it finds the lease of a later holder. Ages are differences between times that
the object store gave, its own fresh object being "now"; no clock of ours is compared with another.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Iterator

from dmf.values import Value
from orchestrator.store.bucket.mirror import LEASES, RemoteStore

log = logging.getLogger("dmf.lease")

CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""One that goes on while the machine is suspended, where there is one."""
TRIES = 8
"""To get the store among others that begin at the same time."""


class Claim(Value):
    """What a lease's object says."""

    owner: str
    since_ns: int | None
    """When its holder got the store, by the object store's clock; None: it is about to."""


class LeaseLost(OSError):
    """Another driver may have the store."""


class Lease:
    """The claim of one driver."""

    def __init__(self, remote: RemoteStore, owner: str, seconds: float) -> None:
        self.remote, self.owner, self.seconds = remote, owner, seconds
        self.name = f"{LEASES}/{secrets.token_hex(8)}"
        self.since_ns: int | None = None
        self.renewed = time.clock_gettime(CLOCK)
        self.taken_by: str | None = None

    def acquire(self) -> None:
        """Have the store from now on. BlockingIOError when another driver has it."""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(random.uniform(0.1, 1.0) * attempt)
            self.renewed = time.clock_gettime(CLOCK)
            now, others = self._claims()
            if not others:
                self.since_ns = now
                self.renew()
                self._clear_lapsed()
                return
            self.release()
            holders = [claim.owner for claim in others if claim.since_ns is not None]
            if holders:
                break
        raise BlockingIOError(
            f"{self.remote.uri} is in use by {(holders or [others[0].owner])[0]} (one that was killed lets go after "
            f"{self.seconds:g} s); wait for it with --wait or take another --store"
        )

    def renew(self) -> None:
        """Rewrite the claim, and look whether it still holds."""
        self.check()
        started = time.clock_gettime(CLOCK)
        _, others = self._claims()
        later = [claim for claim in others if (claim.since_ns or 0) > (self.since_ns or 0)]
        if later:
            self.taken_by = later[0].owner
            self.release()
            self.check()
        self.renewed = started

    def check(self) -> None:
        """Raise LeaseLost unless nobody else can have the store."""
        if self.taken_by:
            raise LeaseLost(f"{self.remote.uri} was taken over by {self.taken_by} while this driver was stopped")
        if self.since_ns and time.clock_gettime(CLOCK) - self.renewed > self.seconds:
            raise LeaseLost(f"{self.remote.uri} was not reached for {self.seconds:g} s, another driver may have it")

    def release(self) -> None:
        """Take the claim back."""
        self.remote.remove(self.name)

    def _claims(self) -> tuple[int, list[Claim]]:
        """Write the claim -> the object store's time now, and the claims of others that have not lapsed."""
        self.remote.write(self.name, Claim(owner=self.owner, since_ns=self.since_ns).model_dump_json().encode())
        there = self.remote.listed(LEASES)
        now = there.pop(self.name).modified_ns
        claims = []
        for name, seen in there.items():
            if now - seen.modified_ns <= self.seconds * 1e9:
                with contextlib.suppress(FileNotFoundError):  # taken back since it was listed
                    claims.append(Claim.model_validate_json(self.remote.read(name)))
        return now, claims

    def _clear_lapsed(self) -> None:
        there = self.remote.listed(LEASES)
        now = there[self.name].modified_ns
        for name, seen in there.items():
            if now - seen.modified_ns > self.seconds * 1e9:
                self.remote.remove(name)


@contextlib.contextmanager
def held(remote: RemoteStore, owner: str, seconds: float) -> Iterator[Lease]:
    """Have a store to oneself; call the lease's `check` before what only its holder may do."""
    lease, stop = Lease(remote, owner, seconds), threading.Event()

    def keep() -> None:
        while not stop.wait(seconds / 3):
            try:
                lease.renew()
            except LeaseLost:
                return  # `check` says so from now on
            except OSError as error:
                log.warning("the lease of %s could not be renewed, to be tried again: %s", remote.uri, error)

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    try:
        lease.acquire()
        thread.start()
        yield lease
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        try:
            lease.release()
        except OSError as error:
            log.warning("the lease of %s could not be taken back, it lapses by itself: %s", remote.uri, error)
