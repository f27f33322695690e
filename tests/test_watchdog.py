"""A process that hangs is ended and leaves its stack traces; one that shows signs of life is not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmf.machine.watchdog import alive, watched

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
