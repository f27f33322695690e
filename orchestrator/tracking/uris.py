"""Addresses to show: of MLflow's page of runs, and URIs without their passwords."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
SECRETS = re.compile(r"((?:password|secret|token|access_key|secret_key)=)[^&\s]+", re.IGNORECASE)
"""Matches secrets in the query of a URI."""


def page_of_runs(server: str, experiment_id: str) -> str:
    """The page of an experiment's runs on an MLflow server; the page for language models is what MLflow opens else."""
    return f"{without_password(server).rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def password_of(uri: str) -> str | None:
    """The password in a URI, as written there; None if there is none."""
    userinfo, at, _ = urlsplit(uri).netloc.rpartition("@")
    _, colon, password = userinfo.partition(":")
    return password if at and colon and password else None


def without_password(text: str) -> str:
    """Replace every password in a URI, or in a text with URIs, with `***`."""
    text = re.sub(r"(\w[\w+.-]*://[^\s:/@]*):[^\s/@]*(?:@[^\s/@]*)*@", rf"\1:{HIDDEN}@", text)
    return SECRETS.sub(rf"\1{HIDDEN}", text)


def told(error: BaseException, uri: str) -> str:
    """An error's text on one line, without the password of `uri` in any spelling."""
    text = " ".join(str(error).split()).partition(" [SQL: ")[0]  # what SQLAlchemy adds is for its developers
    password = password_of(uri)
    for written in {password, unquote(password or "")} - {None, ""}:
        text = text.replace(str(written), HIDDEN)
    return without_password(text)
