"""Runs a small real sweep in processes that can be killed, for `orchestrator.selftest`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import Trial, plan
from orchestrator.store.ledger import Ledger
from orchestrator.store.snapshot import ROOT

SPEC = """
name: selftest
about: trainings of a few seconds, two that diverge, and three kinds that start from one pre-training
set:
  data.name: glyphs
  data.image_size: 28
  data.channels: 1
  data.normalisation: half
  model.backbone: conv64f
  episodes.queries: 2
  training.epochs: 30
  training.warmup_epochs: 0
  training.episodes_per_epoch: 8
  training.validation_episodes: 4
  training.validate_every: 5
  training.device: cpu
resources: {cpu: 1}
max_failures: 5
seeds: [0, 1]
evaluation: {episodes: 6}
parts:
  - table: 2c
    grid: {model.groups: [1, 64]}
  - table: 2d
    trials: [{model.alignment: 0}, {training.learning_rate: 1.0e+30}]
  - table: "1"
    set:
      start.head: cosine
      start.seed: 0
      start.training.epochs: 15
      start.training.batches_per_epoch: 8
      start.training.batch_size: 16
      start.training.validation_episodes: 4
      start.training.validate_every: 5
    grid: {model.method: [proto_net, classifier_baseline, baseline]}
"""
SECONDS_BETWEEN_LOOKS = 0.3
"""Listing the processes of a sweep 20 times a second took a seventh of a core on a busy machine."""
PATIENCE = 1800.0
"""Seconds allowed for a start, or for a sweep to end by itself, on a slow and busy machine."""


class Tracking:
    """An MLflow server on loopback that can be killed. A context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.ensure()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def ensure(self) -> None:
        """Start the server if it is not running, and wait until it answers."""
        if self.process is None:
            command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
            places = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
            places += ["--artifacts-destination", str(self.folder / "artifacts")]
            with open(self.folder / "log.txt", "ab") as log:
                self.process = subprocess.Popen(
                    [*command, *places], stdout=log, stderr=log, start_new_session=True, env=environment()
                )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the tracking server does not start; see {self.folder / 'log.txt'}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL the server and its workers."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def environment() -> dict[str, str]:
    """The environment of the commands: they run this code, and use the tracking URI of their arguments."""
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Nothing here needs the server's job workers, which are ten processes.
    return kept | {"PYTHONPATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Site:
    """A folder with a sweep file and its store."""

    def __init__(self, folder: Path, tracking_uri: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.tracking_uri = folder, tracking_uri
        self.ledger = Ledger(folder / "runs")
        self.spec = folder / "selftest.yaml"
        self.spec.write_text(SPEC, encoding="utf-8")
        self.records: dict[Path, int] = {}
        """When each record was written."""
        self.damaged: set[str] = set()
        """Keys of trainings that had a file damaged: they may be retrained."""
        self.options: tuple[str, ...] = ()
        """Options of the command."""

    @property
    def database(self) -> Path:
        """Where the store has MLflow's database, if it is not behind a server."""
        return self.ledger.store / "mlflow.db"

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials of the sweep."""
        return plan(read_spec(self.spec)).trials()

    def between(self, status: int) -> list[str]:
        """What is wrong in the store after a command has ended."""
        now = {path: path.stat().st_mtime_ns for path in self.ledger.store.glob("trainings/**/*.json")}
        kept = {path: time_ for path, time_ in now.items() if path.name != "config.json"}
        records = {path: time_ for path, time_ in kept.items() if not self.damaged & set(path.parts)}
        self.records = {path: time_ for path, time_ in self.records.items() if not self.damaged & set(path.parts)}
        wrong = [f"{path} was written again" for path in self.records if self.records[path] != records.get(path)]
        self.records = records
        if status == 2:
            wrong.append(f"the command ended with status 2: {self.said[-500:]}")
        return wrong

    def complete(self) -> list[str]:
        """Run the command until it ends by itself, then sync MLflow twice; return what is wrong."""
        with Sweep(self) as sweep:
            status = sweep.wait()
        wrong = self.between(status)
        if status != 0:
            wrong.append(f"the last command ended with status {status}: {self.said[-500:]}")
        for expected in ("", ": nothing to do"):
            said = self.sync()
            if expected not in said:
                wrong.append(f"a second sync changed something: {said}")
        return wrong

    def sync(self) -> str:
        """Run `orchestrator.sync`; return its output."""
        command = [sys.executable, "-m", "orchestrator.sync", "--store", "runs", "--tracking-uri", self.tracking_uri]
        done = subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    @property
    def said(self) -> str:
        """The output of the commands so far."""
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder)


class Sweep:
    """A running sweep command. A context manager: none of its processes outlives the block."""

    def __init__(self, site: Site) -> None:
        self.site, self.started = site, time.monotonic()
        command = [sys.executable, "-m", "orchestrator.sweep", site.spec.name, "--tracking-uri", site.tracking_uri]
        command += site.options
        with open(site.folder / "output.txt", "ab") as output:
            self.process = psutil.Popen(
                command, cwd=site.folder, env=environment(), stdout=output, stderr=output, start_new_session=True
            )
        self.seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._look()
        for process in [self.process, *self.seen.values()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(list(self.seen.values()), timeout=PATIENCE)

    def _look(self) -> None:
        """Remember its processes, because children of one that died could not be found later."""
        for parent in [self.process, *self.seen.values()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in parent.children(recursive=True):
                    self.seen.setdefault(child.pid, child)

    def until(self, deadline: float) -> bool:
        """Wait until a deadline; false if the command has ended before."""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            self._look()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self.process.poll() is None

    def until_made(self, pattern: str) -> bool:
        """Wait until a file is in its store; false if the command has ended, or has begun to train, before."""
        while not list(self.site.ledger.store.glob(pattern)):
            if self.process.poll() is not None or (self.site.ledger.store / "trainings").is_dir():
                return False
            time.sleep(0.01)
        return True

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        if self.until(self.started + PATIENCE):
            raise RuntimeError(f"{self.site.folder}: the command does not end: {self.site.said[-2000:]}")
        return int(self.process.wait())

    def alive(self, name: str) -> list[psutil.Process]:
        """Its running processes with a given name."""
        self._look()
        found = []
        for process in self.seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE and any(name in part for part in process.cmdline()[:1]):
                    found.append(process)
        return found

    def kill_one(self, name: str) -> bool:
        """SIGKILL one of its processes with a given name; false if there is none."""
        for process in self.alive(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                return True
        return False

    def kill_all(self) -> bool:
        """SIGKILL everything at once, as a power cut does."""
        self._look()
        for process in [self.process, *self.seen.values()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return True

    def signalled(self, number: int) -> bool:
        """Send the driver a signal."""
        self.process.send_signal(number)
        return True


def _tracker(sweep: Sweep, tracking: Tracking) -> bool:
    """Kill the tracking server, and start it again some seconds later."""
    tracking.kill()
    sweep.until(time.monotonic() + 3.0)
    tracking.ensure()
    return True


KINDS: dict[str, tuple[int, Callable[[Sweep, Tracking], bool]]] = {
    "SIGKILL of the driver": (3, lambda sweep, tracking: sweep.signalled(signal.SIGKILL)),
    "SIGTERM to the driver": (1, lambda sweep, tracking: sweep.signalled(signal.SIGTERM)),
    "SIGINT to the driver": (1, lambda sweep, tracking: sweep.signalled(signal.SIGINT)),
    "SIGKILL of a worker": (6, lambda sweep, tracking: sweep.kill_one("ray::ImplicitFunc")),
    "SIGKILL of the node's Ray": (2, lambda sweep, tracking: sweep.kill_one("raylet")),
    "SIGKILL of everything": (2, lambda sweep, tracking: sweep.kill_all()),
    "SIGKILL of the tracking server": (1, _tracker),
}
"""Ways to disturb a sweep: the relative frequency, and a function that returns whether it could disturb anything."""
