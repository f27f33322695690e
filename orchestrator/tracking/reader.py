"""Reads plans and records from a sweep's runs in MLflow; the report uses it where it has no store.

If a store lies beside an SQLite database, the report reads the store itself (`store_beside`).
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dmf.records.facts import Curves, Ended, Tested
from dmf.records.records import EVALUATIONS, RECORD, EvaluationRecord, TrainingRecord
from dmf.values import Value, readable, unsealed
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import IDENTITY, LOOKS, PLAN
from orchestrator.tracking.names import OUTCOME, SWEEP, TRIAL, MirroredRun, database_of, local_folder_of
from reports.looks import Looks

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("dmf.tracking")

Kind = TypeVar("Kind", bound=Value)


def store_beside(uri: str) -> Path | None:
    """The store beside the SQLite database at `uri`, where a sweep makes it by default; None: there is none."""
    database = database_of(uri)
    return database.parent if database and (database.parent / IDENTITY).is_file() else None


class MLflowRecords:
    """Plans and records from a sweep's runs in MLflow, with the interface of a ledger."""

    def __init__(self, uri: str) -> None:
        """Raise ValueError if MLflow cannot be reached or has no experiment of ours."""
        self.uri = uri
        database = database_of(uri)
        if database and not database.is_file():
            raise ValueError(f"there is no database {database}; a sweep makes one, by default mlflow.db in its store")
        from orchestrator.tracking.server import runs_through_mlflow  # mlflow takes seconds to import

        runs = runs_through_mlflow(uri)
        self._sweeps = [run for run in runs if run.tags.get("dmf.kind") == SWEEP]
        self._trials = [run for run in runs if run.tags.get("dmf.kind") == TRIAL]

    def plans(self) -> dict[str, SweepPlan]:
        """The plan of every sweep, by name; if two stores have a sweep of one name, the one started last."""
        texts = {run.tags["dmf.sweep"]: self._text(run, PLAN) for run in reversed(self._sweeps)}
        found: dict[str, SweepPlan] = {}
        for name, text in sorted(texts.items()):
            try:
                found |= {name: SweepPlan.from_json(unsealed(text, PLAN))} if text else {}
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

    def looks(self, name: str) -> Looks | None:
        """The looks that a sweep has taken; None if it has taken none."""
        run = next((run for run in self._sweeps if run.tags["dmf.sweep"] == name), None)
        text = self._text(run, LOOKS) if run else None
        return _read(Looks, text, f"sweep {name}", LOOKS) if text else None

    def training(self, key: str) -> TrainingRecord | None:
        """The record of a training; None if it has not ended."""
        text = self._of_trial(key, RECORD)
        return _read(TrainingRecord, text, f"training {key}", RECORD) if text else None

    def how_ended(self, key: str) -> Ended | None:
        """The part of a training's record that tables need; None if it has not ended."""
        text = self._of_trial(key, RECORD)
        return _read(Ended, text, f"training {key}", RECORD) if text else None

    def curves(self, key: str) -> Curves | None:
        """A training's curves; None if it has not ended."""
        text = self._of_trial(key, RECORD)
        return _read(Curves, text, f"training {key}", RECORD) if text else None

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """The record of an evaluation; None if it has not been made."""
        path = f"{EVALUATIONS}/{evaluation_key}.json"
        text = self._of_trial(training_key, path)
        return _read(EvaluationRecord, text, f"training {training_key}", path) if text else None

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

    def runs(self) -> dict[str, str]:
        """The run of each training's key: a finished one if there is one, and the newest of these."""
        return {key: runs[0].id for key, runs in self._by_key.items()}

    def running(self, key: str) -> bool:
        """Whether a training is running."""
        return any(run.status == "RUNNING" for run in self._by_key.get(key, []))

    def _of_trial(self, key: str, path: str) -> bytes | None:
        """From the run with a finished record, else from the newest with any; those without outcome are skipped."""
        ended = (run for run in self._by_key.get(key, []) if run.tags.get(OUTCOME))
        return next((text for run in ended if (text := self._text(run, path))), None)

    def _text(self, run: MirroredRun, path: str) -> bytes | None:
        """A file of a run; None if there is no file of that name."""
        folder = local_folder_of(run.artifacts)
        if folder is not None:
            file = folder / path
            return file.read_bytes() if file.is_file() else None
        from orchestrator.tracking.server import downloaded

        return downloaded(self._client, run.id, path)

    @cached_property
    def _client(self) -> MlflowClient:
        from orchestrator.tracking.server import reached

        return reached(self.uri)[0]


def _read(kind: type[Kind], text: bytes, of: str, path: str) -> Kind:
    """A record from a run's file. Raises Damaged."""
    where = f"MLflow's run of {of}, {path}"
    with readable(kind.__name__, where):
        return kind.model_validate_json(unsealed(text, f"{kind.__name__} in {where}"))
