"""Folders to run sweeps in: in this process, or as processes that can be killed, including Ray's."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from dmf.records.checkpoints import read_checkpoint, read_state_of
from dmf.records.records import LAST, LOCK, Going, TrainingRecord
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import Trial, plan
from orchestrator.store.ledger import Ledger
from orchestrator.sweep import main
from orchestrator.tracking.names import EXPERIMENT
from orchestrator.tracking.reader import MLflowRecords
from orchestrator.tracking.server import tracking_uri

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300
"""Seconds allowed for Ray to start, on a slow and busy machine."""


@functools.cache
def empty_database() -> bytes:
    """MLflow's SQLite database with its schema and no runs: MLflow takes seconds to make one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{path}").search_experiments()
        return path.read_bytes()


def unchecked(path: Path) -> Any:
    """A record as plain data, as an earlier version wrote it: without the checksum, which a change would break."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}


class Site:
    """A folder with the sweep file tiny.yaml and its store, away from the checkout."""

    def __init__(self, folder: Path, spec: str, with_database: bool = True) -> None:
        self.folder, self.ledger = folder, Ledger(folder / "runs")
        self.spec = folder / "tiny.yaml"
        self.spec.write_text(spec)
        if with_database:
            self.ledger.store.mkdir()
            (self.ledger.store / "mlflow.db").write_bytes(empty_database())
        self.output = folder / "output.txt"
        self.paths = (str(ROOT),)
        """The folder from which its processes import, besides installed packages."""

    def command(self, *more: str) -> int:
        """Run the command in this process; return the exit status."""
        with (
            open(self.output, "w") as output,
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            return main(["tiny.yaml", *more])

    def run(self, *more: str) -> int:
        """Run the sweep and its trials in this process; return the exit status."""
        return self.command("--executor", "local", *more)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the command as a process, which runs its trials under Ray unless `more` says otherwise."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(self.paths)}
        with open(self.output, "wb") as output:
            command = [sys.executable, "-m", "orchestrator.sweep", "tiny.yaml", *more]
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def said(self) -> str:
        """The output of the last command."""
        return self.output.read_text()

    def until_epoch(self, process: subprocess.Popen[bytes], number: int, key: str = "*") -> None:
        """Wait until a training, any or the given one, has a checkpoint of epoch `number`."""
        deadline = time.monotonic() + START_SECONDS
        while not any(number <= at for at in self.epochs(key)):
            assert process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def epochs(self, key: str = "*") -> list[int]:
        """The epochs of trainings' last checkpoints."""
        found = []
        for path in self.ledger.store.glob(f"trainings/{key}/{LAST}"):
            with contextlib.suppress(FileNotFoundError):  # its training has ended meanwhile
                found.append(len(read_state_of(Going, path).history))  # one read, of a file that is replaced meanwhile
        return found

    def history(self, key: str) -> list[dict[str, Any]]:
        """The epochs in a training's checkpoint; empty if there is none."""
        try:
            return read_checkpoint(self.ledger.folder(key) / LAST)[1]["history"]
        except FileNotFoundError:
            return []

    def assert_went_on(self, key: str, history: list[dict[str, Any]]) -> None:
        """Check that a training's record begins with these epochs, seconds included: none was retrained."""
        record = self.ledger.training(key)
        assert record is not None and history
        assert [epoch.model_dump(mode="json") for epoch in record.history[: len(history)]] == history

    def trials(self, *overrides: str) -> tuple[Trial, ...]:
        """The plan of the file."""
        return plan(read_spec(self.spec, overrides)).trials()

    def states(self, *overrides: str) -> list[str]:
        """Its trials' keys, in order."""
        return [self.ledger.state(trial) for trial in self.trials(*overrides)]

    def statuses(self) -> dict[str, str]:
        """The runs in MLflow by training key; the sweep's by its name."""
        client = MlflowClient(tracking_uri(self.ledger.store, None))
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        found = {run.data.tags.get("dmf.key", run.data.tags["dmf.sweep"]): run.info.status for run in runs}
        assert len(found) == len(runs), "a training has two runs"
        return found

    def files(self) -> dict[Path, int]:
        """Every record and its modification time."""
        return {path: path.stat().st_mtime_ns for path in self.ledger.store.glob("trainings/**/*.json")}

    def assert_mlflow_has(self, *trials: Trial) -> None:
        """Check that MLflow has every epoch of these trainings once, and the store's records."""
        uri = tracking_uri(self.ledger.store, None)
        client, records = MlflowClient(uri), MLflowRecords(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        for trial in trials:
            record = self.ledger.training(trial.key)
            assert record is not None and records.training(trial.key) == record
            (run,) = client.search_runs([experiment.experiment_id], f"tags.`dmf.key` = '{trial.key}'")
            steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
            assert sorted(steps) == [epoch.epoch for epoch in record.history]
            for evaluation in trial.evaluations:
                test = self.ledger.evaluation(trial.key, evaluation.key)
                assert records.evaluation(trial.key, evaluation.key) == test
                if test is not None:
                    assert run.data.metrics["test_accuracy/5way_1shot"] == test.accuracy

    def assert_learnt_as_in(self, undisturbed: Path, *trials: Trial) -> None:
        """Check that its trials equal those of an undisturbed store."""
        from orchestrator.running.trial import run_trial

        expected = Ledger(undisturbed)
        for trial in trials:
            run_trial(trial.config, trial.evaluations, undisturbed)
            assert learnt(self.ledger.training(trial.key)) == learnt(expected.training(trial.key))
            for evaluation in trial.evaluations:
                found, test = (ledger.evaluation(trial.key, evaluation.key) for ledger in (self.ledger, expected))
                assert (found and found.episode_accuracies) == (test and test.episode_accuracies)


def learnt(record: TrainingRecord | None) -> dict[str, object]:
    """The parts of a record that do not depend on the machine's speed."""
    assert record is not None
    told = record.model_dump(exclude={"seconds", "cpu_seconds", "peak_bytes", "provenance"})
    return {**told, "history": [epoch.model_dump(exclude={"seconds"}) for epoch in record.history]}


def descendants(process: subprocess.Popen[bytes]) -> list[int]:
    """Ids of all processes under a driver, from /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = []
    for worker in parents.keys() - {process.pid}:
        ancestor = worker
        while ancestor in parents and ancestor != process.pid:
            ancestor = parents[ancestor]
        if ancestor == process.pid:
            found.append(worker)
    return found


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Ids of the Ray workers that run trials."""
    return [pid for pid in descendants(process) if b"ImplicitFunc" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def trainings_of(process: int) -> set[str]:
    """Keys of the trainings that a process has open."""
    files: list[Path] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for file in Path(f"/proc/{process}/fd").iterdir():
            files.append(Path(os.readlink(file)))
    return {file.parent.name for file in files if file.name == LOCK}


def listening(process: subprocess.Popen[bytes]) -> set[str]:
    """Addresses (hexadecimal, as /proc has them) on which a driver and its processes accept connections."""
    tables = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    address_of = {f"socket:[{row[9]}]": row[1].split(":")[0] for row in tables if row[3] == "0A"}
    files = (file for pid in descendants(process) for file in Path(f"/proc/{pid}/fd").iterdir())
    open_files = {os.readlink(file) for file in files if file.is_symlink()}
    return {address for socket, address in address_of.items() if socket in open_files}
