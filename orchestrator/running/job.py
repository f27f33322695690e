"""One trial as an executor runs it, in a worker's process or in this one."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass

from dmf.config import AnyTraining, EvaluationConfig
from dmf.records.records import Epoch, Failure, TrainingRecord, training_from
from orchestrator.running.faults import failure_of, kind_of


@dataclass(frozen=True)
class Job:
    """One trial, and how it is run. It goes to a worker as JSON."""

    config: AnyTraining
    evaluations: tuple[EvaluationConfig, ...]
    store: str
    """A folder that all nodes see, or an object store."""
    gpu: float = 0.0
    """The share of a GPU that it may fill; 0: there is no limit."""
    timeout_s: float | None = None
    """Its process ends after so long without a sign of life; None: never."""
    keep_weights: bool = True
    """After its tests."""

    def dumps(self) -> str:
        """As text. Defaults stay out: Tune keeps several copies of it for every trial, and workers have our code."""
        return json.dumps(
            {
                "config": self.config.compact(),
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
        return cls(training_from(json.dumps(data["config"])), evaluations, *rest)


def work(job: Job, on_epoch: Callable[[Epoch], None]) -> TrainingRecord | Failure:
    """Run a job, and return its training's record or why it failed.

    A fault of the machine is raised: the job is worth another try, and goes on from its checkpoint.
    """
    import torch

    try:
        return _with_memory_for_two(job, on_epoch)
    except Exception as error:
        failure = failure_of(error)
        if failure.kind == "machine":
            raise
        return failure
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _with_memory_for_two(job: Job, on_epoch: Callable[[Epoch], None]) -> TrainingRecord:
    """Run a job; if it runs out of memory, once more from its checkpoint: another process may have had the memory."""
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
