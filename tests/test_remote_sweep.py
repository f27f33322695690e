"""Sweeps whose store is in an object store: killed, continued on another machine, reported from a third."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmf.records.records import LAST, RECORD
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan
from orchestrator.store.bucket.mirror import RemoteStore
from tests.s3_server import ENVIRONMENT, s3_server, uri
from tests.sites import ROOT, START_SECONDS
from tests.test_remote import contents
from tests.tiny import tiny_sweep

SPEC = tiny_sweep("tiny", "two trainings", "  - table: 2c\n    grid: {model.groups: [1, 64]}\n", epochs=25)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with s3_server(tmp_path_factory.mktemp("server")) as port:
            yield uri(port, "runs")


class Machine:
    """A folder with everything that a machine keeps for itself, and the sweep's file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "tiny.yaml").write_text(SPEC)

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        caches = {"DMF_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(
            [sys.executable, "-m", f"orchestrator.{command}", *arguments],
            cwd=self.folder,
            env={**os.environ, **caches, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        process = self.start(command, *arguments)
        said, _ = process.communicate(timeout=3 * START_SECONDS)
        return process.returncode, said


def test_a_sweep_goes_on_on_another_machine_and_is_read_on_a_third(store: str, tmp_path: Path) -> None:
    one, other, third = (Machine(tmp_path / name) for name in ("one", "other", "third"))
    process = one.start("sweep", "tiny.yaml", "--store", store)
    deadline = time.monotonic() + START_SECONDS
    remote = RemoteStore.at(store)
    while not any(name.endswith(LAST) for name in remote.names("trainings")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    status, said = other.run("sweep", "tiny.yaml", "--store", store)
    assert status == 2 and f"is in use by process {process.pid} on " in said
    status, said = third.run("status", store, "--json")
    epochs = [row["epoch"] for row in json.loads(said)["sweeps"]["tiny"] if row["state"] == "running"]
    assert status == 1 and max(epochs) >= 1, "another training may run in its first epoch"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, said

    status, said = other.run("sweep", "tiny.yaml", "--store", store, "--executor", "local")
    assert status == 0 and "2 trainings: 2 done" in said, said
    assert not any(name.endswith(LAST) for name in remote.names("trainings"))
    (work,) = (other.folder / "cache" / "stores").glob("*/work")
    assert not any(work.iterdir())

    status, said = third.run("report", "--store", store)
    assert status == 0 and "cells done" in said and "missing" not in said, said
    assert third.run("status", store)[0] == 0
    for trial in plan(read_spec(third.folder / "tiny.yaml")).trials():
        undisturbed = run_trial(trial.config, trial.evaluations, tmp_path / "undisturbed")
        found = json.loads(contents(remote, f"trainings/{trial.key}/{RECORD}"))
        assert [epoch["losses"] for epoch in found["history"]] == [epoch.losses for epoch in undisturbed.history]
