"""The store: consistent whenever a process dies, with one driver at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.machine.files import locked, wait_for
from dmf.records.records import FORMAT, Failure, TrainingRecord
from orchestrator.running.faults import kind_of
from orchestrator.spec.plan import SweepPlan, Trial
from orchestrator.store.ledger import Ledger
from tests.records_in_memory import evaluation_of

CONFIG = ExperimentConfig()
TEST = EvaluationConfig(episodes=2, shot=1)
TRIAL = Trial(CONFIG, (TEST,))
EVALUATION = evaluation_of(CONFIG.key, TEST)
ROOT = Path(__file__).resolve().parents[1]

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.store.ledger import Ledger
with Ledger(Path(sys.argv[1])).driving(wait="wait" in sys.argv):
    print("driving", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def training(outcome: str, failure: Failure | None = None) -> TrainingRecord:
    return TrainingRecord(format=FORMAT, key=CONFIG.key, config=CONFIG, outcome=outcome, failure=failure)  # type: ignore[arg-type]


def test_a_plan_that_can_not_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger, plan = Ledger(tmp_path), SweepPlan(name="s", about="", cells=())
    ledger.write_plan(plan)
    old = tmp_path / "sweeps" / "old" / "plan.json"
    old.parent.mkdir()
    old.write_text('{"name": "old", "cels": []}')
    assert ledger.plans() == {"s": plan}
    assert f"{old} cannot be read" in caplog.text
    with pytest.raises(ValueError, match="cels"):
        ledger.plan("old")


def test_a_driver_removes_what_a_killed_one_left_of_ray_s(tmp_path: Path) -> None:
    (tmp_path / "ray" / "s-20260101T000000-0123ab" / "trial").mkdir(parents=True)
    with Ledger(tmp_path).driving():
        assert list((tmp_path / "ray").iterdir()) == []


def test_a_folder_of_the_users_is_not_taken_for_ray_s(tmp_path: Path) -> None:
    """As where --store names a folder with other things."""
    mine = tmp_path / "ray" / "python" / "mine.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with Ledger(tmp_path).driving():
        assert mine.read_text() == "mine"


def test_the_state_follows_the_files(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.state(TRIAL) == "missing"
    ledger.folder(TRIAL.key).mkdir(parents=True)
    (ledger.folder(TRIAL.key) / "last.safetensors").touch()
    assert ledger.state(TRIAL) == "started"
    ledger.write_training(training("failed", Failure(reason="no images")))
    assert ledger.state(TRIAL) == "failed"
    ledger.write_training(training("finished"))
    assert ledger.state(TRIAL) == "untested"
    ledger.write_evaluation(EVALUATION)
    assert ledger.state(TRIAL) == "done"
    assert ledger.state(Trial(CONFIG, (TEST, TEST.replace(episodes=3)))) == "untested"
    ledger.write_training(training("diverged", Failure(reason="nan")))
    assert ledger.state(TRIAL) == "diverged"
    ledger.forget(TRIAL.key)
    assert ledger.state(TRIAL) == "missing"


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.training(CONFIG.key) is None and ledger.evaluation(CONFIG.key, TEST.key) is None
    ledger.write_training(training("finished"))
    ledger.write_evaluation(EVALUATION)
    assert ledger.training(CONFIG.key) == training("finished")
    assert ledger.evaluation(CONFIG.key, TEST.key) == EVALUATION == ledger.evaluations(CONFIG.key)[0]


def test_a_writer_that_dies_leaves_the_old_record(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write_training(training("finished"))
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom dmf.machine.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('{\"key\": ')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = ledger.folder(CONFIG.key) / "training.json"
    died = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert died.returncode == -signal.SIGKILL
    assert ledger.training(CONFIG.key) == training("finished")
    assert len(list(path.parent.iterdir())) == 2, "the dead writer's file is there"
    with ledger.holding(CONFIG.key):
        left = sorted(file.name for file in path.parent.iterdir())
    assert left == [".lock", "training.json"]


def driver(store: Path, seconds: float, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(store), str(seconds), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_second_driver_is_refused_and_a_dead_one_loses_its_lease(tmp_path: Path) -> None:
    first = driver(tmp_path, 60)
    assert first.stdout is not None and first.stdout.readline() == "driving\n"
    with pytest.raises(BlockingIOError, match=f"process {first.pid} on .*--wait"), Ledger(tmp_path).driving():
        pass
    waiting = driver(tmp_path, 0, "wait")
    time.sleep(0.3)
    assert waiting.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert waiting.wait(timeout=20) == 0
    with Ledger(tmp_path).driving():
        pass


def test_a_training_is_running_while_it_is_held(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert not ledger.running(CONFIG.key)
    with ledger.holding(CONFIG.key):
        assert ledger.running(CONFIG.key)
    assert not ledger.running(CONFIG.key)


def test_an_unknown_sweep_is_answered_with_those_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sweep 'x' was started in .*; there are: none"):
        Ledger(tmp_path).plan("x")


HOLD_A_TRAINING = """
import sys, time
from pathlib import Path
from orchestrator.store.ledger import Ledger
with Ledger(Path(sys.argv[1])).holding(sys.argv[2]):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_frozen_process_is_not_waited_for_without_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_A_TRAINING, str(tmp_path), CONFIG.key]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
    holder.send_signal(signal.SIGSTOP)
    told = f"process {holder.pid} on .* has held .*lock for 1 s"
    with pytest.raises(TimeoutError, match=told) as raised, Ledger(tmp_path).holding(CONFIG.key, 1.0):
        pass
    assert kind_of(raised.value) == "machine"
    holder.kill()
    holder.wait()
    with Ledger(tmp_path).holding(CONFIG.key, 1.0) as folder:
        assert f"process {os.getpid()} on " in (folder / ".lock").read_text()


def test_who_works_long_and_touches_its_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path), open(path, "a+") as lock:
        stop = time.monotonic() + 1.5
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for, lock, 0.5)
            while time.monotonic() < stop:
                os.utime(path)
                time.sleep(0.1)
                assert not waiting.done()
            with pytest.raises(TimeoutError):
                waiting.result()
