"""A sweep that writes to MLflow's server on PostgreSQL, as processes: an outage midway leaves no trace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg2
import pytest

from dmf.records.checkpoints import read_checkpoint
from dmf.records.records import Epoch, TrainingRecord
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import Trial, plan
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.reader import MLflowRecords
from tests.servers import MLflowServer, Postgres, mlflow_server, postgres, postgres_programs
from tests.sites import ROOT, workers
from tests.tiny import tiny_sweep

pytestmark = pytest.mark.full
WAIT_SECONDS = 300
OUTAGE_SECONDS = 5.0
PARTS = """
  - table: 2c
    grid: {model.groups: [1, 4, 16, 64]}
"""
SPEC = tiny_sweep("outage", "four trainings side by side", PARTS, epochs=30, cpu=0.5)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb in /usr/lib/postgresql/*/bin or on the PATH")
    with postgres(programs) as running:
        yield running


@pytest.fixture(scope="module")
def server(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    with mlflow_server(database, tmp_path_factory.mktemp("mlflow")) as running:
        yield running


class Sweep:
    """A sweep's command, its store, and its runs in MLflow's REST API."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri, self.ledger = folder, uri, Ledger(folder / "runs")
        self.output = folder / "output.txt"
        (folder / "outage.yaml").write_text(SPEC)
        self.trials: tuple[Trial, ...] = plan(read_spec(folder / "outage.yaml", ())).trials()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "orchestrator.sweep", "outage.yaml", "--tracking-uri", self.uri]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.output, "wb") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def epochs(self) -> int:
        """Epochs on disk, over all trainings; one that has ended counts with all its epochs."""
        done = 0
        for trial in self.trials:
            try:
                done += len(read_checkpoint(self.ledger.folder(trial.key) / "last.safetensors")[1]["history"])
            except FileNotFoundError:  # not yet begun, or ended: then there is a record
                record = self.ledger.training(trial.key)
                done += len(record.history) if record else 0
        return done

    def until_epochs(self, process: subprocess.Popen[bytes], number: int) -> None:
        """Wait until this many epochs have ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.epochs() < number:
            assert process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)

    def asked(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An answer of MLflow's REST API."""
        data = json.dumps(body).encode() if body is not None else None
        request = Request(f"{self.uri}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))

    def runs(self) -> list[dict[str, Any]]:
        experiment = self.asked("experiments/get-by-name?experiment_name=dmf")["experiment"]["experiment_id"]
        found = self.asked("runs/search", {"experiment_ids": [experiment], "max_results": 100})["runs"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["data"]["tags"]}} for run in found]

    def points(self, run: dict[str, Any], metric: str) -> list[tuple[int, float]]:
        """Every point of a metric, in order."""
        path = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={metric}&max_results=1000"
        history = self.asked(path)
        assert not history.get("next_page_token")
        return sorted((point.get("step", 0), point["value"]) for point in history.get("metrics", []))


@pytest.fixture
def sweep(server: MLflowServer, tmp_path: Path) -> Sweep:
    return Sweep(tmp_path, server.uri)


@contextlib.contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    """Suspend processes inside the block."""
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def in_mlflow(epoch: Epoch) -> dict[str, float]:
    """The metrics that a training's run should have for an epoch."""
    values = {"loss": epoch.loss, "learning_rate": epoch.learning_rate, "epoch_seconds": epoch.seconds}
    values |= {f"loss_{name}": value for name, value in epoch.losses.items()}
    accuracy = epoch.validation_accuracy
    return values if accuracy is None else {**values, "validation_accuracy": accuracy}


def curves(record: TrainingRecord) -> dict[str, list[tuple[int, float]]]:
    """Every point of a record's history, by metric."""
    found: dict[str, list[tuple[int, float]]] = {}
    for epoch in record.history:
        for name, value in in_mlflow(epoch).items():
            found.setdefault(name, []).append((epoch.epoch, value))
    return found


def test_every_epoch_is_in_mlflow_once_though_its_server_was_killed_midway(
    sweep: Sweep, server: MLflowServer, database: Postgres
) -> None:
    process = sweep.start()
    try:
        sweep.until_epochs(process, 8)
        server.kill()
        before, killed = sweep.epochs(), time.monotonic()
        sweep.until_epochs(process, before + 4)
        with stopped(workers(process)):  # so that a fast machine does not end the sweep before the server is back
            time.sleep(max(0.0, killed + OUTAGE_SECONDS - time.monotonic()))
            server.start()
        assert process.poll() is None and sweep.epochs() < 4 * 30, "the sweep ended during the outage"
        assert process.wait(timeout=WAIT_SECONDS) == 0, sweep.output.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    runs = {run["tags"].get("dmf.key", run["tags"]["dmf.sweep"]): run for run in sweep.runs()}
    assert {key: run["info"]["status"] for key, run in runs.items()} == {
        "outage": "FINISHED",
        **{trial.key: "FINISHED" for trial in sweep.trials},
    }
    records = MLflowRecords(server.uri)
    for trial in sweep.trials:
        record = sweep.ledger.training(trial.key)
        assert record is not None and len(record.history) == trial.config.training.epochs
        assert records.training(trial.key) == record
        for name, points in curves(record).items():
            assert sweep.points(runs[trial.key], name) == points, (trial.key, name)
        (evaluation,) = trial.evaluations
        test = sweep.ledger.evaluation(trial.key, evaluation.key)
        assert test is not None and records.evaluation(trial.key, evaluation.key) == test
        assert [value for _, value in sweep.points(runs[trial.key], "test_accuracy/5way_1shot")] == [test.accuracy]
    with psycopg2.connect(database.uri.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from runs")
        assert cursor.fetchone() == (len(sweep.trials) + 1,)
