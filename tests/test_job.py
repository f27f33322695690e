"""A job: how it is sent to a worker, and its second try when memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.records import Epoch
from orchestrator.running.job import Job, _with_memory_for_two
from orchestrator.running.trial import run_trial
from orchestrator.store.ledger import Ledger
from tests.sites import learnt
from tests.test_trial import CONFIG, TEST

EVALUATIONS = (EvaluationConfig(), EvaluationConfig(split="val", episodes=7, way=3, shot=5, queries=4, seed=9))
ELSEWHERE = CONFIG.replace(data__root="/images", training__seed=3, training__threads=2, model__alignment=2)


def job_in(store: Path) -> Job:
    return Job(CONFIG, (TEST,), str(store), gpu=0.0, timeout_s=600.0)


@pytest.mark.parametrize(
    "job",
    [
        Job(ExperimentConfig(), (), "runs", gpu=0.0, timeout_s=1800.0),
        Job(ELSEWHERE, EVALUATIONS, "s3://bucket/runs?scheme=http", gpu=0.25, timeout_s=90.5, keep_weights=False),
    ],
)
def test_a_job_crosses_to_a_worker_as_it_is(job: Job) -> None:
    assert Job.loads(job.dumps()) == job


def test_where_memory_did_not_suffice_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    seen: list[int] = []

    def short_of_memory_once(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if seen == [1, 2]:
            raise MemoryError

    record = _with_memory_for_two(job_in(tmp_path / "store"), short_of_memory_once)
    assert seen == [1, 2, 3], "an epoch was trained again, or left out"
    undisturbed = run_trial(CONFIG, (TEST,), tmp_path / "undisturbed")
    there, expected = Ledger(tmp_path / "store"), Ledger(tmp_path / "undisturbed")
    assert record.outcome == "finished" and record == there.training(CONFIG.key)
    assert learnt(record) == learnt(undisturbed)
    found, test = (ledger.evaluation(CONFIG.key, TEST.key) for ledger in (there, expected))
    assert found is not None and test is not None and found.episode_accuracies == test.episode_accuracies


@pytest.mark.parametrize(
    ("error", "epochs", "kind"),
    [(MemoryError, [1, 2], "memory"), (ValueError, [1], "error")],
)
def test_a_training_is_tried_twice_where_memory_does_not_suffice_and_else_once(
    error: type[Exception], epochs: list[int], kind: str, tmp_path: Path
) -> None:
    seen: list[int] = []

    def fails(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        raise error

    with pytest.raises(error):
        _with_memory_for_two(job_in(tmp_path), fails)
    assert seen == epochs  # each try goes one epoch further
    record = Ledger(tmp_path).training(CONFIG.key)
    assert record is not None and record.outcome == "failed"
    assert record.failure is not None and record.failure.kind == kind
