"""The command line, as users run it: real sweeps on the embedded glyphs with Ray and MLflow, in one store.

The tests build on each other in the order of the file: a sweep is interrupted, goes on, loses a worker, is extended.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmf.config import ExperimentConfig
from dmf.records.records import FORMAT, TrainingRecord
from dmf.records.staleness import Today
from orchestrator.costs.describe import describe
from orchestrator.running import cluster
from orchestrator.running.interrupts import Signals
from orchestrator.spec.file import read_spec, spec_from
from orchestrator.spec.model import Resources
from orchestrator.spec.plan import Trial, plan
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import Standing
from orchestrator.sweep import main, summary
from orchestrator.tracking.names import EXPERIMENT
from orchestrator.tracking.reader import MLflowRecords
from orchestrator.tracking.server import tracking_uri
from tests.tiny import tiny_sweep

ROOT = Path(__file__).resolve().parents[1]
PARTS = """
  - table: 2c
    grid: {model.groups: [1, 64]}
  - table: 2d
    trials: [{}, {training.learning_rate: 1.0e+30}]
"""
SPEC = tiny_sweep("tiny", "two trainings that take a while, and one that diverges", PARTS, epochs=25)
START_SECONDS = 300
"""Until Ray runs, on a slow machine that does other things too."""


class Site:
    """A folder to run the command line in, away from the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ledger = folder, Ledger(folder / "runs")
        self.spec = folder / "tiny.yaml"
        self.spec.write_text(SPEC)
        self.output = folder / "output.txt"
        self.paths = (str(ROOT),)
        """From which its processes import, besides what is installed."""

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        self.output.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(self.paths)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with open(self.output, "wb") as output:
            command = [sys.executable, "-m", "orchestrator.sweep", "tiny.yaml", *more]
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def run(self, *more: str) -> int:
        return self.start(*more).wait(timeout=START_SECONDS)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def until_epoch(self, process: subprocess.Popen[bytes], number: int) -> None:
        """Wait until a training of this sweep has a checkpoint of its epoch `number`."""
        deadline = time.monotonic() + START_SECONDS
        while not any(number <= at for at in self.epochs()):
            assert process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def epochs(self) -> list[int]:
        from dmf.records.checkpoints import read_checkpoint

        paths = self.ledger.store.glob("trainings/*/last.safetensors")
        found = []
        for path in paths:
            try:
                found.append(len(read_checkpoint(path)[1]["history"]))
            except FileNotFoundError:  # its training has ended meanwhile
                continue
        return found

    def trials(self, *overrides: str) -> tuple[Trial, ...]:
        return plan(read_spec(self.spec, overrides)).trials()

    def states(self, *overrides: str) -> list[str]:
        return [self.ledger.state(trial) for trial in self.trials(*overrides)]

    def statuses(self) -> dict[str, str]:
        """In MLflow, by training key; the sweep's under its name."""
        client = MlflowClient(tracking_uri(self.ledger.store, None))
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id])
        found = {run.data.tags.get("dmf.key", run.data.tags["dmf.sweep"]): run.info.status for run in runs}
        assert len(found) == len(runs), "a training has two runs"
        return found

    def files(self) -> dict[Path, int]:
        """Every record and when it was written."""
        return {path: path.stat().st_mtime_ns for path in self.ledger.store.glob("trainings/**/*.json")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def descendants(process: subprocess.Popen[bytes]) -> list[int]:
    """Ids of all processes under a driver, from /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended meanwhile
            continue
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


def listening(process: subprocess.Popen[bytes]) -> set[str]:
    """Addresses (hexadecimal, as /proc has them) on which a driver and its processes accept connections."""
    tables = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    address_of = {f"socket:[{row[9]}]": row[1].split(":")[0] for row in tables if row[3] == "0A"}
    files = (file for pid in descendants(process) for file in Path(f"/proc/{pid}/fd").iterdir())
    open_files = {os.readlink(file) for file in files if file.is_symlink()}
    return {address for socket, address in address_of.items() if socket in open_files}


def test_a_terminated_sweep_says_how_to_go_on_and_leaves_true_statuses(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    process = site.start()
    try:
        site.until_epoch(process, 2)
        if Path("/proc/net/tcp6").exists():
            assert (addresses := listening(process)) and all(each.endswith("0100007F") for each in addresses)
        assert main([str(site.spec), "--store", str(site.ledger.store)]) == 2
        assert f"in use by process {process.pid}" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM, site.said
    assert "stopped by SIGTERM; go on with the same command: python -m orchestrator.sweep tiny.yaml" in site.said
    cut = [trial.key for trial in site.trials() if site.ledger.state(trial) in ("started", "untested")]
    statuses = site.statuses()
    assert cut and statuses["tiny"] == "KILLED"
    assert {statuses[key] for key in cut if key in statuses} == {"KILLED"}
    assert "RUNNING" not in statuses.values()
    assert workers(process) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker in /proc")
def test_it_goes_on_survives_the_loss_of_a_worker_and_ends_with_every_record(site: Site) -> None:
    resumed_at = max(site.epochs())
    process = site.start()
    site.until_epoch(process, resumed_at + 1)
    os.kill(workers(process)[0], signal.SIGKILL)
    assert process.wait(timeout=START_SECONDS) == 0, site.said
    assert "lost its process, goes on from its checkpoint" in site.said
    assert sorted(site.states()) == ["diverged", "done", "done"]
    keys = [trial.key for trial in site.trials()]
    assert site.statuses() == {"tiny": "FINISHED", **dict.fromkeys(keys, "FINISHED")}
    assert f"mlflow ui --backend-store-uri sqlite:///{site.ledger.store}/mlflow.db" in site.said
    assert (site.folder / "results" / "tiny" / "table_2c.csv").is_file()


def test_mlflow_has_every_epoch_once_and_gives_the_records_back(site: Site) -> None:
    uri = tracking_uri(site.ledger.store, None)
    client, records = MlflowClient(uri), MLflowRecords(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    for trial in site.trials():
        record = site.ledger.training(trial.key)
        assert record is not None and records.training(trial.key) == record
        (run,) = client.search_runs([experiment.experiment_id], f"tags.`dmf.key` = '{trial.key}'")
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
        assert sorted(steps) == [epoch.epoch for epoch in record.history]
        for evaluation in trial.evaluations:
            test = site.ledger.evaluation(trial.key, evaluation.key)
            assert records.evaluation(trial.key, evaluation.key) == test
            if test is not None:
                assert run.data.metrics["test_accuracy/5way_1shot"] == test.accuracy


def test_started_again_it_trains_nothing(site: Site) -> None:
    before = site.files()
    assert site.run() == 0, site.said
    assert "3 trainings, 3 done, 0 to run" in site.said
    assert site.files() == before


def test_more_episodes_test_again_a_new_cell_trains_and_a_failing_one_stops_nothing(site: Site) -> None:
    before = {path: time_ for path, time_ in site.files().items() if path.name == "training.json"}
    broken = "{table: '1', set: {data.name: mini_imagenet, data.root: /nowhere}}"
    added = "{table: 2c, set: {training.epochs: 2}, grid: {model.groups: [16]}}"
    more = (f"  - {broken}\n", f"  - {added}\n")
    site.spec.write_text(SPEC.replace("episodes: 4}", "episodes: 5}") + "".join(more))
    assert site.states() == ["untested", "untested", "diverged", "missing", "missing"]
    assert site.run() == 1, site.said
    assert site.states() == ["done", "done", "diverged", "failed", "done"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    failed = site.ledger.training(site.trials()[3].key)
    assert failed is not None and failed.failure is not None and "/nowhere" in failed.failure.reason
    assert "/nowhere" in site.said
    statuses = site.statuses()
    assert (statuses["tiny"], statuses[failed.key]) == ("FAILED", "FAILED")
    assert list(statuses.values()).count("FINISHED") == 4


def test_the_plan_starts_nothing_and_says_what_would_be_done(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before = site.files()
    assert main([str(site.spec), "--plan", "--store", str(site.ledger.store), "seeds=[0,1]"]) == 0
    said = capsys.readouterr().out
    assert "12 trainings asked for, 10 distinct (2 duplicates removed)" in said
    assert "table 2c, 2d" in said and "  failed: " in said and "5 to train" in said
    assert site.files() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--store", "/dev/null/x"], "--store: /dev/null/x can not be written to: Not a directory"),
        (["--results", "/dev/null"], "--results: /dev/null/tiny can not be written to: Not a directory"),
        (["--address", "ray://head:10001"], "start the sweep on the cluster's head node with --address auto"),
        (["--tracking-uri", "foo://x"], "MLflow does not answer at foo://x"),
        (["--tracking-uri", "sqlite:////dev/null/x.db"], "MLflow's database /dev/null/x.db can not be written"),
    ],
)
def test_what_can_not_work_is_told_in_a_sentence_before_anything_is_trained(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    places = ["--store", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main([str(tmp_path / "tiny.yaml"), *places, *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "runs" / "trainings").exists()


def test_a_plan_that_nobody_reads_to_its_end_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "orchestrator.sweep", "tiny.yaml", "--plan"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_images_that_lay_elsewhere_are_told(tmp_path: Path) -> None:
    spec = spec_from({"name": "s", "set": {"data.root": "/new"}, "parts": [{"table": "2c"}]})
    planned, ledger = plan(spec), Ledger(tmp_path)
    (trial,) = planned.trials()
    for root, told in (("/old", True), ("/new", False)):
        config = trial.config.replace(data__root=root)
        ledger.write_training(TrainingRecord(format=FORMAT, key=trial.key, config=config, outcome="diverged"))
        assert ("trained on images at /old" in describe(spec, planned, ledger, Today())) == told
        said = summary((trial,), {trial.key: Standing("diverged")}, ledger, {})
        assert ("trained on images at /old, not at /new" in said) == told


@pytest.mark.parametrize(
    ("resources", "nodes", "told"),
    [
        ({"cpu": 3}, [{"CPU": 2.0}] * 2, "3 CPUs and 0 GPUs of one node, and Ray's nodes have 2 CPUs and 0 GPUs;"),
        ({"cpu": 2, "gpu": 1}, [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}], "2 CPUs and 0 GPUs or 1 CPUs and 1 GPUs"),
    ],
)
def test_a_trial_must_fit_on_one_node(resources: dict[str, float], nodes: list[dict[str, float]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cluster.request(ExperimentConfig(), Resources.from_dict(resources), nodes)
    enough = [*nodes, {"CPU": 8.0, "GPU": 1.0}]
    assert cluster.request(ExperimentConfig(), Resources.from_dict(resources), enough)["CPU"] >= 2


def test_nothing_is_collected_while_ray_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    collects: list[bool] = []
    monkeypatch.setattr(cluster.ray, "init", lambda *arguments, **named: None)
    monkeypatch.setattr(cluster.ray, "nodes", list)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: collects.append(gc.isenabled()))
    with pytest.raises(KeyError), cluster.cluster(None, Signals(), ROOT):
        raise KeyError
    assert collects == [False] and gc.isenabled()


def test_a_mistake_starts_nothing(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(site.spec), "model.grups=3", "--store", str(tmp_path / "runs")]) == 2
    assert "did you mean model.groups?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
