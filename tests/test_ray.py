"""What only Ray can show, on real sweeps of the embedded glyphs: workers that die or hang, a node that dies, a port.

One sweep serves most tests. It has a training whose worker is killed, one whose images hang, one that diverges and one
without images.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from dmf.config import ExperimentConfig
from dmf.data.sets import open_for
from dmf.records.provenance import git_commit
from orchestrator.running import cluster
from orchestrator.running.cluster import _start_here
from orchestrator.running.interrupts import Signals
from orchestrator.spec.model import Resources
from orchestrator.spec.plan import Trial
from orchestrator.tracking.names import EXPERIMENT
from orchestrator.tracking.server import tracking_uri
from tests.sites import ROOT, START_SECONDS, Site, listening, trainings_of, workers
from tests.tiny import tiny_sweep

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc")
PARTS = """
  - {{table: 2c, grid: {{model.groups: [1]}}}}
  - {{table: 2c, set: {{data.name: mine, data.root: {images}}}}}
  - {{table: 2d, trials: [{{training.learning_rate: 1.0e+30}}]}}
  - {{table: '1', set: {{data.name: mini_imagenet, data.root: /nowhere}}}}
"""
STUCK = """
import os, time
if os.path.exists({marker!r}):
    import PIL.Image
    opened = PIL.Image.open
    def stuck(*arguments, **named):
        while os.path.exists({marker!r}):
            time.sleep(0.1)
        return opened(*arguments, **named)
    PIL.Image.open = stuck
"""
"""In every process of the sweep: a file system that does not answer while the marker is there."""
MISSING = """
import sys
if any("default_worker" in each for each in sys.orig_argv):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "orchestrator.running.silence":
                raise ModuleNotFoundError("No module named 'of_the_cluster'")
    sys.meta_path.insert(0, Finder())
"""
"""In Ray's workers alone: a package that their machine lacks."""
LONG = tiny_sweep("tiny", "one training that takes a while", "  - table: 2c\n", epochs=400)


@dataclass
class Swept:
    """An ended sweep, and what was observed while it ran."""

    site: Site
    marker: Path
    """While this file exists, reading images hangs."""
    status: int
    other_status: int
    """The exit status of a second driver; its output follows."""
    other_said: str
    driver: int
    addresses: set[str]
    operators: set[str]
    """Paths of the compiled operator that workers have in memory."""
    before: list[dict[str, Any]]
    """Epochs that a training had done when its worker was killed."""
    left: list[int]
    """Workers that outlived the driver."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Killed, hanging, diverging, broken."""
        return self.site.trials()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Swept]:
    folder = tmp_path_factory.mktemp("swept")
    images, marker, noise = folder / "images", folder / "does not answer", np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(5):
            classes = images / split / f"{split}{number}"
            classes.mkdir(parents=True)
            for image in range(20):
                Image.fromarray(noise.integers(0, 256, (28, 28), np.uint8)).save(classes / f"{image}.png")
    spec = tiny_sweep("tiny", "four trainings", PARTS.format(images=images), epochs=25) + "max_failures: 1\n"
    site = Site(folder, spec, with_database=False)
    (folder / "hang").mkdir()
    (folder / "hang" / "sitecustomize.py").write_text(STUCK.format(marker=str(marker)))
    site.paths = (*site.paths, str(folder / "hang"))
    marker.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMF_CACHE", str(cache))
        killed = site.trials()[0].key
        open_for(site.trials()[0].config)  # glyphs are drawn now: in a worker it may take longer than the timeout
        process = site.start("--trial-timeout", "15s")
        try:
            site.until_epoch(process, 2, killed)
            addresses = listening(process)
            operators = {path for worker in workers(process) for path in mapped(worker)}
            (worker,) = (each for each in workers(process) if killed in trainings_of(each))
            before = site.history(killed)
            os.kill(worker, signal.SIGKILL)
            other = Site(tmp_path_factory.mktemp("other"), spec)
            other_status = other.run("--store", str(site.ledger.store))
            status = process.wait(timeout=START_SECONDS)
        finally:
            process.kill()
            process.wait()
        yield Swept(
            site=site,
            marker=marker,
            status=status,
            other_status=other_status,
            other_said=other.said,
            driver=process.pid,
            addresses=addresses,
            operators=operators,
            before=before,
            left=workers(process),
        )


def mapped(process: int) -> set[str]:
    """Paths of the compiled operator that a process has in memory."""
    return set(re.findall(r"\S+/dmf/ops/_C\S*\.so", Path(f"/proc/{process}/maps").read_text()))


def test_failures_of_some_stop_no_others(swept: Swept) -> None:
    assert swept.status == 1 and swept.site.states() == ["done", "failed", "diverged", "failed"], swept.site.said
    assert "4 trainings: 1 done, 2 failed, 1 diverged" in swept.site.said
    assert (swept.site.folder / "results" / "tiny" / "table_2c.csv").is_file()
    assert swept.left == []


def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint(swept: Swept, tmp_path: Path) -> None:
    killed = swept.trials[0]
    assert "lost its process, continues from its checkpoint" in swept.site.said
    swept.site.assert_went_on(killed.key, swept.before)
    swept.site.assert_learnt_as_in(tmp_path / "undisturbed", killed)


