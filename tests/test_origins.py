"""What made a number is read from the records: each seed's training, counted or not, its curves and its MLflow run."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import pytest

from dmf.records.records import Failure
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.beside import DATABASE, runs_beside
from orchestrator.tracking.names import OUTCOME, STORE
from reports.collect import Collected, State, collect
from reports.fill import fill
from reports.layouts import TABLES
from reports.origins import origins
from reports.render.curves import _found
from tests.filled import CODE, TEN, made
from tests.records_in_memory import InMemory, episodes, planned


@pytest.fixture
def records() -> InMemory:
    """Seed 0 is tested, 1 diverged, 2 failed, 3 is trained but not tested, 4 has not begun."""
    records = InMemory()
    records.tested(CELL, episodes(0.5, 10))
    records.ended(CELL.of_seed(1), "diverged", Failure(reason="nan", step=7))
    records.ended(CELL.of_seed(2), "failed", Failure(reason="no room"))
    records.ended(CELL.of_seed(3))
    for seed, key in enumerate(CELL.training_keys[:4]):
        values = made(key, dirty=seed == 3) | {"peak_bytes": 100 + seed}
        records.trainings[key] = records.trainings[key].replace(**values)
    return records


CELL = planned("2c", TEN, (0, 1, 2, 3, 4), model__groups=64)


def test_every_planned_seed_has_its_origin(records: InMemory) -> None:
    found = origins(CELL, collect(CELL, records), records)
    assert [(each.seed, each.outcome, each.failure, each.counts) for each in found] == [
        (0, "finished", "", True),
        (1, "diverged", "nan", False),
        (2, "failed", "no room", False),
        (3, "finished", "", False),
        (4, "not ended", "", False),
    ]
    assert [each.training_key for each in found] == list(CELL.training_keys)
    assert {each.evaluation_key for each in found} == {CELL.evaluation.key}
    assert [each.commit for each in found] == ["c" * 40] * 3 + ["c" * 40 + "+changes", None]
    assert found[0].code == CODE and found[0].device == "cpu of the test" and found[4].code == ""
    assert (found[0].seconds, found[0].image_sizes, found[0].data_fingerprint) == (4000.0, "84x84", "d" * 64)
    assert origins(None, collect(CELL, records), records) == ()


def test_the_peak_memory_is_that_of_the_seeds_that_count(records: InMemory) -> None:
    records.tested(CELL, episodes(0.5, 10), 3)
    key = CELL.training_keys[3]
    records.trainings[key] = records.trainings[key].replace(peak_bytes=70)
    (section,) = fill(TABLES["2c"], [CELL], records).sections
    cell = next(cell for cell in section.cells if cell.origins)
    assert cell.seeds_done == (0, 3) and cell.peak_bytes == 100 and cell.value == 64


def test_a_store_gives_the_same_origins_and_curves_through_its_index(records: InMemory, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for training in records.trainings.values():
        ledger.write_training(training)
    for evaluation in records.evaluations.values():
        ledger.write_evaluation(evaluation)
    wanted = origins(CELL, collect(CELL, records), records)
    for reader in (ledger, Ledger(tmp_path)):
        assert origins(CELL, collect(CELL, reader), reader) == wanted
        reader.index._rows.flush()
    key = CELL.training_keys[0]
    assert ledger.curves(CELL.training_keys[4]) is None
    drawn = records.curves(key)
    assert drawn and {point.validation_accuracy is None for point in drawn.history} == {True, False}
    for path in tmp_path.rglob("*.json"):
        os.utime(path, ns=(10**18, 10**18))
    for reader in (Ledger(tmp_path), Ledger(tmp_path)):  # from the record, then from the row
        assert reader.curves(key) == drawn
        reader.index._rows.flush()


def database(path: Path, store: str) -> None:
    """As much of MLflow's schema as is read, with runs by name, key, outcome and start; the last two do not count."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table runs (run_uuid text, lifecycle_stage text, start_time integer)")
        connection.execute("create table tags (run_uuid text, key text, value text)")
        for run, key, outcome, start, stage, of_store, kind in (
            ("old", "k1", "finished", 1, "active", store, "trial"),
            ("newest finished", "k1", "finished", 3, "active", store, "trial"),
            ("failed later", "k1", "failed", 5, "active", store, "trial"),
            ("running", "k2", None, 2, "active", store, "trial"),
            ("deleted", "k3", "finished", 2, "deleted", store, "trial"),
            ("of another store", "k4", "finished", 2, "active", "other", "trial"),
            ("a sweep", "k5", "finished", 2, "active", store, "sweep"),
        ):
            connection.execute("insert into runs values (?, ?, ?)", (run, stage, start))
            tags = {"dmf.key": key, "dmf.kind": kind, STORE: of_store} | ({OUTCOME: outcome} if outcome else {})
            connection.executemany("insert into tags values (?, ?, ?)", [(run, *tag) for tag in tags.items()])


def test_runs_are_found_in_the_stores_own_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(tmp_path)
    assert runs_beside(ledger) == {} and not list(tmp_path.iterdir()), "nothing is made by looking"
    database(tmp_path / DATABASE, ledger.id)
    assert runs_beside(ledger) == {"k1": "newest finished", "k2": "running"}
    assert not caplog.records
    (tmp_path / DATABASE).write_bytes(b"no database" * 100)
    with caplog.at_level(logging.WARNING):
        assert runs_beside(ledger) == {}
    assert "pages do not name MLflow's runs" in caplog.text


def test_a_damaged_record_is_told_in_its_origin_and_leaves_its_curves_out(tmp_path: Path) -> None:
    cell = planned("2c")
    ledger = Ledger(tmp_path)
    path = ledger.folder(cell.trainings[0].key) / "training.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    (origin,) = origins(cell, Collected(State.DAMAGED), ledger)
    assert (origin.outcome, origin.counts) == ("damaged", False) and str(path) in origin.failure
    assert _found(origin, ledger.curves) is None
    assert _found(origin.replace(outcome="finished"), ledger.curves) is None
