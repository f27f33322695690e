"""Trials in this process: their reports, and the effect of a machine fault, a signal and a broken watcher."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dmf.data.sets import DataSet, _opened, open_data
from dmf.records.records import LAST, Epoch, Failure
from orchestrator.running.interrupts import Interrupted, Signals, Stopped
from orchestrator.running.local import InProcess
from orchestrator.running.trial import run_trial
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.sweep import main
from tests.sites import ROOT, learnt
from tests.test_trial import CONFIG, TEST
from tests.tiny import tiny_sweep

TRIAL = Trial(CONFIG, (TEST,))


class Told:
    """A watcher that records its calls."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failure: Failure | None = None

    def check(self) -> None:
        pass

    def started(self, key: str) -> None:
        self.heard.append("started")

    def epoch(self, key: str, epoch: Epoch) -> None:
        self.heard.append(f"epoch {epoch.epoch}")

    def recovering(self, key: str, reason: str | None = None) -> None:
        self.heard.append(f"recovering: {reason}")

    def ended(self, key: str, failure: Failure | None) -> None:
        self.heard.append("ended")
        self.failure = failure


def executor(store: Path, signals: Signals | None = None, max_failures: int = 2) -> InProcess:
    return InProcess(Ledger(store), signals or Signals(), max_failures, keep_weights=True)


def test_a_trial_tells_its_epochs_and_leaves_the_records_of_run_trial(tmp_path: Path) -> None:
    told, there, expected = Told(), Ledger(tmp_path / "local"), Ledger(tmp_path / "expected")
    executor(there.store).run((TRIAL,), told)
    epochs = [f"epoch {number}" for number in range(1, CONFIG.training.epochs + 1)]
    assert told.heard == ["started", *epochs, "ended"] and told.failure is None
    assert learnt(there.training(TRIAL.key)) == learnt(run_trial(CONFIG, (TEST,), expected.store))
    found, test = (ledger.evaluation(TRIAL.key, TEST.key) for ledger in (there, expected))
    assert found is not None and test is not None and found.episode_accuracies == test.episode_accuracies


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A file system that fails with EIO as often as the number in the list says."""
    left = [0]

    def opened(*arguments: object) -> DataSet:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return open_data(*arguments)

    monkeypatch.setattr("dmf.data.sets.open_data", opened)
    _opened.cache_clear()
    yield left
    _opened.cache_clear()


def test_a_fault_of_the_machine_is_tried_again_and_then_fails_the_trial(tmp_path: Path, away: list[int]) -> None:
    ledger, told = Ledger(tmp_path), Told()
    away[0] = 2
    executor(tmp_path, max_failures=1).run((TRIAL,), told)
    fault = "OSError: [Errno 5] Input/output error"
    assert told.heard == ["started", f"recovering: {fault}", "started", "ended"]
    assert told.failure == Failure(reason=f"{fault} (2 times)", kind="machine")
    record = ledger.training(TRIAL.key)
    assert record is not None and record.failure is not None and record.failure.kind == "machine"

    told, away[0] = Told(), 1
    executor(tmp_path, max_failures=1).run((TRIAL,), told)
    assert told.heard[:3] == ["started", f"recovering: {fault}", "started"] and told.failure is None
    assert ledger.state(TRIAL) == "done"


def test_a_watcher_that_breaks_fails_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Told):
        def epoch(self, key: str, epoch: Epoch) -> None:
            raise ZeroDivisionError

    told = Breaks()
    executor(tmp_path).run((TRIAL,), told)
    assert told.failure is None and Ledger(tmp_path).state(TRIAL) == "done"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_reason_to_stop_and_a_signal_wait_for_the_end_of_a_hook(
    number: signal.Signals | None, tmp_path: Path
) -> None:
    signals = Signals()

    class Stops(Told):
        def epoch(self, key: str, epoch: Epoch) -> None:
            if number is None:
                signals.stop("enough")
            else:
                os.kill(os.getpid(), number)
            super().epoch(key, epoch)

    told = Stops()
    with pytest.raises(Stopped if number is None else Interrupted), signals.caught():
        executor(tmp_path, signals).run((TRIAL,), told)
    assert told.heard == ["started", "epoch 1"] and Ledger(tmp_path).state(TRIAL) == "started"


def test_a_signal_ends_a_sweep_within_an_epoch_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = tiny_sweep("tiny", "an epoch that nobody waits for", "  - table: 2c\n", epochs=2)
    Path("tiny.yaml").write_text(long.replace("training.episodes_per_epoch: 8", "training.episodes_per_epoch: 8000000"))

    ended = threading.Event()

    def interrupt() -> None:
        while not list(tmp_path.glob("runs/trainings/*/config.json")):
            time.sleep(0.05)
        while (
            not ended.is_set()
        ):  # one that arrives in a destructor or the like is lost, as Python ignores its exception
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(30)

    threading.Thread(target=interrupt).start()
    try:
        assert main(["tiny.yaml", "--executor", "local"]) == 128 + signal.SIGINT
    finally:
        ended.set()
    assert "stopped by SIGINT; continue with the same command: " in capsys.readouterr().err
    assert not list(tmp_path.glob(f"runs/trainings/*/{LAST}"))


def test_it_does_without_ray(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1))
    program = "import sys; sys.modules['ray'] = None; from orchestrator.sweep import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "tiny.yaml", "--executor", "local"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 training: 1 done" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["look.yaml"], "--executor local: look is a search, which needs Ray Tune"),
        (["tiny.yaml", "--address", "auto"], "--address names a running Ray, but --executor local uses none"),
        (["tiny.yaml", "--trial-timeout", "5m"], "--trial-timeout ends the process of a trial that hangs"),
        (["tiny.yaml", "--plan"], "--executor: --plan and --calibrate run no trials"),
        (["tiny.yaml", "--calibrate"], "--executor: --plan and --calibrate run no trials"),
    ],
)
def test_what_it_can_not_do_is_refused(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1))
    Path("look.yaml").write_text("name: look\nsearch: {trials: 1, parameters: {model.groups: {choice: [1, 64]}}}\n")
    assert main([*arguments, "--executor", "local"]) == 2
    assert told in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [({"training__device": "cuda"}, "PyTorch sees no GPU here"), ({"training__precision": "tf32"}, "needs an NVIDIA")],
)
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_trained(
    tmp_path: Path, missing: dict[str, str], message: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    told = Told()
    with pytest.raises(ValueError, match=message):
        executor(tmp_path).run((TRIAL, Trial(CONFIG.replace(**missing), ())), told)
    assert told.heard == []