def test_a_trial_that_hangs_is_ended_and_its_stacks_are_kept(swept: Swept) -> None:
    hanging, site = swept.trials[1], swept.site
    assert "showed no sign of life and was ended (its stacks are in its log)" in site.said
    assert "stuck" in (site.ledger.folder(hanging.key) / "stacks.txt").read_text()
    record = site.ledger.training(hanging.key)
    assert record is not None and record.failure is not None and record.failure.kind == "machine"


def test_what_a_trial_says_of_its_failure_crosses_to_the_driver(swept: Swept) -> None:
    broken = swept.site.ledger.training(swept.trials[3].key)
    assert broken is not None and broken.failure is not None and broken.failure.kind == "error"
    assert "/nowhere" in broken.failure.reason and "Traceback" in broken.failure.traceback
    assert f"failed: {broken.failure.reason}" in swept.site.said


def test_mlflow_has_true_statuses_and_every_epoch_once(swept: Swept) -> None:
    killed, hanging, diverging, broken = swept.trials
    assert swept.site.statuses() == {
        "tiny": "FAILED",
        killed.key: "FINISHED",
        hanging.key: "FAILED",
        diverging.key: "FAILED",
        broken.key: "FAILED",
    }
    swept.site.assert_mlflow_has(*swept.trials)
    assert f"mlflow ui --backend-store-uri sqlite:///{swept.site.ledger.store}/mlflow.db" in swept.site.said


def test_a_second_driver_is_refused(swept: Swept) -> None:
    assert swept.other_status == 2 and f"in use by process {swept.driver}" in swept.other_said


def test_our_own_ray_listens_on_loopback_only(swept: Swept) -> None:
    assert swept.addresses
    assert all(address.endswith("0100007F") for address in swept.addresses)


def test_workers_run_the_code_of_the_start(swept: Swept) -> None:
    (code,) = (swept.site.ledger.store / "code").iterdir()
    assert swept.operators <= {f"{code.resolve()}/dmf/ops/_C.abi3.so"}
    assert (code / "dmf" / "training" / "run.py").is_file()


def test_records_of_workers_and_their_runs_have_the_commit(swept: Swept) -> None:
    commit = git_commit()
    assert (commit is not None) == (ROOT / ".git").exists()
    client = MlflowClient(tracking_uri(swept.site.ledger.store, None))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    tags = {run.data.tags.get("dmf.key"): run.data.tags for run in client.search_runs([experiment.experiment_id])}
    made = [record for trial in swept.site.trials() if (record := swept.site.ledger.training(trial.key))]
    trained = [record for record in made if record.provenance is not None]
    assert len(trained) >= 2
    for record in trained:
        assert record.provenance is not None and record.provenance.git_commit == commit
        assert tags[record.key]["mlflow.source.git.commit"] == (commit or "")


