"""Chooses who runs trials: Ray's workers, or this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from orchestrator.running.interrupts import Signals
from orchestrator.running.options import Options
from orchestrator.running.watch import Watcher
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger


class Executor(Protocol):
    """Decides when and where a trial runs. Only the ledger knows what is done and where a trial continues."""

    def run(self, trials: tuple[Trial, ...], watcher: Watcher) -> None:
        """Run trials in order, report on them to the watcher, and return when all have ended.

        Raises ValueError, before the first starts, if one of them cannot run here; Stopped if the sweep ends early.
        """


@contextlib.contextmanager
def executor(spec: SweepSpec, ledger: Ledger, signals: Signals, options: Options) -> Iterator[Executor]:
    """The executor that `options` name."""
    if options.executor == "local":
        from orchestrator.running.local import InProcess

        yield InProcess(ledger, signals, spec.max_failures, spec.keep_weights)
    else:
        from orchestrator.running.tune import ray_tune

        with ray_tune(spec, ledger, signals, options) as ray:
            yield ray
