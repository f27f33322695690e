"""Runs trials one after another in this process, without Ray, so that breakpoints work.

`resources` is ignored, and only the user can end a trial that hangs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmf.machine.device import device_of
from dmf.machine.precision import check_precision
from dmf.records.records import Epoch, Failure
from orchestrator.running.faults import one_line
from orchestrator.running.interrupts import Signals
from orchestrator.running.job import Job, work
from orchestrator.running.order import Order
from orchestrator.running.watch import Watcher, logged
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger


@dataclass(frozen=True)
class InProcess:
    """The executor of `--executor local`."""

    ledger: Ledger
    signals: Signals
    max_failures: int
    keep_weights: bool

    def run(self, trials: tuple[Trial, ...], watcher: Watcher) -> None:
        """See `Executor`."""
        for asked in trials:
            check_precision(device_of(asked.config.training.device), asked.config.training.precision)  # or raises
        order = Order(trials, self.ledger, logged(watcher.ended))
        while trial := order.next():
            keep = self.keep_weights or trial.starts_others
            job = Job(trial.config, trial.evaluations, self.ledger.name, keep_weights=keep)
            self._run(job, watcher)
            order.ended(trial.key)

    def _run(self, job: Job, watcher: Watcher) -> None:
        """Run a job; retry after a fault of the machine."""
        key = job.config.key

        def tell(hook: Callable[..., None], *arguments: Any) -> None:
            """Call a hook without interruption by signals; then stop the sweep if there is a reason."""
            with self.signals.deferring():
                logged(hook)(key, *arguments)
                watcher.check()

        def on_epoch(epoch: Epoch) -> None:
            tell(watcher.epoch, epoch)

        for tries in itertools.count(1):
            tell(watcher.started)
            try:
                ended = work(job, on_epoch)
            except Exception as error:  # a fault of the machine
                reason = one_line(error)[:300]
                if tries <= self.max_failures:
                    tell(watcher.recovering, reason)
                    continue
                ended = Failure(reason=f"{reason} ({tries} times)", kind="machine")
            tell(watcher.ended, ended if isinstance(ended, Failure) else None)
            return
