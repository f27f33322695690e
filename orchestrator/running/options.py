"""The parsed command line of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """The options of `python -m orchestrator.sweep`; its --help explains them."""

    spec: Path
    settings: Sequence[str]
    plan: bool
    calibrate: bool
    again: bool
    only: Sequence[str] | None
    budget: float | None
    """Seconds."""
    store: str
    results: Path
    executor: Literal["ray", "local"]
    address: str | None
    tracking_uri: str | None
    wait: bool
    retry_diverged: bool
    retry_failed: bool
    accept_stale: bool
    retrain_stale: bool
    retrain_damaged: bool
    retrain_lost: bool
    trial_timeout: float | None
    """Seconds; None: a trial may hang for ever."""
