"""Reads plans and records from a sweep's runs in MLflow; the report uses it in place of a ledger.

A SQLite database and local files are read directly, with one query and no request per run. Servers and other databases
are read through MLflow's own interface, which makes an object of every parameter and metric of a run; for 10,000 runs
that takes longer than the tables.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlparse
from urllib.request import url2pathname

from dmf.records.facts import Ended, Tested
from dmf.records.records import EVALUATIONS, RECORD, EvaluationRecord, TrainingRecord
from orchestrator.spec.plan import SweepPlan
from orchestrator.tracking.names import EXPERIMENT, OUTCOME, SWEEP, TRIAL, MirroredRun, database_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("dmf.tracking")

READ_TAGS = ("dmf.kind", "dmf.sweep", "dmf.key", OUTCOME)
COLUMNS = {
    "experiments": {"experiment_id", "name"},
    "runs": {"run_uuid", "experiment_id", "status", "start_time", "artifact_uri", "lifecycle_stage"},
    "tags": {"run_uuid", "key", "value"},
}
"""The tables and columns of MLflow that are read here."""


class MLflowRecords:
    """Plans and records from a sweep's runs in MLflow, with the interface of a ledger."""

    def __init__(self, uri: str) -> None:
        """Raise ValueError if MLflow cannot be reached or has no experiment of ours."""
        self.uri = uri
        database = database_of(uri)
        if database and not database.is_file():
            raise ValueError(f"there is no database {database}; a sweep makes one, by default mlflow.db in its store")
        runs = _in_database(database, uri) if database else None
        if runs is None:
            from orchestrator.tracking.server import runs_through_mlflow  # mlflow takes seconds to import

            runs = runs_through_mlflow(uri)
        self._sweeps = [run for run in runs if run.tags.get("dmf.kind") == SWEEP]
        self._trials = [run for run in runs if run.tags.get("dmf.kind") == TRIAL]

    def plans(self) -> dict[str, SweepPlan]:
        """The plan of every sweep, by name; if two stores have a sweep of one name, the one started last."""
        texts = {run.tags["dmf.sweep"]: self._text(run, "plan.json") for run in reversed(self._sweeps)}
        found: dict[str, SweepPlan] = {}
        for name, text in sorted(texts.items()):
            try:
                found |= {name: SweepPlan.from_json(text)} if text else {}
            except ValueError as error:
                reason = " ".join(str(error).split())
                log.warning("the plan of %s cannot be read, it is left out: %s", name, reason[:300])
        return found

    def plan(self, name: str) -> SweepPlan:
        """The plan of one sweep."""
        plans = self.plans()
        if name not in plans:
            raise ValueError(f"no sweep {name!r} in MLflow; there are: {', '.join(plans) or 'none'}")
        return plans[name]

    def training(self, key: str) -> TrainingRecord | None:
        """The record of a training; None if it has not ended."""
        text = self._of_trial(key, RECORD)
        return TrainingRecord.model_validate_json(text) if text else None

    def how_ended(self, key: str) -> Ended | None:
        """The part of a training's record that tables need; None if it has not ended."""
        text = self._of_trial(key, RECORD)
        return Ended.model_validate_json(text) if text else None

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """The record of an evaluation; None if it has not been made."""
        text = self._of_trial(training_key, f"{EVALUATIONS}/{evaluation_key}.json")
        return EvaluationRecord.model_validate_json(text) if text else None

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        """The part of an evaluation's record that tables need; None if it has not been made."""
        record = self.evaluation(training_key, evaluation_key)
        return Tested.of(record) if record else None

    @cached_property
    def _by_key(self) -> dict[str, list[MirroredRun]]:
        found: dict[str, list[MirroredRun]] = {}
        for run in self._trials:
            found.setdefault(run.tags["dmf.key"], []).append(run)
        for runs in found.values():
            runs.sort(key=lambda run: (run.tags.get(OUTCOME) != "finished", -run.started))
        return found

    def running(self, key: str) -> bool:
        """Whether a training is running."""
        return any(run.status == "RUNNING" for run in self._by_key.get(key, []))

    def _of_trial(self, key: str, path: str) -> bytes | None:
        """From the run with a finished record, else from the newest with any; those without outcome are skipped."""
        ended = (run for run in self._by_key.get(key, []) if run.tags.get(OUTCOME))
        return next((text for run in ended if (text := self._text(run, path))), None)

    def _text(self, run: MirroredRun, path: str) -> bytes | None:
        """A file of a run; None if there is no file of that name."""
        folder = _local(run.artifacts)
        if folder is not None:
            file = folder / path
            return file.read_bytes() if file.is_file() else None
        from orchestrator.tracking.server import downloaded

        return downloaded(self._client, run.id, path)

    @cached_property
    def _client(self) -> MlflowClient:
        from orchestrator.tracking.server import reached

        return reached(self.uri)[0]


def _local(uri: str) -> Path | None:
    """The folder of a run whose files are on this machine; None if a server or a cloud has them."""
    parts = urlparse(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(uri)


def _in_database(path: Path, uri: str) -> list[MirroredRun] | None:
    """Every run of our experiment that was not deleted, newest first; None if the tables differ from those we know."""
    query = f"""
        select run_uuid, status, start_time, artifact_uri, key, value
        from experiments join runs using (experiment_id) join tags using (run_uuid)
        where experiments.name = ? and runs.lifecycle_stage = 'active' and key in ({", ".join("?" * len(READ_TAGS))})
        order by start_time desc, run_uuid
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as database:
            if not all(_columns(database, table) >= names for table, names in COLUMNS.items()):
                return None
            if not database.execute("select 1 from experiments where name = ?", (EXPERIMENT,)).fetchone():
                raise ValueError(f"no experiment {EXPERIMENT!r} at {uri}; a sweep started with --tracking-uri makes it")
            return _gathered(database.execute(query, (EXPERIMENT, *READ_TAGS)))
    except sqlite3.Error as error:
        raise ValueError(f"MLflow does not answer at {uri}: {error}") from None


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in database.execute("select name from pragma_table_info(?)", (table,))}


def _gathered(rows: Iterable[tuple[str, str, int, str, str, str]]) -> list[MirroredRun]:
    """Build runs from rows that hold one tag each."""
    runs: dict[str, MirroredRun] = {}
    for run, status, started, artifacts, key, value in rows:
        if run not in runs:
            runs[run] = MirroredRun(run, status, started, artifacts, {})
        runs[run].tags[key] = value
    return list(runs.values())
