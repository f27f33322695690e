"""One trial, as an executor runs it in a worker or in this process."""

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
    """One trial and how to run it; sent to a worker as JSON."""

    config: AnyTraining
    evaluations: tuple[EvaluationConfig, ...]
    store: str
    """A folder that all nodes see, or the URI of an object store."""
    gpu: float = 0.0
    """The fraction of a GPU's memory that it may use; 0: no limit."""
    timeout_s: float | None = None
    """Its process ends after this long without a sign of life; None: never."""
    keep_weights: bool = True
    """Whether to keep the weights after the tests."""

    def dumps(self) -> str:
        """To JSON, without defaults: Tune keeps several copies per trial, and workers have the same code."""
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
        """From JSON."""
        data = json.loads(text)
        evaluations = tuple(EvaluationConfig.from_dict(evaluation) for evaluation in data["evaluations"])
        rest = (data[name] for name in ("store", "gpu", "timeout_s", "keep_weights"))
        return cls(training_from(json.dumps(data["config"])), evaluations, *rest)


def work(
    job: Job, on_epoch: Callable[[Epoch], None], alive: Callable[[], None] = lambda: None
) -> TrainingRecord | Failure:
    """Run a job; return its training's record, or why it failed. `alive` is called as in `run_trial`.

    A fault of the machine is raised, because the job is worth a retry from its checkpoint.
    """
    import torch

    try:
        return _with_memory_for_two(job, on_epoch, alive)
    except Exception as error:
        failure = failure_of(error)
        if failure.kind == "machine":
            raise
        return failure
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _with_memory_for_two(
    job: Job, on_epoch: Callable[[Epoch], None], alive: Callable[[], None] = lambda: None
) -> TrainingRecord:
    """Run a job. If it runs out of memory, retry once: another process may have held the memory."""
    import torch

    from orchestrator.running.trial import run_trial

    def run() -> TrainingRecord:
        return run_trial(job.config, job.evaluations, job.store, on_epoch, job.timeout_s, job.keep_weights, alive)

    try:
        return run()
    except Exception as error:
        if kind_of(error) != "memory":
            raise
    gc.collect()
    torch.cuda.empty_cache()
    return run()
