"""A sweep's runs in MLflow as plans and records, for a report that has no store at hand.

Where a store lies beside an SQLite database, the report reads the store itself (`store_beside`).
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from dmf.records.facts import Ended, Tested
from dmf.records.records import EVALUATIONS, RECORD, EvaluationRecord, TrainingRecord
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import IDENTITY
from orchestrator.tracking.names import OUTCOME, SWEEP, TRIAL, MirroredRun, database_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("dmf.tracking")


def store_beside(uri: str) -> Path | None:
    """The store beside the SQLite database at `uri`, where a sweep makes it by default; None: there is none."""
    database = database_of(uri)
    return database.parent if database and (database.parent / IDENTITY).is_file() else None


class MLflowRecords:
    """Plans and records as a sweep's runs in MLflow hold them; the report reads them as it reads a ledger."""

    def __init__(self, uri: str) -> None:
        """Raises ValueError when MLflow can not be reached or has no experiment of ours."""
        self.uri = uri
        database = database_of(uri)
        if database and not database.is_file():
            raise ValueError(f"there is no database {database}; a sweep makes it, by default in its store as mlflow.db")
        from orchestrator.tracking.server import runs_through_mlflow  # mlflow takes seconds to import

        runs = runs_through_mlflow(uri)
        self._sweeps = [run for run in runs if run.tags.get("dmf.kind") == SWEEP]
        self._trials = [run for run in runs if run.tags.get("dmf.kind") == TRIAL]

    def plans(self) -> dict[str, SweepPlan]:
        """The plan of every sweep, by name; of two stores with a sweep of one name, the one started last."""
        texts = {run.tags["dmf.sweep"]: self._text(run, "plan.json") for run in reversed(self._sweeps)}
        found: dict[str, SweepPlan] = {}
        for name, text in sorted(texts.items()):
            try:
                found |= {name: SweepPlan.from_json(text)} if text else {}
            except ValueError as error:
                reason = " ".join(str(error).split())
                log.warning("the plan of %s can not be read, it is left out: %s", name, reason[:300])
        return found

    def plan(self, name: str) -> SweepPlan:
        """The plan of one sweep."""
        plans = self.plans()
        if name not in plans:
            raise ValueError(f"no sweep {name!r} in MLflow; there are: {', '.join(plans) or 'none'}")
        return plans[name]

    def training(self, key: str) -> TrainingRecord | None:
        """How a training ended, whole; None: it has not."""
        text = self._of_trial(key, RECORD)
        return TrainingRecord.model_validate_json(text) if text else None

    def how_ended(self, key: str) -> Ended | None:
        """How a training ended; None: it has not."""
        text = self._of_trial(key, RECORD)
        return Ended.model_validate_json(text) if text else None

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """How a trained model did; None: not tested."""
        text = self._of_trial(training_key, f"{EVALUATIONS}/{evaluation_key}.json")
        return EvaluationRecord.model_validate_json(text) if text else None

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        """The same, as far as a table needs it."""
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
        """Whether a training is at work."""
        return any(run.status == "RUNNING" for run in self._by_key.get(key, []))

    def _of_trial(self, key: str, path: str) -> bytes | None:
        """From the run with a finished record, else from the newest with any; one without an outcome goes on."""
        ended = (run for run in self._by_key.get(key, []) if run.tags.get(OUTCOME))
        return next((text for run in ended if (text := self._text(run, path))), None)

    def _text(self, run: MirroredRun, path: str) -> bytes | None:
        """A file of a run; None where it has none of that name."""
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
    """The folder of a run whose files lie on this machine; None for those that a server or a cloud has."""
    parts = urlparse(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(uri)
