"""Sweeps over several Ray nodes, each with its own address, one of which is lost while it trains."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmf.records.provenance import code_hash
from dmf.records.records import EVALUATIONS, RECORD, TrainingRecord
from dmf.values import unsealed
from orchestrator.store.bucket.mirror import RemoteStore
from tests.s3_server import ENVIRONMENT, free_port, s3_server, uri
from tests.sites import START_SECONDS, Site, descendants, trainings_of
from tests.test_remote import contents
from tests.test_sweep import PARTS
from tests.tiny import tiny_sweep

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc"),
]
SPEC = tiny_sweep("tiny", "two trainings that take a while, and one that diverges", PARTS, epochs=25)
CLUSTER = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
"""Makes the head give up a silent node, and a node its head, after some 20 s instead of minutes."""
STARTS = 4
"""Gives a node time to start: on a busy machine, Ray would give up after 30 s."""
EPOCHS_BEFORE = 3
"""Epochs that a training has done when its node is lost."""


class Node:
    """`ray start` on an address, with all its processes; `within` is the prefix for commands on its host."""

    def __init__(self, folder: Path, address: str, *options: str, within: tuple[str, ...] = ()) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={address}"]
        sizes = ["--num-cpus=1", "--object-store-memory=100000000"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        self.command = [*within, *ray, *sizes, *ports, *options]
        self.said = folder / f"node-{address}.txt"
        for _ in range(STARTS):
            if self._started():
                return
        raise AssertionError(self.said.read_text())

    def _started(self) -> bool:
        with open(self.said, "wb") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in self.said.read_text():
                return True
            time.sleep(0.2)
        self.kill()
        return False

    def trains(self) -> set[str]:
        """Keys of the trainings that its workers have open."""
        return {key for pid in descendants(self.process) for key in trainings_of(pid)}

    def kill(self) -> None:
        """SIGKILL everything at once, as a power cut does."""
        for pid in [*descendants(self.process), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # orphans of a failed start
        self.process.wait()


class Nodes:
    """A head and the workers that joined it."""

    def __init__(self, folder: Path, head: str, within: tuple[str, ...] = ()) -> None:
        self.folder, self.temporary = folder, tempfile.mkdtemp(prefix="ray-")  # Ray's sockets need a short path
        port = free_port()
        self.address = f"{head}:{port}"
        options = ("--head", "--include-dashboard=false", f"--port={port}", f"--temp-dir={self.temporary}")
        self.all = [Node(folder, head, *options, within=within)]

    def join(self, address: str, within: tuple[str, ...] = ()) -> None:
        self.all.append(Node(self.folder, address, f"--address={self.address}", within=within))

    def close(self) -> None:
        for node in self.all:
            node.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)


class SiteOnNodes(Site):
    """A site whose sweeps run on a cluster; `within` is the prefix for commands on the driver's host."""

    def __init__(self, folder: Path, address: str, within: tuple[str, ...] = (), spec: str = SPEC) -> None:
        super().__init__(folder, spec)
        self.address, self.within = address, within

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(self.paths)}
        command = [*self.within, sys.executable, "-m", "orchestrator.sweep", "tiny.yaml", "--address", self.address]
        with open(self.output, "wb") as output:
            return subprocess.Popen([*command, *more], cwd=self.folder, env=environment, stdout=output, stderr=output)


@pytest.fixture(autouse=True)
def _cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Three nodes on this machine."""
    nodes = Nodes(tmp_path, "127.0.0.10")
    try:
        for number in (11, 12):
            nodes.join(f"127.0.0.{number}")
        yield nodes
    finally:
        nodes.close()


def sweep_that_loses(site: Site, workers: list[Node], lose: Callable[[Node], None]) -> tuple[str, list[dict]]:
    """Run a sweep to its end and kill one of `workers` in the middle of a training; return its key and epochs then."""
    process = site.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            busy = [(node, key, site.history(key)) for node in workers for key in node.trains()]
            if far := [each for each in busy if len(each[2]) >= EPOCHS_BEFORE]:
                break
            assert process.poll() is None and time.monotonic() < deadline, site.said
            time.sleep(0.05)
        node, key, before = far[0]
        lose(node)
        assert process.wait(timeout=3 * START_SECONDS) == 0, site.said
    finally:
        process.kill()
        process.wait()
    return key, before


def assert_nothing_was_lost(site: Site, key: str, before: list[dict], folder: Path) -> None:
    """Check that all records equal those of a sweep that lost nothing, and that `key` continued after `before`."""
    assert "lost its process, continues from its checkpoint" in site.said
    assert sorted(site.states()) == ["diverged", "done", "done"]
    site.assert_went_on(key, before)
    site.assert_learnt_as_in(folder, *site.trials())


def assert_mlflow_has_every_epoch_once(site: Site) -> None:
    states = {trial.key: site.ledger.state(trial) for trial in site.trials()}
    ended = {key: "FAILED" if state == "diverged" else "FINISHED" for key, state in states.items()}
    assert site.statuses() == {"tiny": "FINISHED", **ended}
    site.assert_mlflow_has(*site.trials())


def test_a_training_whose_node_dies_goes_on_at_another(nodes: Nodes, tmp_path: Path) -> None:
    site = SiteOnNodes(tmp_path, nodes.address)
    key, before = sweep_that_loses(site, nodes.all[1:], Node.kill)
    assert_nothing_was_lost(site, key, before, tmp_path / "undisturbed")
    assert_mlflow_has_every_epoch_once(site)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, tuple[str, ...]]]:
    """Two connected hosts as network namespaces: address -> prefix for commands there."""
    if shutil.which("ip") is None:
        pytest.skip("there is no command ip (package iproute2) to make network namespaces with")
    token = secrets.token_hex(3)
    names = {f"dmf-{token}-{number}": f"10.77.0.{number}" for number in (1, 2)}
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            first, second = names
            ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces can be made here: {error.stderr.decode().strip()}")
        for name, address in names.items():
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield {address: ("ip", "netns", "exec", name) for name, address in names.items()}
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_a_training_whose_host_is_cut_off_goes_on_at_another(hosts: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    (head, within_head), (other, within_other) = hosts.items()

    def pull_the_plug(node: Node) -> None:
        ip("-n", within_other[-1], "link", "set", "cable", "down")

    nodes = Nodes(tmp_path, head, within_head)
    try:
        nodes.join(other, within_other)
        site = SiteOnNodes(tmp_path, nodes.address, within_head)
        key, before = sweep_that_loses(site, nodes.all[1:], pull_the_plug)
        assert_nothing_was_lost(site, key, before, tmp_path / "undisturbed")
        assert_mlflow_has_every_epoch_once(site)
    finally:
        nodes.close()


TWO_AND_ONE_WITHOUT_IMAGES = """
  - {table: 2c, grid: {model.groups: [1, 64]}}
  - {table: '1', set: {data.name: mini_imagenet, data.root: /nowhere}}
