"""Which code a number comes from: what counts for its hash, and what does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmf import provenance
from dmf.provenance import code_hash

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of the code."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for part in ("dmf", "csrc"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    return tmp_path


def hash_of(root: Path) -> str:
    command = [sys.executable, "-c", "from dmf.provenance import code_hash; print(code_hash())"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_copy_has_the_same_hash(copy: Path) -> None:
    assert hash_of(copy) == code_hash() and len(code_hash()) == 16


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        ("dmf/training.py", "0.5 * (1 + math.cos", "0.4 * (1 + math.cos", True),
        ("dmf/methods/dmf.py", "self.", "self. ", True),
        ("dmf/episodes.py", "import torch\n", "import torch\nDRAWN_OTHERWISE = 1\n", True),
        ("csrc/sampling.h", "};", "};  int more;", True),
        ("dmf/training.py", '"""', '"""Other words. ', False),
        ("dmf/training.py", "import logging\n", "# a remark\n\nimport logging  # another\n", False),
        ("csrc/sampling.h", "\n", "\n// a remark\n", False),
        ("dmf/records.py", "import Annotated, Literal", "import Annotated, Any, Literal", False),
        ("dmf/train.py", "import argparse", "import os, argparse", False),
    ],
)
def test_what_makes_numbers_counts_and_words_about_it_do_not(
    copy: Path, name: str, old: str, new: str, counts: bool
) -> None:
    path = copy / name
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    assert (hash_of(copy) != code_hash()) == counts


def test_the_modules_are_those_that_a_trial_imports() -> None:
    names = {path.relative_to(provenance.HERE).as_posix() for path in provenance._modules()}
    assert {"training.py", "evaluation.py", "methods/dmf.py", "methods/__init__.py", "aligned_score.py"} <= names
    assert {"data.py", "layouts.py", "image_cache.py", "glyphs.py", "config.py", "augment.py"} <= names
    assert not names & {"train.py", "evaluate.py", "released.py", "records.py", "provenance.py"}
