"""deploy/slurm.sbatch on two Slurm nodes on this machine: a sweep is stopped, queued again, and continues."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmf.records.records import LAST
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger
from tests.tiny import tiny_sweep

pytestmark = pytest.mark.full
ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
WAIT_SECONDS = 300
PARTS = """
  - table: 2c
    grid: {model.groups: [1, 64]}
"""
SPEC = tiny_sweep("job", "two trainings, one on each node", PARTS, epochs=150)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Callable[..., str]]:
    """The environment in which Slurm's commands reach this test's Slurm."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing or os.geteuid():
        pytest.skip(f"Slurm on loopback needs root and the packages slurm-wlm and munge; not found: {missing}")
    environment = {**os.environ, "PATH": path}
    script = [str(ROOT / "tests" / "slurm_on_loopback.sh"), "bash", "-c", "echo $SLURM_CONF; read"]
    with subprocess.Popen(script, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        environment["SLURM_CONF"] = running.stdout.readline().strip()
        assert environment["SLURM_CONF"], "Slurm did not start"

        def ask(*command: str) -> str:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        yield ask
        running.stdin.close()  # ends `read`, and with it Slurm


class Job:
    """A submitted sweep, its store and its log."""

    def __init__(self, slurm: Callable[..., str], folder: Path, *options: str) -> None:
        self.slurm, self.log, self.ledger = slurm, folder / "log.txt", Ledger(folder / "runs")
        spec = folder / "job.yaml"
        spec.write_text(SPEC)
        self.trials = plan(read_spec(spec, ())).trials()
        places = ["--store", str(self.ledger.store), "--results", str(folder / "results")]
        options = (*options, "--cpus-per-task=1", f"--output={self.log}", "--parsable")
        self.id = slurm("sbatch", *options, "deploy/slurm.sbatch", str(spec), *places)

    def shown(self) -> dict[str, str]:
        """The job's state in Slurm."""
        fields = self.slurm("scontrol", "show", "job", self.id).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not happened():
            assert self.shown()["JobState"] != "FAILED" and time.monotonic() < deadline, self.said()
            time.sleep(0.5)

    def begun(self) -> list[bool]:
        """Whether each training has a checkpoint."""
        return [(self.ledger.folder(trial.key) / LAST).is_file() for trial in self.trials]

    def states(self) -> list[str]:
        return [self.ledger.state(trial) for trial in self.trials]


def test_a_stopped_job_is_queued_again_and_goes_on_until_every_training_has_its_record(
    slurm: Callable[..., str], tmp_path: Path
) -> None:
    job = Job(slurm, tmp_path, "--nodes=2")
    # A training takes one CPU and each node has one, so two running trainings are on different nodes.
    job.until(lambda: all(job.begun()))
    slurm("scancel", "--batch", "--signal=TERM", job.id)  # as Slurm does before the time limit
    job.until(lambda: "queued again" in job.said())
    assert "stopped by SIGTERM; continue with the same command" in job.said()
    assert job.states() == ["started", "started"]
    job.until(lambda: job.shown()["JobState"] == "PENDING")
    slurm("scontrol", "update", f"JobId={job.id}", "StartTime=now")  # else Slurm makes it wait for two minutes
    job.until(lambda: job.shown()["JobState"] == "COMPLETED")
    assert job.shown()["Restarts"] == "1"
    assert job.states() == ["done", "done"]
    for trial in job.trials:
        record = job.ledger.training(trial.key)
        assert record is not None
        assert [epoch.epoch for epoch in record.history] == list(range(1, trial.config.training.epochs + 1))


def test_a_cancelled_job_stays_cancelled(slurm: Callable[..., str], tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, "--nodes=1")
    job.until(lambda: any(job.begun()))
    slurm("scancel", job.id)
    job.until(lambda: slurm("squeue", "--noheader", f"--job={job.id}") == "")
    assert (job.shown()["JobState"], job.shown()["Restarts"]) == ("CANCELLED", "0")
