"""Faults of disks, processes and people, for `orchestrator.selftest --faults`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from dmf.records.records import BEST, EVALUATIONS, LAST, RECORD
from orchestrator.selftest.sweeps import Sweep, Tracking
from orchestrator.store.index import FILE as INDEX

CHANCE = random.Random(0)
"""Which file is damaged, and where; `orchestrator.selftest` seeds it."""
FROZEN_S = 10.0
"""How long the driver is frozen."""
READ_ONLY_S = 3.0
"""How long the trainings' folder takes no writes."""


def _damage(sweep: Sweep, change: Callable[[Path], None]) -> bool:
    """Change one file of a training, or the index; false if there is none, or if it is just being replaced."""
    store = sweep.site.ledger.store
    patterns = (RECORD, BEST, LAST, f"{EVALUATIONS}/*.json")
    files = [path for pattern in patterns for path in store.glob(f"trainings/*/{pattern}")]
    files += [path for path in (store / INDEX,) if path.is_file()]
    if not files:
        return False
    path = CHANCE.choice(sorted(files))
    with contextlib.suppress(FileNotFoundError):
        change(path)
        if path.parent != store:
            sweep.site.damaged.add(path.relative_to(store).parts[1])
        print(f"  {path.relative_to(store)}", flush=True)
        return True
    return False


def _flip(path: Path) -> None:
    """Flip the highest bit of one byte, so that text is no text any more."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            at = CHANCE.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x80]))


def _truncate(path: Path) -> None:
    os.truncate(path, CHANCE.randrange(path.stat().st_size + 1) // 2)


def _freeze_worker(sweep: Sweep, tracking: Tracking) -> bool:
    """Stop a worker for good; its driver has to end it."""
    for process in sweep.alive("ray::ImplicitFunc"):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            return True
    return False


def _freeze_driver(sweep: Sweep, tracking: Tracking) -> bool:
    sweep.signalled(signal.SIGSTOP)
    time.sleep(FROZEN_S)
    return sweep.signalled(signal.SIGCONT)


def _read_only(sweep: Sweep, tracking: Tracking) -> bool:
    """Let the trainings' folder take no writes for a while; false where this user may write to it anyway (root)."""
    folder = sweep.site.ledger.store / "trainings"
    if not folder.is_dir():
        return False
    places = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    for path in places:
        path.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            return False
        sweep.until(time.monotonic() + READ_ONLY_S)
        return True
    finally:
        for path in places:
            path.chmod(0o755)


def _delete_runs(sweep: Sweep, tracking: Tracking) -> bool:
    """Delete two of the sweep's runs, as a person does in MLflow's UI."""
    from orchestrator.tracking.server import connect, runs_of_store

    runs = runs_of_store(sweep.site.tracking_uri, sweep.site.ledger)
    client, _ = connect(sweep.site.tracking_uri)
    for run in CHANCE.sample(runs, min(2, len(runs))):
        client.delete_run(run.info.run_id)
    return bool(runs)


FAULTS: dict[str, tuple[int, Callable[[Sweep, Tracking], bool]]] = {
    "a flipped bit": (3, lambda sweep, tracking: _damage(sweep, _flip)),
    "a truncated file": (3, lambda sweep, tracking: _damage(sweep, _truncate)),
    "a frozen worker": (1, _freeze_worker),
    "a frozen driver": (1, _freeze_driver),
    "a read-only disk": (1, _read_only),
    "deleted MLflow runs": (2, _delete_runs),
}
"""As `KINDS`: the relative frequency, and a function that returns whether it could disturb anything."""
