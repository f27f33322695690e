"""What a process measures and writes: peak memory of each training, and the mode of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TWO_TRAININGS = """
import torch
from dmf.machine.device import peak_bytes, reset_peak, set_up
cpu = torch.device("cpu")
set_up(1)
reset_peak(cpu)
small = [torch.ones(2**20) for _ in range(10)]
alone = peak_bytes(cpu)
del small
large = [torch.ones(2**20) for _ in range(200)]
del large
reset_peak(cpu)
small = [torch.ones(2**20) for _ in range(10)]
print(alone / 2**20, peak_bytes(cpu) / 2**20)
"""
WRITES = """
import os, sys
os.umask(int(sys.argv[2], 8))
from dmf.machine.files import write_text
write_text(sys.argv[1], "text")
print(oct(os.stat(sys.argv[1]).st_mode & 0o777))
"""


def said_by(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can only be reset on Linux")
def test_a_small_training_after_a_large_one_has_its_own_peak() -> None:
    alone, after = map(float, said_by(TWO_TRAININGS).split())
    assert after < alone + 50, "800 MB were freed before"


@pytest.mark.parametrize(("umask", "mode"), [("022", "0o644"), ("077", "0o600"), ("002", "0o664")])
def test_files_have_the_mode_that_the_umask_leaves(umask: str, mode: str, tmp_path: Path) -> None:
    assert said_by(WRITES, tmp_path / "file", umask) == mode
    assert os.listdir(tmp_path) == ["file"]
