"""Passwords in tracking URIs are never shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.tracking.uris import password_of, told, without_password
from tests.s3_server import free_port
from tests.sites import ROOT, START_SECONDS, Site
from tests.tiny import tiny_sweep

PASSWORD, DECODED = "hunter%402-of-nobody", "hunter@2-of-nobody"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://dmf:hunter2@db:5432/mlflow", "postgresql://dmf:***@db:5432/mlflow"),
        ("postgresql+psycopg2://dmf:p%40ss@db/mlflow", "postgresql+psycopg2://dmf:***@db/mlflow"),
        ("http://:token@tracker", "http://:***@tracker"),
        ("https://user@tracker:5000/x", "https://user@tracker:5000/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("postgresql://u:a@b@db/x", "postgresql://u:***@db/x"),
        ("postgresql://db/x?user=u&password=hunter2&a=b", "postgresql://db/x?user=u&password=***&a=b"),
        ("--tracking-uri=http://u:hunter2@t and more", "--tracking-uri=http://u:***@t and more"),
    ],
)
def test_what_is_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_an_error_s_text_shows_no_password_however_it_is_written() -> None:
    uri = "postgresql://dmf:p%40ss@db/mlflow"
    assert password_of(uri) == "p%40ss" and password_of("http://user@host") is None
    text = told(ValueError(f"no answer from {uri},\npassword p@ss or p%40ss"), uri)
    assert text == "no answer from postgresql://dmf:***@db/mlflow, password *** or ***"


def assert_no_password(text: str, where: str) -> None:
    found = [password for password in (PASSWORD, DECODED) if password in text]
    assert not found, f"{where} has the password: {text}"


def test_a_sweep_and_its_sync_tell_and_keep_no_password(tmp_path: Path) -> None:
    """With an unreachable tracking server, which is reported at the start, on the way and at the end."""
    site = Site(tmp_path, tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=2))
    uri = f"http://dmf:{PASSWORD}@127.0.0.1:{free_port()}"
    shown = uri.replace(PASSWORD, "***")
    # As a process, so that its output includes the log.
    assert site.start("--executor", "local", "--tracking-uri", uri).wait(timeout=START_SECONDS) == 1, site.said
    assert site.states() == ["done"]
    assert f"MLflow does not answer at {shown}: " in site.said and f"MLflow: {shown}\n" in site.said
    assert "error: MLflow is incomplete: " in site.said
    assert f"orchestrator.sync --store runs --tracking-uri '{shown}', adds it" in site.said
    assert_no_password(site.said, "the sweep's output")

    command = [sys.executable, "-m", "orchestrator.sync", "--tracking-uri", uri]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sync = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=START_SECONDS
    )
    assert sync.returncode == 2 and f"MLflow does not answer at {shown}: " in sync.stderr, sync.stdout + sync.stderr
    assert_no_password(sync.stdout + sync.stderr, "sync's output")

    kept = {path for place in ("runs", "results") for path in (tmp_path / place).rglob("*") if path.is_file()}
    (trial,) = site.trials()
    assert {site.ledger.folder(trial.key) / "training.json", tmp_path / "results" / "tiny" / "table_2c.json"} <= kept
    for path in kept:
        assert_no_password(path.read_bytes().decode(errors="replace"), str(path))
