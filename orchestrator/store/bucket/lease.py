"""Allows one driver per object store, by a lease in one object that is kept by conditional writes.

The object `leases/driver` names its holder; if it is empty, the lease is free. A driver takes it by a write that
succeeds only if the object is still as the driver has just read it, so only one of several that start together gets it.
While the driver has the store, a thread rewrites the object three times in `seconds`, each time only if nobody else has
written it. A lease that was not rewritten for `seconds` has lapsed, and another driver may take it.

If writes are conditional (S3, Google Cloud Storage), no two drivers hold a store at the same moment, unless one of them
was stopped (SIGSTOP, a suspended machine) or could not reach the store for longer than `seconds`. That driver learns it
from `check` before it does anything more: by its own stopwatch, which started before the rewrite reached the store, or
because its rewrite is refused. Ages are differences between times given by the object store, where "now" is the time of
a write just made; our clocks are never compared with others.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator

from dmf.values import Value
from orchestrator.store.bucket.objects import Found, Objects

log = logging.getLogger("dmf.lease")

LEASES = "leases"
"""The folder of these objects."""
DRIVER, NOW = f"{LEASES}/driver", f"{LEASES}/now"
LEASE_SECONDS = 60.0
"""A lease lapses if it is not renewed for this long."""
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that keeps running while the machine is suspended, if there is one."""
TICK_S = 1.0
"""Object stores give times in whole seconds."""


class Claim(Value):
    """The content of the object."""

    owner: str
    token: str
    """Identifies one lease."""
    nonce: str
    """Makes every write different, so that none succeeds over one that it has not seen."""


class LeaseLost(OSError):
    """Another driver may have taken the store."""


class Lease:
    """The claim of one driver, which calls itself `owner`."""

    def __init__(self, objects: Objects, owner: str, seconds: float = LEASE_SECONDS) -> None:
        self.objects, self.owner, self.seconds = objects, owner, seconds
        self.token = secrets.token_hex(8)
        self.taken_by: str | None = None
        self.broken: Exception | None = None
        """Why the thread that renews it has ended, other than that it lost it."""

    def acquire(self) -> None:
        """Take the store. Raises BlockingIOError if another driver has it."""
        if holder := self._rewrite(take=True):
            raise BlockingIOError(
                f"{self.objects.uri} is in use by {holder} (a killed one releases it after {self.seconds:g} s); "
                "wait for it with --wait or use another --store"
            )

    def renew(self) -> None:
        """Rewrite the claim. Raises LeaseLost if another driver has written it."""
        self.check()
        self.taken_by = self._rewrite(take=False)
        self.check()

    def check(self) -> None:
        """Raise LeaseLost if another driver may have the store."""
        if self.taken_by:
            raise LeaseLost(f"{self.objects.uri} was taken over by {self.taken_by} while this driver was stopped")
        if self.broken:
            raise LeaseLost(f"{self.objects.uri} is no longer renewed, because of an error: {self.broken!r}")
        if time.clock_gettime(CLOCK) - self.renewed > self.seconds:
            raise LeaseLost(f"{self.objects.uri} was not reached for {self.seconds:g} s; another driver may have it")

    def release(self) -> None:
        """Release the store, unless another driver has it."""
        found, holder = self._look()
        if found and holder and holder.token == self.token:
            self.objects.swap(DRIVER, b"", found.version)

    def _rewrite(self, take: bool) -> str | None:
        """Write the claim, over another's only to `take` the store; if refused, return the owner of the other claim."""
        started, version = time.clock_gettime(CLOCK), None
        while version is None:  # if the answer to a write was lost, the next look finds the claim written
            found, holder = self._look()
            if holder is None or holder.token != self.token:
                if not take:
                    return holder.owner if holder else "another driver, which has ended"
                if found and holder and not self._lapsed(found):
                    return holder.owner
            claim = Claim(owner=self.owner, token=self.token, nonce=secrets.token_hex(8))
            version = self.objects.swap(DRIVER, claim.model_dump_json().encode(), found.version if found else None)
        self.renewed = started
        return None

    def _look(self) -> tuple[Found | None, Claim | None]:
        """The object and its holder."""
        found = self.objects.find(DRIVER)
        return found, Claim.model_validate_json(found.data) if found and found.data else None

    def _lapsed(self, found: Found) -> bool:
        self.objects.write(NOW, b"")
        now = self.objects.find(NOW)
        assert now is not None
        return now.modified_s - found.modified_s >= self.seconds + TICK_S


def driven(objects: Objects) -> bool:
    """Whether a driver has the store, for readers only: by this machine's clock."""
    found = objects.find(DRIVER)
    return found is not None and found.data != b"" and time.time() - found.modified_s <= LEASE_SECONDS


@contextlib.contextmanager
def held(objects: Objects, owner: str, seconds: float = LEASE_SECONDS) -> Iterator[Lease]:
    """Hold a store; call the lease's `check` before doing what only its holder may do.

    Raises BlockingIOError if another driver has it.
    """
    lease, stop = Lease(objects, owner, seconds), threading.Event()

    def keep() -> None:
        while not stop.wait(seconds / 3):
            try:
                lease.renew()
            except LeaseLost:
                return  # `check` says so from now on
            except OSError as error:
                log.warning("could not renew the lease of %s, will retry: %s", objects.uri, error)
            except Exception as error:  # `check` says so, before the lease lapses
                lease.broken = error
                return

    lease.acquire()
    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        try:
            lease.release()
        except OSError as error:
            log.warning("could not release %s, the lease lapses by itself: %s", objects.uri, error)
