"""A whole sweep on a small real file system that at first has no room for a checkpoint, and later has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.records.checkpoints import read_checkpoint
from dmf.records.records import BEST, LAST
from orchestrator.running.trial import run_trial
from orchestrator.store.ledger import Ledger
from tests.sites import ROOT, START_SECONDS, Site, learnt
from tests.tiny import tiny_sweep

SPEC = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=3)
ON_A_SMALL_DISK = """
set -e
python=$1 size=$2
mkdir -p runs/trainings stopped
mount -t tmpfs -o size="$size" tmpfs runs/trainings
status=0
"$python" -m orchestrator.sweep tiny.yaml --executor local > stopped.txt 2>&1 || status=$?
echo $status > stopped/status
cp -a runs/trainings runs/mlflow.db stopped
mount -t tmpfs -o remount,size=64m tmpfs runs/trainings
"$python" -m orchestrator.sweep tiny.yaml --executor local > output.txt 2>&1
mkdir ended
cp -a runs/trainings runs/mlflow.db ended
"""
"""Copies the store to `stopped` after the first start, and to `ended` after the second, which has more room."""


def in_a_namespace(folder: Path) -> list[str]:
    """The prefix for commands that mount private file systems; checked at `folder`."""
    isolated = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    try:
        done = subprocess.run(
            [*isolated, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no command unshare (package util-linux) to make a mount namespace with")
    if done.returncode:
        pytest.skip("this machine lets nobody mount a file system in a namespace (unshare --mount)")
    return isolated


def sizes_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}


def test_a_sweep_stops_at_a_full_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    isolated, site = in_a_namespace(tmp_path), Site(tmp_path, SPEC)
    (trial,) = site.trials()
    sizes: list[dict[str, int]] = []
    undisturbed = Ledger(tmp_path / "undisturbed")
    folder = undisturbed.folder(trial.key)
    run_trial(trial.config, trial.evaluations, undisturbed.store, lambda epoch: sizes.append(sizes_of(folder)))
    # Room for the first epoch's files and half of the second's checkpoint, which is written beside the first's; the
    # rest is many times the size of a record.
    room = sizes[0][LAST] + sizes[0][BEST] + sizes[0][LAST] // 2
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*isolated, "sh", "-c", ON_A_SMALL_DISK, "sh", sys.executable, str(room)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=3 * START_SECONDS
    )
    said = (tmp_path / "stopped.txt").read_text()

    assert (tmp_path / "stopped" / "status").read_text() == "1\n", said
    assert "stopped: a disk takes no more files (" in said, said
    assert (
        "make room, or make it writable; continue with the same command: python -m orchestrator.sweep tiny.yaml" in said
    )
    stopped = Ledger(tmp_path / "stopped")
    left = stopped.folder(trial.key)
    assert not list(left.glob(".*.*")), "files are left that were to be renamed"
    assert sizes_of(left) == pytest.approx(sizes[0], abs=64)  # their seconds have more or fewer digits
    for name in (LAST, BEST):
        read_checkpoint(left / name)
    assert [epoch["epoch"] for epoch in read_checkpoint(left / LAST)[1]["history"]] == [1]
    record = stopped.training(trial.key)
    assert record is not None and record.failure is not None and record.failure.kind == "disk"

    site.ledger = stopped
    assert site.statuses()["tiny"] == "KILLED"

    assert done.returncode == 0, site.said + done.stderr
    ended = Ledger(tmp_path / "ended")
    assert ended.state(trial) == "done"
    assert not list(ended.folder(trial.key).glob(".*.*"))
    assert learnt(ended.training(trial.key)) == learnt(undisturbed.training(trial.key))
    site.ledger = ended
    assert site.statuses() == {"tiny": "FINISHED", trial.key: "FINISHED"}
