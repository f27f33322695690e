"""How often a command asks the file system about each training. On a network, every call is a millisecond."""

from __future__ import annotations

import builtins
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmf.records import checkpoints
from dmf.records.records import LAST
from orchestrator import report, status, sync
from orchestrator.running.trial import run_trial
from tests.sites import Site
from tests.tiny import tiny_sweep

SPEC = tiny_sweep("tiny", "three trainings", "  - {table: 2c, grid: {model.groups: [1, 4, 64]}}\n", epochs=2)
MOST = 3


@contextmanager
def counted(store: Path) -> Iterator[Counter[str]]:
    """Counts the calls about each training's files, by key, in this process."""
    calls: Counter[str] = Counter()

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            if isinstance(path, str | os.PathLike) and str(path).startswith(f"{store}/trainings/"):
                calls[Path(path).relative_to(store).parts[1]] += 1
            return function(path, *arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "stat"), (os, "scandir"), (os, "lstat"), (io, "open"), (builtins, "open")):
            patch.setattr(module, name, counting(getattr(module, name)))
        patch.setattr(checkpoints, "safe_open", counting(checkpoints.safe_open))
        yield calls


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A finished sweep whose records have settled, so that the index has them."""
    site = Site(tmp_path_factory.mktemp("site"), SPEC)
    assert site.run() == 0, site.said
    old = time.time() - 100
    for path in site.files():
        os.utime(path, (old, old))
    assert sync.main(["--store", str(site.ledger.store)]) == 0
    return site


def commands(site: Site) -> dict[str, Callable[[], int]]:
    store = ["--store", str(site.ledger.store)]
    return {
        "report": lambda: report.main([*store, "--output", str(site.folder / "out")]),
        "status": lambda: status.main(store),
        "plan": lambda: site.command("--plan"),
        "sync": lambda: sync.main(store),
        "again": lambda: site.run(),
    }


@pytest.mark.parametrize("name", ["report", "status", "plan", "sync", "again"])
def test_of_a_finished_training_at_most_three(name: str, site: Site) -> None:
    with counted(site.ledger.store) as calls:
        assert commands(site)[name]() == 0, site.said
    assert calls.keys() == {trial.key for trial in site.trials()}
    assert max(calls.values()) <= MOST, calls


@pytest.mark.parametrize("name", ["report", "status", "plan"])
def test_of_one_that_is_missing_or_has_begun_at_most_three(name: str, tmp_path: Path) -> None:
    site = Site(tmp_path, SPEC)
    assert site.command("--plan") == 0

    def stop(epoch: object) -> None:
        raise KeyboardInterrupt

    begun = site.trials()[1]
    with pytest.raises(KeyboardInterrupt):
        run_trial(begun.config, begun.evaluations, site.ledger.store, stop)
    assert (site.ledger.folder(begun.key) / LAST).is_file()
    from orchestrator.spec.file import read_spec
    from orchestrator.spec.plan import plan

    site.ledger.write_plan(plan(read_spec(site.spec)))
    with counted(site.ledger.store) as calls:
        assert commands(site)[name]() in (0, 1)
    assert begun.key in calls and max(calls.values()) <= MOST, calls
