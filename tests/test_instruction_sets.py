"""The compiled operators as processors without AVX-512, and without AVX2, run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.ops import library as operators

ROOT = Path(__file__).resolve().parents[1]
FILES = ("tests/test_aligned_score.py", "tests/test_dynamic_sampling.py")
SLOW = "cuda_source or gradcheck or opcheck"
"""Tests whose results the others imply, or that compile something else."""
HELD = """
import sys, pytest, torch
from dmf.ops import library

print(torch.backends.cpu.get_cpu_capability(), torch.ops.dmf.vector_bytes())
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("capability", "bytes_"), [("avx2", 32), ("default", 16)])
def test_every_instruction_set_gives_the_definitions_numbers(capability: str, bytes_: int) -> None:
    if "cpu" not in operators.COMPILED:
        pytest.skip("no compiled operator; python setup.py build_ext --inplace makes it")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not gpu", "-k", f"not ({SLOW})", *FILES]
    done = subprocess.run(
        [sys.executable, "-c", HELD, *options],
        cwd=ROOT,
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    held, vectors = done.stdout.split()[:2]
    if held != capability.upper():
        pytest.skip(f"this processor has no {capability}")
    assert int(vectors) == bytes_
