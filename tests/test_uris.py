"""Passwords in tracking URIs are never shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import report, sweep, sync
from orchestrator.tracking.uris import password_of, told, usable, without_password
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


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("runs/mlflow.db", "is no URI; for a SQLite database, write sqlite:///runs/mlflow.db; for a server, http://"),
        ("runs", "is no URI; for a SQLite database, write sqlite:///runs/mlflow.db;"),
        ("/data/runs/mlflow.db", "write sqlite:////data/runs/mlflow.db;"),
        ("localhost:5000", "is no URI; for a server, write http://localhost:5000"),
        ("tracker.lab:80/mlflow", "is no URI; for a server, write http://tracker.lab:80/mlflow"),
        ("sqlite://runs/mlflow.db", "a path goes after three slashes; write sqlite:///runs/mlflow.db"),
        ("sqlite:///", "names no file; write sqlite:///runs/mlflow.db"),
        ("sqlite:///~nobody-has-it/x.db", "~nobody-has-it is no user's home"),
    ],
)
def test_what_is_no_uri_is_refused_with_what_to_write(
    uri: str, told: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "tiny.yaml").write_text(tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1))
    (place / "runs").mkdir()
    for command, arguments in ((sweep.main, ["tiny.yaml"]), (sync.main, []), (report.main, [])):
        assert command([*arguments, "--tracking-uri", uri]) == 2
        said = capsys.readouterr().err
        assert said.startswith(("error: --tracking-uri", "report: --tracking-uri")) and told in said
    assert {path.name for path in place.rglob("*")} == {"runs", "tiny.yaml", "driver.lock"}


def test_a_uri_is_taken_with_the_home_and_an_absolute_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert usable("sqlite:///~/x.db?timeout=3", "") == "sqlite:////home/me/x.db?timeout=3"
    assert usable("sqlite:///x.db", "") == f"sqlite:///{place}/x.db"
    for uri in ("http://u:p@tracker", "postgresql://db/x", "databricks", "databricks://profile", "file:/x"):
        assert usable(uri, "") == uri
    with pytest.raises(ValueError, match=r"--tracking-uri \.\.\.@host is no URI; write http://") as refused:
        usable("tracker:secret@host", "--tracking-uri")
    assert "secret" not in str(refused.value)


def test_commands_to_paste_are_quoted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are printed at the end of a sweep, or when it stops: a store's blanks would otherwise cut it."""
    monkeypatch.setattr(sys, "argv", ["sweep", "my sweep.yaml", "data.root=/a b", "--store", "my runs"])
    assert sweep._again().endswith("orchestrator.sweep 'my sweep.yaml' 'data.root=/a b' --store 'my runs'")
    assert "--backend-store-uri 'sqlite:////a b/mlflow.db'" in sweep._where("sqlite:////a b/mlflow.db", None)
