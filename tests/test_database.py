"""MLflow's SQLite database: made whole or not at all, and following its store wherever that goes."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator import report, sync
from orchestrator.store.ledger import IDENTITY, Identity, Ledger
from orchestrator.tracking.names import EXPERIMENT, STORE, local_folder_of
from orchestrator.tracking.server import connect, tracking_uri
from orchestrator.tracking.tracker import reconcile
from tests.sites import ROOT, Site, empty_database
from tests.test_damaged import at
from tests.test_tracking import GOOD, PLAN, TEST, evaluated, finished, runs, statuses
from tests.tiny import tiny_sweep

ONE = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=2)
CONNECT = """
import sys
from pathlib import Path
from orchestrator.tracking.server import connect
print("begins", flush=True)
client, experiment = connect(f"sqlite:///{sys.argv[1]}", Path(sys.argv[1]).parent / "artifacts")
client.create_run(experiment.experiment_id)
print("made", flush=True)
"""


def connecting(database: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONNECT, str(database)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def usable(database: Path) -> bool:
    """Whether the schema is MLflow's: a run can be made and found."""
    client, experiment = connect(f"sqlite:///{database}", database.parent / "artifacts")
    run = client.create_run(experiment.experiment_id)
    return client.get_run(run.info.run_id).info.run_id == run.info.run_id


def test_a_first_start_killed_at_any_time_leaves_a_database_that_the_next_one_uses(tmp_path: Path) -> None:
    chance = random.Random(0)
    for number, kill in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = connecting(folder / "mlflow.db")
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        # The schema takes a second or two: its folder is there while it is made.
        while not list(folder.glob(".mlflow.db.*.new")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 1.0))
        process.send_signal(kill)
        process.communicate()
        assert usable(folder / "mlflow.db")
        assert not list(folder.glob(".mlflow.db.*.new"))


def test_of_several_that_start_at_once_one_makes_it_and_all_use_it(tmp_path: Path) -> None:
    processes = [connecting(tmp_path / "mlflow.db") for _ in range(3)]
    for process in processes:
        said, wrong = process.communicate(timeout=300)
        assert said == "begins\nmade\n", wrong
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None and len(client.search_runs([experiment.experiment_id])) == 3


def test_a_schema_that_an_earlier_start_left_half_made_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database())
    with sqlite3.connect(database) as connection:
        for table in ("alembic_version", "runs", "tags"):
            connection.execute(f"drop table {table}")
    connection.close()
    assert usable(database) and "left half made, and no runs" in caplog.text


def test_a_database_with_runs_or_of_another_program_is_never_made_anew(tmp_path: Path) -> None:
    with_runs, foreign = tmp_path / "runs.db", tmp_path / "foreign.db"
    with_runs.write_bytes(empty_database())
    assert usable(with_runs)
    with sqlite3.connect(with_runs) as connection:
        connection.execute("update alembic_version set version_num = 'of another version'")
    connection.close()
    with sqlite3.connect(foreign) as connection:
        connection.execute("create table runs (mine text)")
        connection.execute("create table experiments_of_mine (mine text)")
    connection.close()
    for database, table in ((with_runs, "runs"), (foreign, "experiments_of_mine")):
        with sqlite3.connect(database) as connection:
            before = connection.execute(f"select * from {table}").fetchall()
        connection.close()
        try:
            connect(f"sqlite:///{database}", tmp_path / "artifacts")
        except ValueError as error:
            assert "Traceback" not in str(error)
        with sqlite3.connect(database) as connection:
            assert connection.execute(f"select * from {table}").fetchall() == before
        connection.close()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = Site(tmp_path_factory.mktemp("swept"), ONE)
    assert site.run() == 0, site.said
    return site.folder


def artifacts_of(ledger: Ledger, uri: str | None = None) -> dict[str, Path]:
    """The folders of a store's runs, by training key; the sweep's by its name."""
    client = MlflowClient(uri or tracking_uri(ledger.store, None))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`{STORE}` = '{ledger.id}'")
    folders = {run.data.tags.get("dmf.key", run.data.tags["dmf.sweep"]): run.info.artifact_uri for run in found}
    return {name: folder for name, uri in folders.items() if (folder := local_folder_of(uri)) is not None}


def assert_complete(site: Site) -> None:
    """Check that every run is there once, with its files in the store, and that nothing is left to do."""
    (trial,) = site.trials()
    assert site.statuses() == {"tiny": "FINISHED", trial.key: "FINISHED"}
    folders = artifacts_of(site.ledger)
    assert folders.keys() == {"tiny", trial.key}
    assert all(folder.is_relative_to(site.ledger.store / "artifacts") for folder in folders.values())
    assert (folders["tiny"] / "plan.json").is_file() and (folders[trial.key] / "training.json").is_file()
    site.assert_mlflow_has(trial)


