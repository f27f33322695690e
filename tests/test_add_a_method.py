"""docs/add_a_method.md, followed in a copy of the code: its method passes what every method has to pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/add_a_method.md").read_text(encoding="utf-8")
PACKAGES = ("dmf", "reports", "orchestrator", "tests", "docs")
FILES = re.findall(r"Write\s`([\w./]+)`[^`]*:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
LINES = re.findall(r"In\s`([\w./]+)`, below\s`([^`]+)`:\n\n```\w*\n(.*?)```", TEXT, re.DOTALL)
SWEEP = re.findall(r"```yaml\n(name: .*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with the page's files and lines."""
    place = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    for name, content in FILES:
        assert not (place / name).exists(), name
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(content, encoding="utf-8")
    for name, above, added in LINES:
        lines = (place / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (number,) = (number for number, line in enumerate(lines, 1) if line.strip() == above)
        (place / name).write_text("".join([*lines[:number], added, *lines[number:]]), encoding="utf-8")
    (place / "cosine_centroid.yaml").write_text(SWEEP[0], encoding="utf-8")
    return place


def run(place: Path, *arguments: str) -> str:
    """Run Python in a copy, whose packages come before the installed ones; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_page_has_all_its_files_and_lines() -> None:
    assert [Path(name).name for name, _ in FILES] == ["__init__.py", "config.py", "model.py", "test_cosine_centroid.py"]
    assert len(LINES) == TEXT.count("```") / 2 - len(FILES) - 2 == 7 and len(SWEEP) == 1
    assert "cosine_centroid" not in METHODS


def test_its_method_passes_what_every_method_has_to_pass(copy: Path) -> None:
    run(copy, "-m", "orchestrator.spec.document")
    assert "cosine_centroid_conv64f" in (copy / "docs/sweep_files.md").read_text(encoding="utf-8")
    quiet = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0")
    assert " passed" in run(copy, *quiet, "tests/test_cosine_centroid.py", "tests/test_arrows.py")
    suites = [f"tests/test_{name}.py" for name in ("contract", "methods", "recipes")]
    passed = re.search(r"(\d+) passed", run(copy, *quiet, *suites, "-k", "cosine_centroid"))
    assert passed is not None and int(passed[1]) > 15


def test_its_code_passes_the_linter(copy: Path) -> None:
    changed = [name for name in {*dict(FILES), *(name for name, _, _ in LINES)} if name.endswith(".py")]
    run(copy, "-m", "ruff", "check", "--no-cache", *changed)
    run(copy, "-m", "ruff", "format", "--no-cache", "--check", *changed)


def test_its_sweep_is_planned(copy: Path) -> None:
    told = run(copy, "-m", "orchestrator.sweep", "cosine_centroid.yaml", "--plan", "--store", "runs")
    assert "6 trainings" in told
