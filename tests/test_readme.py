"""The README's code runs, and what it points at is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_first_example_runs() -> None:
    assert "assert" in EXAMPLES[0]
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})


def test_a_trained_model_classifies_files(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [each for each in EXAMPLES if "dmf.load" in each]
    shutil.copytree(trainings / "ended", tmp_path / "runs/trainings/KEY")
    for number, name in enumerate(re.findall(r"\w+\.jpg", example)):
        Image.new("RGB", (40, 30), (40 * number, 100, 50)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert re.match(r"\['(oak|elm)', '(oak|elm)'\]\ntensor", capsys.readouterr().out)


def test_files_that_it_names_are_there() -> None:
    named = re.findall(r"\]\(([\w./]+)\)", TEXT) + re.findall(r"(?:sweeps|tests|dmf)/\w+\.\w+", TEXT)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_targets_that_it_names_are_there() -> None:
    targets = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(f"\n{target}:" in makefile for target in targets)
