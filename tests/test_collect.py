"""What counts of a cell's records, and what it cost, whatever machines made them."""

from __future__ import annotations

import pytest

from dmf.config import AnyTraining, EvaluationConfig
from dmf.records.records import Failure, Provenance
from reports.collect import State, collect
from reports.fill import fill
from reports.layouts import TABLES
from reports.notes import of_costs
from tests.records_in_memory import InMemory, planned

FOUR = EvaluationConfig(episodes=4)


@pytest.mark.parametrize(("outcome", "state"), [("failed", State.FAILED), ("diverged", State.DIVERGED)])
def test_the_test_of_a_training_that_did_not_finish_does_not_count(outcome: str, state: State) -> None:
    cell, records = planned("1", FOUR, (0, 1)), InMemory()
    for seed in cell.seeds:
        records.tested(cell, [0.5, 0.4, 0.6, 0.5], seed)
    records.ended(cell.trainings[1], outcome, Failure(reason="no"))
    found = collect(cell, records)
    assert (found.state, found.seeds) == (State.PARTIAL, (0,))
    assert len(found.reasons) == 1 and "seed 1: " in found.reasons[0] and outcome in found.reasons[0]
    records.ended(cell.trainings[0], outcome, Failure(reason="no"))
    found = collect(cell, records)
    assert (found.state, found.accuracies) == (state, None)


CPU, GPU = "cpu", "cuda"


def on_device(records: InMemory, config: AnyTraining, device: str) -> None:
    """Let 8 threads of a CPU have trained for 600 s, 10 minutes, or a GPU for 60 s."""
    made = Provenance(
        data_fingerprint="0" * 64,
        image_sizes="",
        git_commit=None,
        versions={},
        device=device,
        device_type=device,
        threads=8,
    )
    seconds = 60.0 if device == GPU else 600.0
    records.trainings[config.key] = records.trainings[config.key].replace(seconds=seconds, provenance=made)


@pytest.mark.parametrize(
    ("devices", "minutes", "per_test"), [((CPU, CPU), 80.0, 1.0), ((GPU, GPU), 1.0, 1.0), ((CPU, GPU), None, None)]
)
def test_minutes_of_cpus_and_gpus_are_not_averaged(
    devices: tuple[str, str], minutes: float | None, per_test: float | None
) -> None:
    cell, records = planned("1", FOUR, (0, 1)), InMemory()
    for seed, device in zip(cell.seeds, devices, strict=True):
        records.tested(cell, [0.5, 0.4, 0.6, 0.5], seed)
        on_device(records, cell.trainings[seed], device)
    found = collect(cell, records)
    assert (found.state, found.training_minutes, found.test_seconds) == (State.DONE, minutes, per_test)
    assert (found.training_seconds is None) == (minutes is None)
    table = fill(TABLES["1"], [cell], records)
    assert any("CPUs trained some seeds and GPUs others" in note for note in of_costs(table.sections)) == (
        minutes is None
    )


@pytest.mark.parametrize(("device", "minutes"), [(CPU, 80.0), (GPU, None)])
def test_minutes_of_a_pre_training_are_those_of_its_own_device(device: str, minutes: float | None) -> None:
    cell, records = planned("1", FOUR, (0,), start__head="linear"), InMemory()
    records.tested(cell, [0.5, 0.4, 0.6, 0.5])
    on_device(records, cell.config, CPU)
    stage = cell.config.stage
    assert stage is not None
    records.ended(stage)
    on_device(records, stage, device)
    assert collect(cell, records).stage_minutes == minutes
