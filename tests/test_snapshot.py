"""The copy of the code that a sweep makes at its start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.config import ExperimentConfig
from dmf.records import provenance
from dmf.records.provenance import code_hash
from orchestrator.store import snapshot as module
from orchestrator.store.snapshot import snapshot

ROOT = Path(__file__).resolve().parents[1]


def test_the_copy_is_what_runs_and_has_the_same_hash(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    program = "import dmf, orchestrator.running.tune, reports.fill; from dmf.config import ExperimentConfig; "
    program += "from dmf.records.provenance import code_hash as of; print(dmf.__file__, of(ExperimentConfig(), 'cuda'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(folder / "dmf" / "__init__.py"), code_hash(ExperimentConfig(), "cuda")]


def test_the_same_code_is_kept_once_and_other_code_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, store = tmp_path / "code", tmp_path / "store"
    (code / "dmf").mkdir(parents=True)
    (code / "dmf" / "a.py").write_text("a = 1\n")
    (code / "dmf" / "notes.txt").write_text("not code\n")
    monkeypatch.setattr(module, "ROOT", code)
    first = snapshot(store)
    assert snapshot(store) == first and [path.name for path in (first / "dmf").iterdir()] == ["a.py"]
    (first / "dmf" / "a.py").write_text("")  # as after a power cut
    assert snapshot(store) == first and (first / "dmf" / "a.py").read_text() == "a = 1\n"
    (code / "dmf" / "a.py").write_text("a = 2\n")
    second = snapshot(store)
    assert second != first and (first / "dmf" / "a.py").read_text() == "a = 1\n"
    assert sorted(path.name for path in (store / "code").iterdir()) == sorted([first.name, second.name])


def test_the_copy_knows_the_commit_that_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from dmf.records.provenance import git_commit; print(git_commit())"
    for commit in ("1" * 40 + "+changes", None):
        monkeypatch.setattr(module, "git_commit", lambda commit=commit: commit)
        folder = snapshot(tmp_path)
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(commit)


def test_the_commit_says_whether_the_working_tree_is_clean(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "dmf" / "records").mkdir(parents=True)
    for path in (code / "dmf" / "__init__.py", code / "dmf" / "records" / "__init__.py"):
        path.write_text("")
    shutil.copy(provenance.__file__, code / "dmf" / "records")

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        return subprocess.check_output(["git", "-C", str(code), *who, *arguments], text=True).strip()

    def said() -> str:
        program = "from dmf.records.provenance import git_commit; print(git_commit())"
        environment = {"PYTHONPATH": str(code), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.check_output(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True
        ).strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert said() == head
    (code / "dmf" / "records" / "__init__.py").write_text("changed = True\n")
    assert said() == f"{head}+changes"
