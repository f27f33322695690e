"""Passwords of tracking URIs are shown nowhere."""

from __future__ import annotations

import pytest

from orchestrator.uris import password_of, told, without_password


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
