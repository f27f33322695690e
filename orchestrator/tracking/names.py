"""The names of our runs and tags in MLflow, and the part of a run that is read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

EXPERIMENT = "dmf"
SWEEP, TRIAL = "sweep", "trial"
"""Values of the tag `dmf.kind`."""
STORE, STORE_NAME = "dmf.store_id", "dmf.store"
"""Tags of every run: the identity of its store, `Ledger.id`, and the store's name when it was last opened."""
MIRRORED = "dmf.mirrored"
"""A tag of a training's run: a digest of what was last written; without it, everything is written again."""
OUTCOME = "dmf.outcome"
"""A tag of a training's run: its record's outcome."""


@dataclass(frozen=True)
class MirroredRun:
    """The part of a run that is read, besides its files."""

    id: str
    status: str
    started: int
    artifacts: str
    """The URI of its folder."""
    tags: dict[str, str]


def database_of(uri: str) -> Path | None:
    """The file of a SQLite URI; None for other URIs."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" else None


def local_folder_of(artifacts: str) -> Path | None:
    """The folder of a run whose files are on this machine; None if a server or a cloud has them."""
    parts = urlparse(artifacts)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(artifacts)
