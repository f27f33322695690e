"""A process that hangs ends itself and leaves its stacks; one that shows signs of life does not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmf.machine.watchdog import SIGNS_TOLD, alive, unwatched, watched

HANGS = """
import sys, threading
from pathlib import Path
from dmf.machine.watchdog import watched
def stuck_here():
    threading.Event().wait()
with watched(0.5, Path(sys.argv[1])):
    stuck_here()
"""
HOLDS_THE_INTERPRETER_LOCK = """
import sys
from pathlib import Path
from dmf.machine.watchdog import watched
with watched(0.5, Path(sys.argv[1])):
    (10 ** 9) ** (10 ** 9)
"""


@pytest.mark.parametrize("program", [HANGS, HOLDS_THE_INTERPRETER_LOCK])
def test_what_hangs_is_ended_with_its_stacks(program: str, tmp_path: Path) -> None:
    stacks = tmp_path / "stacks.txt"
    done = subprocess.run([sys.executable, "-c", program, str(stacks)], timeout=120, check=False)
    assert done.returncode == 1
    told = stacks.read_text()
    assert "Timeout" in told and ("stuck_here" in told or program is HOLDS_THE_INTERPRETER_LOCK)


def test_signs_of_life_keep_it_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmf.machine.watchdog.SECONDS_BETWEEN_SIGNS", 0.0)
    stacks = tmp_path / "stacks.txt"
    with watched(2.0, stacks):
        for _ in range(30):
            time.sleep(0.1)
            alive()
    assert not stacks.exists()


def test_after_the_watch_nothing_ends_the_process(tmp_path: Path) -> None:
    with watched(0.3, tmp_path / "stacks.txt"):
        pass
    time.sleep(0.6)
    alive()
    assert list(tmp_path.iterdir()) == []


WAITS_FOR_ITS_DRIVER = """
import sys, time
from pathlib import Path
from dmf.machine.watchdog import unwatched, watched
with watched(0.5, Path(sys.argv[1])):
    with unwatched():
        time.sleep(2)
    print("waited", flush=True)
    time.sleep(60)
"""


def test_a_wait_for_the_driver_does_not_count_and_what_comes_after_it_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITS_FOR_ITS_DRIVER, str(tmp_path / "stacks.txt")]
    done = subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "waited\n") and "Timeout" in (tmp_path / "stacks.txt").read_text()


def test_signs_are_passed_on_a_few_times_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmf.machine.watchdog.SECONDS_BETWEEN_SIGNS", 0.0)
    told: list[float] = []
    with watched(1.0, tmp_path / "stacks.txt", lambda: told.append(time.monotonic())):
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            time.sleep(0.005)
            alive()
        with unwatched():
            pass
    assert 2 <= len(told) <= SIGNS_TOLD + 2