def test_what_hung_goes_on_when_the_cause_is_gone(swept: Swept, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test of this sweep."""
    monkeypatch.setenv("DMF_CACHE", str(cache))
    swept.marker.unlink()
    assert swept.site.run() == 1, swept.site.said
    assert "4 trainings, 2 done, 1 to run, 1 left as they are" in swept.site.said
    assert swept.site.states() == ["done", "done", "diverged", "failed"]


def test_what_a_worker_raises_before_its_trial_begins_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path, LONG + "max_failures: 1\n")
    (tmp_path / "lacks").mkdir()
    (tmp_path / "lacks" / "sitecustomize.py").write_text(MISSING)
    site.paths = (*site.paths, str(tmp_path / "lacks"))
    process = site.start()
    try:
        assert process.wait(timeout=START_SECONDS) == 1, site.said
    finally:
        process.kill()
        process.wait()
    told = "ModuleNotFoundError: No module named 'of_the_cluster'"
    assert f": {told}, continues from its checkpoint\n" in site.said
    assert f": failed: {told} (2 times)\n" in site.said and "process died" not in site.said
    (trial,) = site.trials()
    record = site.ledger.training(trial.key)
    assert record is not None and record.failure is not None
    assert (record.failure.kind, record.failure.reason) == ("machine", f"{told} (2 times)")


def test_a_sweep_whose_only_node_died_stops_and_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    """Tune alone would wait for another node for ever, unless it first sees the trial's process die often enough."""
    site = Site(tmp_path, LONG)
    process = site.start()
    try:
        site.until_epoch(process, 1)
        (raylet,) = (p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == "raylet")
        raylet.kill()
        assert process.wait(timeout=START_SECONDS) == 1, site.said
    finally:
        process.kill()
        process.wait()
    stopped = "stopped: Ray has lost every node that can run a trial; continue" in site.said
    assert stopped or "lost its process" in site.said, site.said
    assert set(site.statuses().values()) == ({"KILLED"} if stopped else {"FAILED"})
    (before,) = site.epochs()
    process = site.start("--executor", "local")
    try:
        site.until_epoch(process, before + 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=START_SECONDS) == 128 + signal.SIGTERM, site.said
    finally:
        process.kill()
        process.wait()
    first = re.search(r"epoch (\d+)/400", site.said)
    assert first and int(first[1]) == before + 1, site.said


@pytest.mark.parametrize(
    ("resources", "nodes", "told"),
    [
        ({"cpu": 3}, [{"CPU": 2.0}] * 2, "3 CPUs and 0 GPUs on one node, but Ray's nodes have 2 CPUs and 0 GPUs;"),
        ({"cpu": 2, "gpu": 1}, [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}], "2 CPUs and 0 GPUs or 1 CPUs and 1 GPUs"),
    ],
)
def test_a_trial_must_fit_on_one_node(resources: dict[str, float], nodes: list[dict[str, float]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cluster.request(ExperimentConfig(), Resources.from_dict(resources), nodes)
    enough = [*nodes, {"CPU": 8.0, "GPU": 1.0}]
    assert cluster.request(ExperimentConfig(), Resources.from_dict(resources), enough)["CPU"] >= 2


FAULTS = """
import platform, resource, sys, threading
from pathlib import Path
import ray
from orchestrator.running.cluster import cluster
from orchestrator.running.interrupts import Signals

def faults():
    import torch
    from dmf.machine.device import set_up
    set_up(1)
    found = []
    def passes():
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            for megabytes in (8, 40, 150):  # within a thread's arena, all of it, and beyond
                torch.zeros(megabytes * 2**18)
            found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    thread = threading.Thread(target=passes)  # as Tune runs a trial
    thread.start()
    thread.join()
    return found

if __name__ == "__main__":
    with cluster(None, Signals(), Path(sys.argv[1])):
        print(*ray.get(ray.remote(faults).remote()))
"""
"""Prints the page faults of passes over blocks of 200 MB in all, freed in between, in a thread of a worker."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_worker_s_thread_keeps_the_memory_that_a_step_frees(tmp_path: Path) -> None:
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    environment = {name: value for name, value in os.environ.items() if name != cluster.ARENAS}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(script), str(ROOT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, *others = map(int, done.stdout.split())
    assert first > 10_000 and statistics.median(others[9:]) < 1000, done.stdout


@pytest.mark.parametrize("shared", [True, False])
def test_workers_of_a_cluster_have_one_memory_arena_too(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(cluster, "_probe", lambda address: None)
    monkeypatch.setattr(cluster.ray, "init", lambda *arguments, runtime_env, **named: started.append(runtime_env))
    monkeypatch.setattr(cluster.ray, "nodes", list)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    for given, expected in ((None, "1"), ("4", "4")):
        if given is None:
            monkeypatch.delenv(cluster.ARENAS, raising=False)
        else:
            monkeypatch.setenv(cluster.ARENAS, given)
        with cluster.cluster("127.0.0.1:6379", Signals(), ROOT, shared):
            pass
        assert started.pop()["env_vars"][cluster.ARENAS] == expected


def test_nothing_is_collected_while_ray_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    collects: list[bool] = []
    monkeypatch.setattr(cluster.ray, "init", lambda *arguments, **named: None)
    monkeypatch.setattr(cluster.ray, "nodes", list)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: collects.append(gc.isenabled()))
    with pytest.raises(KeyError), cluster.cluster(None, Signals(), ROOT):
        raise KeyError
    assert collects == [False] and gc.isenabled()


def test_a_sweep_that_decides_is_killed_between_looks_and_comes_to_the_same(tmp_path: Path, place: Path) -> None:
    spec = tiny_sweep("tiny", "", "  - table: 2d\n    grid: {model.alignment: [0, 1]}\n", epochs=2)
    spec += "seeds: {decide: [2d: 1], at_most: 4}\n"
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    killed, whole = Site(tmp_path / "killed", spec), Site(tmp_path / "whole", spec)
    process = killed.start()
    try:
        looks = killed.ledger.sweep_folder("tiny") / "looks.json"
        deadline = time.monotonic() + START_SECONDS
        while not looks.is_file():
            assert process.poll() is None and time.monotonic() < deadline, killed.said
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    process = killed.start()
    try:
        assert process.wait(timeout=START_SECONDS) == 0, killed.said
    finally:
        process.kill()
        process.wait()
    assert whole.run() == 0, whole.said
    found = killed.ledger.looks("tiny")
    assert found is not None and len(found.taken) == 3 and found == whole.ledger.looks("tiny")
    assert killed.states() == ["done"] * 8
    assert set(killed.statuses().values()) == {"FINISHED"}


def test_ray_that_does_not_start_is_tried_once_more_and_then_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def late(address: str, **options: object) -> None:
        calls.append(address)
        if len(calls) < 2 or address != calls[0] or failing:
            raise Exception("The current node timed out during startup. \n This could happen ...")

    monkeypatch.setattr("orchestrator.running.cluster.ray.init", late)
    failing = False
    _start_here({})
    assert calls == ["local", "local"] and "Ray did not start, will try once more: The current node" in caplog.text
    failing = True
    with pytest.raises(ValueError, match="Ray did not start on this machine, twice: The current node timed out"):
        _start_here({})
