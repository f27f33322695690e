"""Compares a disturbed sweep's store with an undisturbed one's and with MLflow."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from dmf.records.records import BEST, CONFIG, DAMAGED_BEST, EVALUATIONS, LOCK, RECORD, STACKS
from orchestrator.selftest.sweeps import Site

MEASURED = {"seconds", "cpu_seconds", "peak_bytes", "sha256"}
"""Fields that differ from run to run."""
EVALUATION = re.compile(rf"{EVALUATIONS}/[0-9a-f]+\.json")
FILES = {BEST, DAMAGED_BEST, CONFIG, EVALUATIONS, LOCK, RECORD, STACKS, "log.txt"}
"""Files of a complete training, besides its evaluations' records."""
MIRRORED = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
"""Outcome of a record with all its evaluations -> status in MLflow."""


def differences(site: Site, undisturbed: Site) -> list[str]:
    """Everything that is wrong in a complete sweep's store and in MLflow."""
    found = _folders(site)
    for trial in site.trials:
        ours, theirs = (each.ledger.folder(trial.key) for each in (site, undisturbed))
        names = [RECORD, *(f"{EVALUATIONS}/{evaluation.key}.json" for evaluation in trial.evaluations)]
        found += [f"{ours / name} differs" for name in names if _record(ours / name) != _record(theirs / name)]
        damaged = trial.key in site.damaged  # weights that were damaged after their tests are not made again
        if not damaged and _digest(ours / BEST) != _digest(theirs / BEST):
            found.append(f"{ours / BEST} differs")
    return found + _mlflow(site)


def _folders(site: Site) -> list[str]:
    """Unexpected trainings, and files that a complete training should not have."""
    planned = {trial.key for trial in site.trials}
    found = [f"{key} was not asked for" for key in site.ledger.kept_keys() if key not in planned]
    for key in planned:
        there = (path.relative_to(site.ledger.folder(key)) for path in site.ledger.folder(key).rglob("*"))
        left = [str(path) for path in there if str(path) not in FILES and not EVALUATION.fullmatch(str(path))]
        found += [f"{key}: {name} is left over" for name in left]
    return found


def _record(path: Path) -> Any:
    """A record without its measured fields; None if there is none."""
    return _bare(json.loads(path.read_bytes())) if path.is_file() else None


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items() if name not in MEASURED}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _mlflow(site: Site) -> list[str]:
    """Differences between MLflow and the ledger."""
    from orchestrator.tracking.server import connect, runs_of_store

    client, _ = connect(site.tracking_uri)
    runs = runs_of_store(site.tracking_uri, site.ledger)
    found = [f"MLflow: {run.info.run_name} is RUNNING" for run in runs if run.info.status == "RUNNING"]
    keys = Counter(run.data.tags.get("dmf.key", "the sweep") for run in runs)
    expected = Counter(["the sweep", *(trial.key for trial in site.trials)])
    if keys != expected:
        found.append(f"MLflow has runs {dict(keys)}, expected {dict(expected)}")
    for run in runs:
        if (key := run.data.tags.get("dmf.key")) is None:
            continue
        record = site.ledger.training(key)
        if record is None:
            found.append(f"MLflow: {key} has no record")
            continue
        steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, "learning_rate"))
        if steps != Counter(epoch.epoch for epoch in record.history):
            found.append(f"MLflow: epochs of {key} are {sorted(steps.elements())}")
        if run.info.status != MIRRORED[record.outcome]:
            found.append(f"MLflow: {key} {record.outcome} is {run.info.status}")
        for test in site.ledger.evaluations(key):
            name = f"{test.config.split}_accuracy/{test.config.way}way_{test.config.shot}shot"
            if run.data.metrics.get(name) != test.accuracy:
                found.append(f"MLflow: {name} of {key} is {run.data.metrics.get(name)}, not {test.accuracy}")
    return found
