"""`python -m benchmarks.gpu`, rehearsed on a CPU; what it leaves is a store that a sweep goes on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_trainings
from benchmarks.harness import Report
from benchmarks.steps import fresh_method, random_episodes, whole_step
from dmf.config import EvaluationConfig
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("ray", "mlflow", "optuna", "pandas", "yaml", "rich", "psutil", "obstore", "jinja2", "xdist")
"""Packages that the command does without."""


def run(*arguments: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_a_rehearsal_leaves_a_store(tmp_path: Path, cache: Path) -> None:
    absent, out = tmp_path / "absent", tmp_path / "out"
    absent.mkdir()
    for name in ABSENT:
        (absent / f"{name}.py").write_text("raise ImportError('not here')\n")
    run(
        *("benchmarks.gpu", "--minutes", "5", "--out", out, "--device", "cpu", "--threads", "1"),
        PYTHONPATH=str(absent),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        DMF_CACHE=str(cache),
    )
    parts = json.loads((out / "summary.json").read_text())["parts"]
    assert list(parts) == list(gpu.PARTS)
    assert parts["tests"]["passed"] > (0 if parts["tests"]["stopped"] else 30) and not parts["tests"]["failed"]
    measured = json.loads((out / "measures.json").read_text())
    assert measured["stated"]["images/s of the step, bf16, G=16"]["measured"] > 0 and not measured["claims"]
    kernels = json.loads((out / "kernels.json").read_text())
    assert sum(row["share"] for row in kernels) == pytest.approx(1) and any("conv" in row["name"] for row in kernels)
    assert parts["trainings"]["done"]

    store, records = out / "store", sorted((out / "store").glob("trainings/*/training.json"))
    before = {path: path.read_bytes() for path in records}
    common = ("--store", store)
    results = ("--results", tmp_path / "results")
    run("orchestrator.sweep", out / "sweep.yaml", *common, *results, "--executor", "local", DMF_CACHE=str(cache))
    assert {path: path.read_bytes() for path in records} == before
    assert "ODE" in run("orchestrator.report", "gpu_table2", *common, "--output", tmp_path / "tables")
    run("orchestrator.archive", "export", "gpu_table2", *common, "-o", tmp_path / "gpu.dmfa")
    run("orchestrator.archive", "import", tmp_path / "gpu.dmfa", "--store", tmp_path / "other")
    assert len(list((tmp_path / "other").glob("trainings/*/training.json"))) >= len(records)


@pytest.mark.parametrize("images", [None, "/images/tinyimagenet_fs"])
def test_the_sweep_file_asks_for_what_is_trained(tmp_path: Path, images: str | None) -> None:
    shared, parts = gpu_trainings.settings_of("cpu", images, 2, 1), gpu_trainings.parts_of("cpu")
    (tmp_path / "sweep.yaml").write_text(gpu_trainings.sweep_file(shared, parts, 20))
    planned = plan(read_spec(tmp_path / "sweep.yaml"))
    assert {trial.key for trial in planned.trials()} == {
        config.key for config in gpu_trainings.configurations(shared, parts)
    }
    tests = {test.key for trial in planned.trials() for test in trial.evaluations}
    assert tests == {EvaluationConfig(episodes=20, shot=1).key}


def test_steps_that_are_tried_compute_the_same() -> None:
    """Compiled without a compiler, as in a rehearsal; what cannot be compiled is left out with the reason."""
    cpu, report = torch.device("cpu"), Report("gpu")
    plain, other = (fresh_method(cpu, backbone="conv64f", groups=16) for _ in range(2))
    images = random_episodes(1, cpu, side=28)
    whole_step(plain, images, "fp32")()
    tried = gpu._tried(report, other, images, "fp32")
    assert list(tried) == [gpu.SEARCHED, gpu.COMPILED] and not report.stated
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(other.get_parameter(name), parameter, rtol=1e-6, atol=1e-7)
    tried[gpu.SEARCHED]()
    assert not torch.backends.cudnn.benchmark

    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler here")

    other.backbone = Broken()
    assert list(gpu._tried(report, other, images, "fp32")) == [gpu.SEARCHED]
    assert report.stated[gpu.COMPILED]["measured"] == "not measured: no compiler here"


def test_a_command_is_interrupted_when_its_time_is_over(tmp_path: Path) -> None:
    """Also below a process that ignores interrupts; the command has time to write its report."""
    report = tmp_path / "report"
    sleeps = f"import time\ntry:\n    time.sleep(600)\nfinally:\n    open({str(report)!r}, 'w')"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not gpu.interrupted([sys.executable, "-S", "-c", ""], 600)
        assert gpu.interrupted([sys.executable, "-S", "-c", sleeps], 5, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert report.exists()


def test_a_training_is_left_however_little_time_there_is(tmp_path: Path) -> None:
    shared, parts = gpu_trainings.settings_of("cpu", None, 2, 1), gpu_trainings.parts_of("cpu")
    tiny = {"training.episodes_per_epoch": 2, "training.episodes_per_step": 1, "training.validation_episodes": 2}
    configs = gpu_trainings.configurations(shared | tiny, parts)[:3]
    gpu_trainings._train(configs, tmp_path, EvaluationConfig(episodes=2), beside=2, end=0.0)
    found = gpu_trainings._standing(tmp_path, configs)
    assert found["done"] == [configs[0].key] and found["not begun"] == [config.key for config in configs[1:]]


def test_outcomes_of_tests_are_counted(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="b"/>'
        '<testcase classname="a" name="c"><failure/></testcase>'
        '<testcase classname="a" name="d"><skipped/></testcase>'
        '<testcase classname="a" name="e"><error/></testcase></testsuite></testsuites>'
    )
    assert gpu.outcomes(report) == {"passed": 1, "failed": ["a.c", "a.e"], "skipped": ["a.d"]}


def test_a_part_that_fails_is_noted_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "measures", fail)
    monkeypatch.setattr(gpu_trainings, "run", lambda *_: {"epochs": 3})
    arguments = ["--minutes", "1", "--out", str(tmp_path), "--device", "cpu", "--parts", "measures", "trainings"]
    assert gpu.main(arguments) == 1
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert parts["measures"]["failed"] == "RuntimeError: no such kernel" and parts["trainings"]["epochs"] == 3


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--minutes", "nan"], ["--minutes", "1", "--threads", "0"]])
def test_mistakes_of_the_user_are_status_2(tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as status:
        gpu.main([*wrong, "--out", str(tmp_path), "--device", "cpu"])
    assert status.value.code == 2
