"""The code of a Ray worker: runs a job and reports to Tune."""

from __future__ import annotations

import functools
import gc
import math
from typing import Any

from ray import tune

from dmf.machine.watchdog import unwatched
from dmf.records.records import Epoch, Failure
from orchestrator.running.job import Job, work
from orchestrator.running.silence import sign

VALIDATION = "validation_accuracy"
"""The metric's name for Tune's searches and schedulers."""


def train_job(parameters: dict[str, Any]) -> None:
    """Called by Tune with a job's JSON as "job"."""
    run_job(Job.loads(parameters["job"]))


def run_job(job: Job) -> None:
    """Run a job, and report each epoch and the outcome.

    A fault of the machine is raised to Ray, which restarts the job in a new process, as it does when a process dies.
    The last epoch is reported with the outcome, after the record is written, because a scheduler may end a trial at any
    report.
    """
    import torch

    if torch.cuda.is_available() and 0 < job.gpu < 1:
        torch.cuda.set_per_process_memory_fraction(job.gpu)
    epochs = job.config.training.epochs
    accuracy, last = 0.0, None

    def on_epoch(epoch: Epoch) -> None:
        nonlocal accuracy, last
        accuracy = accuracy if epoch.validation_accuracy is None else epoch.validation_accuracy
        if epoch.epoch < epochs:
            with unwatched():  # a driver that is stopped does not answer, which is not this trial's fault
                tune.report({"epoch": epoch.epoch, VALIDATION: accuracy, "of_epoch": epoch.model_dump_json()})
        else:
            last = epoch

    ended = work(job, on_epoch, lambda: sign(job.store, job.config.key))
    _spare_imports()
    if isinstance(ended, Failure):
        report_end(epochs, 0.0, ended, last)
    else:
        best = ended.best_validation_accuracy or 0.0 if ended.outcome == "finished" else 0.0
        report_end(epochs, best if math.isfinite(best) else 0.0, None, last)


@functools.cache
def _spare_imports() -> None:
    """Once per worker, exempt imported modules from garbage collection, which takes longer than a short job."""
    gc.freeze()


def report_end(epochs: int, accuracy: float, failure: Failure | None, last: Epoch | None = None) -> None:
    """Report a trial's end as one epoch after its last; no code after this call runs."""
    told = failure and failure.replace(traceback="").model_dump_json()  # the record has the traceback
    end = {"epoch": epochs + 1, VALIDATION: accuracy, "failure": told, "of_epoch": last and last.model_dump_json()}
    tune.report({**end, "done": True})
