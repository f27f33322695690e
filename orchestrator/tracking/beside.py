"""Reads from MLflow's database in a store which run belongs to which training, without importing MLflow."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing

from orchestrator.store.ledger import Ledger
from orchestrator.tracking.names import OUTCOME, STORE, TRIAL

log = logging.getLogger("dmf.tracking")

DATABASE = "mlflow.db"
"""Where a sweep keeps MLflow's database in its store by default."""
BUSY_S = 2.0
"""How long to wait for a process that writes."""
FIND = """
select keys.value, runs.run_uuid
from runs
join tags as keys on keys.run_uuid = runs.run_uuid and keys.key = 'dmf.key'
join tags as kinds on kinds.run_uuid = runs.run_uuid and kinds.key = 'dmf.kind' and kinds.value = ?
join tags as stores on stores.run_uuid = runs.run_uuid and stores.key = ? and stores.value = ?
left join tags as outcomes on outcomes.run_uuid = runs.run_uuid and outcomes.key = ?
where runs.lifecycle_stage = 'active'
order by coalesce(outcomes.value, '') = 'finished', runs.start_time, runs.run_uuid
"""
"""Each training's runs; its last one is a finished run if there is one, and the newest of these."""


def runs_beside(ledger: Ledger) -> dict[str, str]:
    """The MLflow run of each training's key; none without a database, or with one that cannot be read."""
    path = ledger.store / DATABASE
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", BUSY_S, uri=True)) as connection:
            return dict(connection.execute(FIND, (TRIAL, STORE, ledger.id_so_far, OUTCOME)))
    except sqlite3.Error as error:
        log.warning("%s cannot be read, so pages do not name MLflow's runs: %s", path, error)
        return {}