@pytest.mark.parametrize("old_place", ["gone", "cannot be made"])
def test_a_store_that_moves_takes_its_runs_and_their_files_along(old_place: str, swept: Path, tmp_path: Path) -> None:
    before = tmp_path / "before" / "site"
    shutil.copytree(swept, before)
    site = at(before)
    assert site.run() == 0, site.said  # as a copy, it lies here from now on
    identity = site.ledger.id
    moved = at(shutil.move(before, tmp_path / "moved"))
    before.parent.rmdir()
    if old_place == "cannot be made":
        before.parent.touch()
    assert moved.run() == 0, moved.said
    assert moved.ledger.id == identity and moved.ledger.former_id == site.ledger.former_id
    assert_complete(moved)
    assert not before.exists()
    assert moved.run("seeds=[0,1]") == 0, moved.said
    assert len(artifacts_of(moved.ledger)) == 3 and not before.exists()
    uri = tracking_uri(moved.ledger.store, None)
    assert report.main(["--tracking-uri", uri, "--output", str(moved.folder / "out")]) == 0
    assert "done" in (moved.folder / "out" / "tiny" / "table_2c.csv").read_text()


def test_a_copy_gets_an_identity_of_its_own_and_leaves_the_original_alone(
    swept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = at(swept)
    files = {path: path.stat().st_mtime_ns for path in swept.rglob("*") if path.is_file()}
    copy = at(shutil.copytree(swept, tmp_path / "copy"))
    assert copy.run() == 0, copy.said
    assert "is a copy of another store" in caplog.text and copy.ledger.id != original.ledger.id
    assert copy.ledger.former_id == original.ledger.id
    assert_complete(copy)
    caplog.clear()
    copy = at(copy.folder)
    assert copy.run() == 0 and "is a copy" not in caplog.text
    assert copy.run("seeds=[0,1]") == 0, copy.said
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("*") if path.is_file()} == files
    assert_complete(original)


def stored(folder: Path) -> Ledger:
    """A store with a finished training of the sweep `s`."""
    ledger = Ledger(folder)
    ledger.write_plan(PLAN)
    ledger.write_training(finished(GOOD))
    ledger.write_evaluation(evaluated(GOOD, TEST))
    return ledger


def test_stores_that_share_a_database_keep_their_files_apart(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    stores = [stored(tmp_path / name) for name in ("one", "other")]
    for ledger in stores:
        assert reconcile(uri, ledger)["s"] > 0
        assert reconcile(uri, ledger) == {"s": 0}
    for ledger in stores:
        folders = artifacts_of(ledger, uri)
        assert len(folders) == 2
        assert all((ledger.store / "artifacts") in folder.parents and folder.is_dir() for folder in folders.values())
    shutil.rmtree(stores[0].store)
    assert (artifacts_of(stores[1], uri)[GOOD.key] / "training.json").is_file()


def test_files_that_an_earlier_version_put_into_another_store_are_brought_back(tmp_path: Path) -> None:
    ledger = stored(tmp_path / "store")
    (ledger.store / "mlflow.db").write_bytes(empty_database())
    uri = tracking_uri(ledger.store, None)
    reconcile(uri, ledger)
    elsewhere, gone = tmp_path / "elsewhere", tmp_path / "gone"
    places = artifacts_of(ledger)
    shutil.move(places["s"], elsewhere)
    shutil.rmtree(places[GOOD.key])
    with sqlite3.connect(ledger.store / "mlflow.db") as connection:
        for folder, name in ((elsewhere, "s"), (gone, GOOD.key)):
            run = runs(ledger)[name].info.run_id
            connection.execute("update runs set artifact_uri = ? where run_uuid = ?", (folder.as_uri(), run))
    connection.close()
    assert sync.main(["--store", str(ledger.store)]) == 0
    assert artifacts_of(ledger) == places
    assert (places["s"] / "plan.json").is_file() and (places[GOOD.key] / "training.json").is_file()
    assert statuses(ledger).keys() == {"s", GOOD.key}


def test_the_identity_of_an_earlier_version_stays_and_a_damaged_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / IDENTITY).write_text("0123456789abcdef")
    earlier = Ledger(tmp_path).id
    assert Identity.read(tmp_path / IDENTITY).id == earlier == Ledger(tmp_path).id
    moved = Ledger(shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-copy")))
    assert moved.id != earlier == moved.former_id
    (tmp_path / IDENTITY).write_text("{")
    assert Ledger(tmp_path).id != earlier and "the store gets a new identity" in caplog.text


def test_one_folder_under_two_names_is_one_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    first = Ledger(tmp_path / "store").id
    identity = Identity.read(tmp_path / "store" / IDENTITY)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    identity.replace(path=str(tmp_path / "link")).write(tmp_path / "store" / IDENTITY)
    assert Ledger(tmp_path / "store").id == first
