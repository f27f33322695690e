"""Adds files that are no part of the mirror, such as figures, to a training's runs in MLflow."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store.ledger import Ledger
from orchestrator.tracking.names import TRIAL
from orchestrator.tracking.server import answering, reached, runs_of_store, tracking_uri
from orchestrator.tracking.uris import without_password


def add_files(given: str | None, ledger: Ledger, key: str, under: str, folder: Path) -> list[str]:
    """Add a folder to each run of a training, as `under`/<its name>; return the runs' ids.

    `given` is MLflow's URI, as `tracking_uri` takes it. A sweep has one run per training, so there are several if
    sweeps of the store share it. Raises ValueError if MLflow does not answer or has none.
    """
    uri = tracking_uri(ledger.store, given)
    client, _ = reached(uri)
    with answering(uri):
        found = [run for run in runs_of_store(uri, ledger) if run.data.tags.get("dmf.key") == key]
        runs = [run.info.run_id for run in found if run.data.tags.get("dmf.kind") == TRIAL]
        for run in runs:
            client.log_artifacts(run, str(folder), f"{under}/{folder.name}")
    if not runs:
        raise ValueError(
            f"MLflow at {without_password(uri)} has no run of training {key} in store {ledger.name}; copy the store to "
            "it with orchestrator.sync, or give another --store or --tracking-uri"
        )
    return runs
