"""Connects to MLflow: its URI, our experiment there, and requests. Only this module and `database` import mlflow."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from dmf.machine.files import temporary_folder, write_text
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.database import made_anew, prepare
from orchestrator.tracking.names import EXPERIMENT, STORE, MirroredRun, database_of, local_folder_of
from orchestrator.tracking.uris import told, usable, without_password

log = logging.getLogger("dmf.tracking")

RUNS_AT_ONCE = 10_000
"""The number of runs in one answer to a search."""
SERVERS = ("http", "https", "postgresql", "mysql", "mssql")
"""Schemes of servers, which may be away for a while; a SQLite file or a wrong URI will not change by itself."""
REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")
"""Error codes of a server that answers but refuses us."""
WRONG = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", "RESOURCE_CONFLICT")
"""Error codes for a request about something that is not there or not as expected, such as a deleted run."""

Points = dict[str, list[tuple[int, float]]]
"""Metric -> points, each a step and a value."""


def tracking_uri(store: Path, given: str | None) -> str:
    """`given`, else $MLFLOW_TRACKING_URI, else SQLite in the store; a SQLite path is made absolute."""
    if given:
        return usable(given, "--tracking-uri")
    if from_environment := os.environ.get("MLFLOW_TRACKING_URI"):
        return usable(from_environment, "MLFLOW_TRACKING_URI")
    return f"sqlite:///{store.resolve() / 'mlflow.db'}"


class Unreachable(ValueError):
    """A tracking server does not answer now, but may later."""


def connect(uri: str, artifacts: Path | None = None) -> tuple[MlflowClient, Experiment]:
    """A client and the experiment, which is created first, and with it the database's schema.

    Args:
        artifacts: where runs keep their files if the database has no server.
    """
    if database := database_of(uri):
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            database.open("ab").close()
        except OSError as error:
            raise ValueError(f"MLflow's database {database} cannot be written: {error.strerror or error}") from None
    client, experiment = reached(uri)
    if experiment is None:
        local = artifacts is not None and uri.startswith("sqlite:")
        location = artifacts.resolve().as_uri() if local and artifacts else None
        experiment = _made(client, location)
    restore(client, experiment)
    return client, experiment


def restore(client: MlflowClient, experiment: Experiment) -> bool:
    """Restore the experiment if somebody has deleted it, since MLflow does not give its name to another one.

    Returns whether it was deleted.
    """
    if client.get_experiment(experiment.experiment_id).lifecycle_stage != "deleted":
        return False
    log.warning("the MLflow experiment %r was deleted, and is restored with its runs", EXPERIMENT)
    client.restore_experiment(experiment.experiment_id)
    return True


def refuses(error: BaseException) -> bool:
    """Whether MLflow answered, and will answer the same request in the same way: something about the run is wrong."""
    return isinstance(error, MlflowException) and error.error_code in WRONG


def is_gone(client: MlflowClient, run: str) -> bool:
    """Whether somebody has deleted a run."""
    try:
        return bool(client.get_run(run).info.lifecycle_stage == "deleted")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise


def _made(client: MlflowClient, location: str | None) -> Experiment:
    """Create the experiment, which another driver may be doing at the same moment."""
    try:
        return client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise
        return experiment


def reached(uri: str) -> tuple[MlflowClient, Experiment | None]:
    """A client, and the experiment if it exists.

    A SQLite database gets its schema first, whole or not at all; one whose schema is half made gets a new one. Raises
    ValueError if MLflow cannot be reached at `uri`, or `Unreachable` if that may pass.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    database = database_of(uri)
    if database is None:
        return _reached(uri)
    prepare(database)
    try:
        return _reached(uri)
    except ValueError:
        if not made_anew(database):
            raise
    return _reached(uri)


def _reached(uri: str) -> tuple[MlflowClient, Experiment | None]:
    try:
        client = MlflowClient(uri)
        return client, client.get_experiment_by_name(EXPERIMENT)
    except Exception as error:  # from MLflow, or from the database's driver, which may not be installed
        reason = told(error, uri) or type(error).__name__
        text = f"MLflow does not answer at {without_password(uri)}: {reason[:400]}"
        if isinstance(error, ImportError) and uri.startswith("postgresql:"):
            text += "; for psycopg2 write postgresql+psycopg2://"
        raise (Unreachable if _may_pass(uri, error) else ValueError)(text) from None


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn MLflow's errors inside the block into ValueError, or `Unreachable` if they may pass."""
    try:
        yield
    except MlflowException as error:
        text = f"MLflow at {without_password(uri)} did not answer as it should: {told(error, uri)[:400]}"
        raise (Unreachable if _may_pass(uri, error) else ValueError)(text) from None


def _may_pass(uri: str, error: Exception) -> bool:
    """Whether the same request may succeed later."""
    refused = isinstance(error, ImportError) or getattr(error, "error_code", "") in REFUSALS
    return uri.split(":")[0].split("+")[0] in SERVERS and not refused


def runs_of(client: MlflowClient, experiment: Experiment, filter_: str) -> Iterator[Run]:
    """The experiment's runs that match MLflow's filter ("": all), newest first."""
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], filter_, max_results=RUNS_AT_ONCE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def runs_through_mlflow(uri: str) -> list[MirroredRun]:
    """Every run of our experiment, newest first. Raises ValueError if MLflow cannot be reached or lacks it."""
    client, experiment = reached(uri)
    if experiment is None:
        raise ValueError(
            f"no experiment {EXPERIMENT!r} at {without_password(uri)}; a sweep started with --tracking-uri makes it"
        )
    return [
        MirroredRun(run.info.run_id, run.info.status, run.info.start_time, run.info.artifact_uri, run.data.tags)
        for run in runs_of(client, experiment, "")
    ]


def runs_of_store(uri: str, ledger: Ledger) -> list[Run]:
    """Every run in MLflow that belongs to a store."""
    client, experiment = reached(uri)
    return list(runs_of(client, experiment, f"tags.`{STORE}` = '{ledger.id}'")) if experiment else []


def downloaded(client: MlflowClient, run: str, path: str) -> bytes | None:
    """A file of a run; None if there is no file of that name."""
    folder = path.rpartition("/")[0] or None
    if path not in {file.path for file in client.list_artifacts(run, folder)}:
        return None
    with temporary_folder("mlflow") as room:
        return Path(client.download_artifacts(run, path, room)).read_bytes()


def log_to(client: MlflowClient, run: str, points: Points, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Add points, params and tags to a run in one request; MLflow accepts up to 1,000 of them."""
    now = int(time.time() * 1000)
    client.log_batch(
        run,
        [Metric(name, value, now, step) for name, pairs in points.items() for step, value in pairs],
        [Param(name, value) for name, value in params.items()],
        [RunTag(name, value) for name, value in tags.items()],
    )


def upload(client: MlflowClient, artifacts: str, texts: Mapping[str, str]) -> None:
    """Write texts, given by path, into a run's folder at the URI `artifacts`.

    If it is on this machine, they are on its disk afterwards.
    """
    if (folder := local_folder_of(artifacts)) is not None:
        for path, text in texts.items():
            write_text(folder / path, text)
        return
    with temporary_folder("mlflow") as room:
        for path, text in texts.items():
            file = Path(room, path)
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        get_artifact_repository(artifacts, tracking_uri=client.tracking_uri).log_artifacts(room)