"""


@pytest.fixture
def shared_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in an object store that every later process may use, with its own cache folder for this machine."""
    for name, value in {**ENVIRONMENT, "DMF_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path) as port:
        yield uri(port, "runs")


def record_in(remote: RemoteStore, key: str) -> TrainingRecord:
    return TrainingRecord.model_validate_json(unsealed(contents(remote, f"trainings/{key}/{RECORD}"), key))


def test_nodes_without_a_folder_in_common_get_the_driver_s_code_and_bring_records_to_an_object_store(
    shared_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a node's workers would find the code in the folder where it was started,
    monkeypatch.delenv("PYTHONPATH", raising=False)  # or here
    nodes = Nodes(tmp_path, "127.0.0.10")
    try:
        nodes.join("127.0.0.11")
        spec = tiny_sweep("tiny", "two trainings, and one that fails", TWO_AND_ONE_WITHOUT_IMAGES, 2)
        site = SiteOnNodes(tmp_path, nodes.address, spec=spec)
        assert site.start("--store", shared_store).wait(timeout=START_SECONDS) == 1, site.said
    finally:
        nodes.close()
    assert "3 trainings: 2 done, 1 failed" in site.said
    remote, (*trained, broken) = RemoteStore.at(shared_store), site.trials()
    for trial in trained:
        record = record_in(remote, trial.key)
        assert record.outcome == "finished" and record.provenance is not None
        assert record.provenance.code == code_hash(trial.config, "cpu")
        tests = {f"trainings/{trial.key}/{EVALUATIONS}/{evaluation.key}.json" for evaluation in trial.evaluations}
        assert tests <= remote.names(f"trainings/{trial.key}").keys()
    failure = record_in(remote, broken.key).failure
    assert failure is not None and "/nowhere" in failure.reason
    files = re.findall(r'File "(/\S+/orchestrator/running/trial\.py)"', failure.traceback)
    assert files and all(file.startswith(f"{nodes.temporary}/") for file in files), failure.traceback


BAD = """
import os
if os.environ.get("OF_A_BAD_NODE"):
    import errno, sys
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "orchestrator.running.trial":
                raise OSError(errno.EIO, "Input/output error", "/its/disk")
    sys.meta_path.insert(0, Finder())
"""
"""In the workers of one node: a disk that fails."""
SIX = "  - {table: 2c, grid: {model.groups: [1, 2, 4, 8, 16, 32]}}\n"


def test_a_node_on_which_trials_fail_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sitecustomize.py").write_text(BAD)
    nodes = Nodes(tmp_path, "127.0.0.10")
    try:
        with monkeypatch.context() as patch:
            patch.setenv("OF_A_BAD_NODE", "1")
            nodes.join("127.0.0.11")
        site = SiteOnNodes(tmp_path, nodes.address, spec=tiny_sweep("tiny", "six trainings", SIX, epochs=3))
        site.paths = (*site.paths, str(tmp_path / "bad"))
        process = site.start()
        try:
            assert process.wait(timeout=START_SECONDS) == 0, site.said
        finally:
            process.kill()
            process.wait()
    finally:
        nodes.close()
    assert site.states() == ["done"] * 6
    failures = site.said.count("OSError: [Errno 5] Input/output error: '/its/disk', continues from its checkpoint")
    assert 1 <= failures <= 4, site.said
    if failures > 1:
        assert (
            "node 127.0.0.11: 2 trials in a row failed there through their machine's fault; it gets none for 60 s"
            in (site.said)
        )
