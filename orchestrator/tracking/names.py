"""What our runs in MLflow are called, and what is read of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EXPERIMENT = "dmf"
SWEEP, TRIAL = "sweep", "trial"
"""Values of the tag `dmf.kind`."""
STORE = "dmf.store_id"
"""Tag of every run: the identity of its store, `Ledger.id`."""
OUTCOME = "dmf.outcome"
"""Tag of a training's run: its record's outcome."""


@dataclass(frozen=True)
class MirroredRun:
    """What is read of a run besides its files."""

    id: str
    status: str
    started: int
    artifacts: str
    """Its folder's URI."""
    tags: dict[str, str]


def database_of(uri: str) -> Path | None:
    """The file of an SQLite URI; None for others."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" else None
