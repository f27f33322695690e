"""MLflow's SQLite database: its schema is made whole or not at all, and a store's runs keep their files in the store.

MLflow makes its schema in many steps, and refuses a database that a kill left between two of them. And it writes the
place of a run's files into the database as an absolute path, which a store that is moved or copied leaves behind.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from dmf.machine.files import wait_for
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.names import EXPERIMENT, MIRRORED, STORE, STORE_NAME, local_folder_of

log = logging.getLogger("dmf.tracking")

BUSY_S = 30.0
"""How long to wait for another process that writes."""


def prepare(database: Path) -> None:
    """Give a database its schema if it is missing or empty. Of several processes one does, and the others wait."""
    if _has_content(database):
        return
    with _alone(database):
        if not _has_content(database):
            with _schema(database) as made:
                _copy(made, database)


def made_anew(database: Path) -> bool:
    """Whether an unusable database has no runs, as when its schema is half made; it then gets a new schema."""
    with _alone(database), _schema(database) as made:
        if not _is_half_made(database, set(_tables(made))):
            return False
        log.warning("%s has a schema that a kill left half made, and no runs; its schema is made anew", database)
        _copy(made, database)
        return True


def _has_content(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0


@contextlib.contextmanager
def _alone(database: Path) -> Iterator[None]:
    with open(database.with_name(f".{database.name}.lock"), "a+") as lock:
        wait_for(lock)
        yield


def _is_half_made(database: Path, ours: set[str]) -> bool:
    """Whether a file has only tables of MLflow's schema (`ours`, and copies while it changes them), and no runs."""
    try:
        with contextlib.closing(sqlite3.connect(database, BUSY_S)) as connection:
            tables = [name for name in _tables(connection) if not name.startswith("_alembic_tmp_")]
            if not set(tables) <= ours:
                return False
            return "runs" not in tables or connection.execute("select 1 from runs limit 1").fetchone() is None
    except sqlite3.Error:
        return False


def _tables(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]


@contextlib.contextmanager
def _schema(database: Path) -> Iterator[sqlite3.Connection]:
    """A new database with MLflow's schema, aside. What a killed process left aside is removed."""
    for left in database.parent.glob(f".{database.name}.*.new"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{database.name}.", suffix=".new", dir=database.parent) as room:
        aside = Path(room, "mlflow.db")
        MlflowClient(f"sqlite:///{aside}").search_experiments()
        with contextlib.closing(sqlite3.connect(aside)) as made:
            yield made


def _copy(made: sqlite3.Connection, database: Path) -> None:
    """Copy a database into a file in one transaction, which a kill undoes."""
    with contextlib.closing(sqlite3.connect(database, BUSY_S)) as into:
        made.backup(into)


def settle(database: Path, ledger: Ledger) -> None:
    """Let the store's runs have their files in the store, wherever it lies now.

    If the database lies in the store, it has moved or was copied with it: new runs get their files here, and a copy
    adopts the runs of its original.
    """
    artifacts = ledger.store / "artifacts"
    with contextlib.closing(sqlite3.connect(database, BUSY_S)) as connection, connection:
        if database.parent == ledger.store:
            location = (artifacts.as_uri(), EXPERIMENT, artifacts.as_uri())
            connection.execute(
                "update experiments set artifact_location = ? where name = ? and artifact_location != ?", location
            )
            if ledger.former_id:
                former = (ledger.id, STORE, ledger.former_id)
                connection.execute("update tags set value = ? where key = ? and value = ?", former)
        mine = "select run_uuid from tags where key = ? and value = ?"
        runs = connection.execute(
            f"select run_uuid, artifact_uri from runs where run_uuid in ({mine})", (STORE, ledger.id)
        ).fetchall()
        for run, uri in runs:
            if (here := _here(artifacts, run)) != uri and (before := local_folder_of(uri)) is not None:
                if not _brought(before, artifacts / run / "artifacts"):
                    connection.execute("update tags set value = '' where key = ? and run_uuid = ?", (MIRRORED, run))
                connection.execute("update runs set artifact_uri = ? where run_uuid = ?", (here, run))
        named = f"update tags set value = ? where key = ? and value != ? and run_uuid in ({mine})"
        connection.execute(named, (ledger.name, STORE_NAME, ledger.name, STORE, ledger.id))


def place(database: Path, ledger: Ledger, run: str, uri: str) -> bool:
    """Let a new run, whose files MLflow would keep at `uri`, have them in the store; return whether that is elsewhere.

    A database outside the store can have several stores, and gives the folder of the first one to all.
    """
    here = _here(ledger.store / "artifacts", run)
    if here == uri or local_folder_of(uri) is None:
        return False
    with contextlib.closing(sqlite3.connect(database, BUSY_S)) as connection, connection:
        connection.execute("update runs set artifact_uri = ? where run_uuid = ?", (here, run))
    return True


def _here(artifacts: Path, run: str) -> str:
    return f"{artifacts.as_uri()}/{run}/artifacts"


def _brought(before: Path, here: Path) -> bool:
    """Whether a run's files are here: they moved with the store, or are copied from where they were."""
    if not here.is_dir() and before.is_dir():
        shutil.copytree(before, here)
    return here.is_dir()
