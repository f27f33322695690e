"""Results as data frames: one row per cell and seed, with the numbers of the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator import results
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from tests.records_in_memory import InMemory, episodes, planned

GLYPHS = {"data__name": "glyphs", "model__backbone": "conv64f"}


@pytest.fixture
def plan() -> SweepPlan:
    cells = [planned("2d", seeds=(0, 1), model__alignment=alignment, **GLYPHS) for alignment in (0, 1)]
    shared = planned("2c", seeds=(0,), model__groups=64, model__alignment=1, **GLYPHS)
    return SweepPlan(name="s", about="", cells=(*cells, shared))


@pytest.fixture
def store(tmp_path: Path, plan: SweepPlan) -> str:
    """Every seed 0 is tested, and seed 1 of the first cell has failed."""
    ledger, records = Ledger(tmp_path / "runs"), InMemory()
    ledger.write_plan(plan)
    for number, cell in enumerate(plan.cells[:2]):
        records.tested(cell, episodes(0.5 + number / 10, cell.evaluation.episodes), 0)
    records.ended(plan.cells[0].of_seed(1), "failed")
    for training in records.trainings.values():
        ledger.write_training(training)
    for evaluation in records.evaluations.values():
        ledger.write_evaluation(evaluation)
    return str(ledger.store)


def test_there_is_a_row_for_every_cell_and_seed(store: str, plan: SweepPlan) -> None:
    found = results.frame(store)
    assert list(found.columns) == list(results.COLUMNS)
    assert list(zip(found["table"], found["row"], found["seed"], found["state"], strict=True)) == [
        ("2d", "0", 0, "done"),
        ("2d", "0", 1, "failed"),
        ("2d", "1", 0, "done"),
        ("2d", "1", 1, "missing"),
        ("2c", "64 of 64 channels", 0, "done"),
    ]
    tested = Ledger(Path(store)).how_tested(plan.cells[0].training_keys[0], plan.cells[0].evaluation.key)
    assert tested is not None
    assert (found.loc[0, "accuracy"], found.loc[0, "ci95"]) == (tested.accuracy, tested.ci95)
    assert found.loc[2, "training_key"] == found.loc[4, "training_key"]
    assert np.isnan(found.loc[1, "accuracy"])


def test_settings_are_columns_if_asked_for(store: str) -> None:
    found = results.frame(store, settings=True)
    assert list(found["model.alignment"]) == [0, 0, 1, 1, 1]
    assert list(found["training.seed"]) == [0, 1, 0, 1, 0]


def test_episodes_are_those_of_each_training_once(store: str, plan: SweepPlan) -> None:
    found = results.episodes(store)
    each = plan.cells[0].evaluation.episodes
    assert len(found) == 2 * each
    means = found.groupby("training_key")["accuracy"].mean()
    joined = results.frame(store).dropna(subset="accuracy").drop_duplicates("training_key").set_index("training_key")
    np.testing.assert_allclose(means.sort_index(), joined["accuracy"].sort_index(), atol=1e-12)


def test_the_test_of_a_training_that_failed_does_not_count(store: str, plan: SweepPlan) -> None:
    ledger, key = Ledger(Path(store)), plan.cells[0].training_keys[0]
    record = ledger.training(key)
    assert record is not None
    ledger.write_training(record.replace(outcome="failed"))
    found = results.frame(store)
    assert found.loc[0, "state"] == "failed" and np.isnan(found.loc[0, "accuracy"])
    assert key not in set(results.episodes(store)["training_key"])


def test_an_unknown_sweep_or_store_is_named(store: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no sweep 't' in .*; there are s"):
        results.frame(store, ["t"])
    with pytest.raises(ValueError, match="there is no store"):
        results.frame(str(tmp_path / "nowhere"))


def test_a_store_without_results_gives_empty_frames(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert results.frame(str(tmp_path / "empty")).empty
    assert list(results.episodes(str(tmp_path / "empty")).columns)[-1] == "accuracy"
