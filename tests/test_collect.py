"""What counts of a cell's records, and what it cost, whatever machines made them."""

from __future__ import annotations

import pytest

from dmf.config import EvaluationConfig
from dmf.records.records import Failure
from reports.collect import State, collect
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
