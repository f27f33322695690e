"""One bad disk or node does not use up the queue: what stops a sweep, and what does not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmf.records.records import Failure
from orchestrator.running.interrupts import Signals, Stopped
from orchestrator.running.watch import FAILURES_IN_A_ROW, Breaker
from orchestrator.store.ledger import Ledger
from tests.sites import ROOT, START_SECONDS, Site
from tests.test_full_disk import in_a_namespace
from tests.tiny import tiny_sweep

SIX = tiny_sweep("tiny", "six trainings", "  - {table: 2c, grid: {model.groups: [1, 2, 4, 8, 16, 64]}}\n", epochs=2)
LOST = Failure(reason="OSError: [Errno 5] Input/output error", kind="machine")


def stopped(signals: Signals) -> str:
    """Why the sweep stops; empty if it goes on."""
    try:
        signals.check()
    except Stopped as reason:
        return str(reason)
    return ""


def test_faults_of_a_machine_in_a_row_stop_the_sweep_and_a_success_in_between_does_not(tmp_path: Path) -> None:
    signals = Signals()
    breaker = Breaker(Ledger(tmp_path), signals, fail_fast=False)
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            breaker.ended(LOST)
        breaker.ended(None)
    for _ in range(10):
        breaker.ended(Failure(reason="ValueError: groups", kind="error"))
        breaker.ended(Failure(reason="out of memory", kind="memory"))
    assert stopped(signals) == "" and list(tmp_path.iterdir()) == []
    for _ in range(FAILURES_IN_A_ROW):
        breaker.ended(LOST)
    assert f"{FAILURES_IN_A_ROW} trainings in a row failed because of their machine" in stopped(signals)
    assert "Input/output error" in stopped(signals)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EDQUOT, errno.ESTALE])
def test_a_store_that_can_not_be_written_stops_it_at_the_first_fault(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, text: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("orchestrator.store.ledger.write_text", broken)
    signals = Signals()
    Breaker(Ledger(tmp_path), signals, fail_fast=False).ended(LOST)
    assert stopped(signals).startswith("the store cannot be written (") and os.strerror(number) in stopped(signals)


@pytest.mark.parametrize("kind", ["disk", "error"])
def test_a_disk_that_takes_no_more_files_stops_it_and_so_does_anything_with_fail_fast(
    kind: Any, tmp_path: Path
) -> None:
    signals = Signals()
    Breaker(Ledger(tmp_path), signals, fail_fast=kind == "error").ended(Failure(reason="why", kind=kind))
    assert "why" in stopped(signals)


IT_TURNS_READ_ONLY = """
set -e
python=$1
mkdir -p runs/trainings
"$python" -m orchestrator.sweep tiny.yaml --executor local > output.txt 2>&1 &
sweep=$!
until ls runs/trainings/*/evaluations/*.json > ended.txt 2> /dev/null; do sleep 0.02; done
mount -t tmpfs -o ro tmpfs runs/trainings
status=0
wait $sweep || status=$?
umount runs/trainings
echo $status > status
"""
"""Once the first training has its test, a file system that takes no writes lies over the trainings."""


def test_a_store_that_turns_read_only_midway_costs_no_other_training(tmp_path: Path) -> None:
    isolated, site = in_a_namespace(tmp_path), Site(tmp_path, SIX)
    command = [*isolated, "sh", "-c", IT_TURNS_READ_ONLY, "sh", sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=3 * START_SECONDS
    )
    assert done.returncode == 0, done.stderr + site.said
    assert (tmp_path / "status").read_text() == "1\n", site.said
    assert "stopped: " in site.said and "Read-only file system" in site.said, site.said
    assert site.said.count(": starts") <= 2 + len((tmp_path / "ended.txt").read_text().split()), site.said
    assert "Traceback" not in site.said and "continue with the same command" in site.said
    statuses = site.statuses()
    assert statuses["tiny"] == "KILLED" and "RUNNING" not in statuses.values()
    assert site.run() == 0, site.said
    assert site.states() == ["done"] * 6
