"""One trial in a worker's process of Ray: the job that it gets, and what it reports to Tune."""

from __future__ import annotations

import functools
import gc
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.records import Epoch, Failure, TrainingRecord
from orchestrator.running.faults import failure_of, kind_of

VALIDATION = "validation_accuracy"
"""The name under which Tune's searches and schedulers find it."""


@dataclass(frozen=True)
class Job:
    """What crosses to a worker, as JSON: one trial, and the part of the GPU that is its own."""

    config: ExperimentConfig
    evaluations: tuple[EvaluationConfig, ...]
    store: str
    """A folder that all nodes see, or an object store."""
    gpu: float
    timeout_s: float
    """Without a sign of life its process is ended."""
    keep_weights: bool = True
    """Once it is trained and tested."""

    def dumps(self) -> str:
        """As text. Defaults stay out: Tune keeps several copies of it for every trial, and workers have our code."""
        return json.dumps(
            {
                "config": self.config.model_dump(mode="json", exclude_defaults=True),
                "evaluations": [test.model_dump(mode="json", exclude_defaults=True) for test in self.evaluations],
                "store": self.store,
                "gpu": self.gpu,
                "timeout_s": self.timeout_s,
                "keep_weights": self.keep_weights,
            }
        )

    @classmethod
    def loads(cls, text: str) -> Job:
        """From text."""
        data = json.loads(text)
        evaluations = tuple(EvaluationConfig.from_dict(evaluation) for evaluation in data["evaluations"])
        rest = (data[name] for name in ("store", "gpu", "timeout_s", "keep_weights"))
        return cls(ExperimentConfig.from_dict(data["config"]), evaluations, *rest)


@functools.cache
def _spare_imports() -> None:
    """Once in a worker: keep the collector from going over what stays, which takes longer than a short training."""
    gc.freeze()


def train_job(parameters: dict[str, Any]) -> None:
    """What Tune calls, with a job's text as "job"."""
    work(Job.loads(parameters["job"]))


def work(job: Job) -> None:
    """Run a trial and report its epochs, and at its end how it went.

    What went wrong is in the ledger; it is reported, not raised, unless a machine was at fault: then Ray starts the
    trial again, in a process of its own and from its checkpoint, as it does when a process is lost. The last epoch is
    reported with the end, when the record is written: a scheduler may end a trial at any report.
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
            tune.report({"epoch": epoch.epoch, VALIDATION: accuracy, "of_epoch": epoch.model_dump_json()})
        else:
            last = epoch

    failure, best = None, 0.0
    try:
        record = _with_memory_for_two(job, on_epoch)
        best = record.best_validation_accuracy or 0.0 if record.outcome == "finished" else 0.0
    except Exception as error:
        failure = failure_of(error)
        if failure.kind == "machine":
            raise
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    _spare_imports()
    report_end(epochs, best if math.isfinite(best) else 0.0, failure, last)


def _with_memory_for_two(job: Job, on_epoch: Callable[[Epoch], None]) -> TrainingRecord:
    """Run a trial; when memory does not suffice, once more from its checkpoint: another process may have had it."""
    import torch

    from orchestrator.running.trial import run_trial

    try:
        return run_trial(job.config, job.evaluations, job.store, on_epoch, job.timeout_s, job.keep_weights)
    except Exception as error:
        if kind_of(error) != "memory":
            raise
    gc.collect()
    torch.cuda.empty_cache()
    return run_trial(job.config, job.evaluations, job.store, on_epoch, job.timeout_s, job.keep_weights)


def report_end(epochs: int, accuracy: float, failure: Failure | None, last: Epoch | None = None) -> None:
    """Report a trial's end as one epoch after its last; nothing that follows runs."""
    told = failure and failure.replace(traceback="").model_dump_json()  # it is in the record
    end = {"epoch": epochs + 1, VALIDATION: accuracy, "failure": told, "of_epoch": last and last.model_dump_json()}
    tune.report({**end, "done": True})
