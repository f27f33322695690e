"""The README's code runs, and what it points at is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert "assert" in example
    exec(compile(example, "README.md", "exec"), {})


def test_files_that_it_names_are_there() -> None:
    named = re.findall(r"\]\(([\w./]+)\)", TEXT) + re.findall(r"(?:sweeps|tests|dmf)/\w+\.\w+", TEXT)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_targets_that_it_names_are_there() -> None:
    targets = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(f"\n{target}:" in makefile for target in targets)
