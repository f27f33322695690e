"""Addresses to show: of MLflow's page of runs, and URIs without their passwords."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dmf.machine.paths import expanded

HIDDEN = "***"
WITHOUT_ADDRESS = ("databricks", "databricks-uc", "uc", "file")
"""Schemes of URIs that MLflow knows without `://`."""
SECRETS = re.compile(r"((?:password|secret|token|access_key|secret_key)=)[^&\s]+", re.IGNORECASE)
"""Matches secrets in the query of a URI."""


def usable(uri: str, setting: str) -> str:
    """`uri`, which `setting` gives, with a SQLite file's path made absolute and `~` replaced by the home.

    Raises ValueError, which says what to write, for what MLflow would take for something else: a path, or an address
    without its scheme.
    """
    named = f"{setting} {without_password(uri)}"
    if "://" not in uri and uri.partition(":")[0] not in WITHOUT_ADDRESS:
        if "@" in uri:  # what is before it may be a password
            raise ValueError(f"{setting} ...@{uri.rpartition('@')[2]} is no URI; write http:// before it, for a server")
        raise ValueError(f"{named} is no URI; {_instead(uri)}")
    scheme, separator, path = uri.partition("://")
    if scheme != "sqlite" or not separator:
        return uri
    if not path.startswith("/"):
        raise ValueError(f"{named}: a path goes after three slashes; write {scheme}:///{path}")
    file, mark, query = path[1:].partition("?")
    if not file:
        raise ValueError(f"{named} names no file; write sqlite:///runs/mlflow.db for runs/mlflow.db")
    return f"sqlite:///{Path(expanded(file, setting)).resolve()}{mark}{query}"


def _instead(text: str) -> str:
    """What somebody meant who wrote a path, or host:port, as a URI."""
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", text):
        return f"for a server, write http://{text}"
    path = Path(expanded(text))
    if path.is_dir():
        path /= "mlflow.db"
    return f"for a SQLite database, write sqlite:///{path}; for a server, http://host:port"


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
