"""A driver and a worker that are frozen, in one sweep under Ray: neither costs a training, or more than a worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dmf.data.sets import open_for
from tests.sites import START_SECONDS, Site, trainings_of, workers
from tests.tiny import tiny_sweep

SPEC = tiny_sweep("tiny", "two trainings", "  - {table: 2c, grid: {model.groups: [1, 64]}}\n", epochs=120)
TIMEOUT_S = 8


def test_a_frozen_driver_costs_nothing_and_a_frozen_worker_is_ended(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMF_CACHE", str(cache))
    site = Site(tmp_path, SPEC + "max_failures: 0\n")
    open_for(site.trials()[0].config)
    process = site.start("--trial-timeout", f"{TIMEOUT_S}s")
    for trial in site.trials():
        site.until_epoch(process, 2, trial.key)
    before = set(workers(process))
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5 * TIMEOUT_S)
    process.send_signal(signal.SIGCONT)
    time.sleep(2)
    assert set(workers(process)) == before, "the workers waited for their driver"
    assert not list(site.ledger.store.glob("trainings/*/stacks.txt")) or all(
        path.stat().st_size == 0 for path in site.ledger.store.glob("trainings/*/stacks.txt")
    )
    (frozen,) = (pid for pid in before if site.trials()[0].key in trainings_of(pid))
    os.kill(frozen, signal.SIGSTOP)
    deadline = time.monotonic() + 2 * TIMEOUT_S + 30
    while Path(f"/proc/{frozen}").exists():
        assert time.monotonic() < deadline and process.poll() is None, site.said
        time.sleep(0.5)
    assert process.wait(START_SECONDS) == 1, site.said
    assert site.states() == ["failed", "done"], "max_failures is 0"
    record = site.ledger.training(site.trials()[0].key)
    assert record is not None and record.failure is not None
    assert (
        record.failure.kind == "machine" and "showed no sign of life, not even to end itself" in record.failure.reason
    )
    assert site.run() == 0, site.said
    assert site.states() == ["done", "done"]
