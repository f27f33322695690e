"""`orchestrator.status --verify`: damage that leaves a file's time and size, which no other command looks for."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from dmf.records.records import BEST, CONFIG, EVALUATIONS, RECORD
from orchestrator import report, status
from orchestrator.store.ledger import PLAN, Ledger
from orchestrator.verify import damaged_files
from tests.sites import Site
from tests.test_damaged import SPEC, at
from tests.test_image_cache import flip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep whose records the index has."""
    site = Site(tmp_path_factory.mktemp("swept"), SPEC)
    assert site.run() == 0, site.said
    return site.folder


@pytest.fixture
def site(swept: Path, tmp_path: Path) -> Site:
    """A copy of it, of files that are old enough for the index."""
    shutil.copytree(swept, tmp_path / "site")
    old = time.time() - 100
    for path in (tmp_path / "site" / "runs").rglob("*"):
        os.utime(path, (old, old))
    return at(tmp_path / "site")


def states(site: Site, *more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str], str]:
    """Exit status, each training's state, and what was said on standard error."""
    capsys.readouterr()
    code = status.main(["--store", str(site.ledger.store), "--json", *more])
    said = capsys.readouterr()
    return code, {row["key"]: row["state"] for row in json.loads(said.out)["sweeps"]["tiny"]}, said.err


@pytest.mark.parametrize("name", [RECORD, EVALUATIONS])
def test_a_record_that_changed_without_a_trace(name: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = site.trials()
    path = site.ledger.folder(first.key) / name
    path = path if name == RECORD else next(path.glob("*.json"))
    assert states(site, capsys=capsys)[0] == 0  # fills the index
    flip(path, 40)
    code, found, said = states(site, capsys=capsys)
    assert (code, found[first.key], said) == (0, "done", ""), "the index still has what was written, and it is right"
    code, found, said = states(site, "--verify", capsys=capsys)
    assert (code, found[first.key]) == (1, "damaged") and str(path) in said
    assert "damaged" not in {found[trial.key] for trial in others}
    assert states(site, capsys=capsys)[1][first.key] == "damaged", "from now on, every command knows"
    out = site.folder / "out"
    assert report.main(["--store", str(site.ledger.store), "--output", str(out)]) == 0
    assert "damaged" in (out / "tiny" / "table_2c.md").read_text()
    assert site.run("--retrain-damaged") == 0, site.said
    assert states(site, "--verify", capsys=capsys)[0] == 0


@pytest.mark.parametrize("name", [BEST, CONFIG, PLAN])
def test_other_files_that_decide_something(name: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    folder = site.ledger.sweep_folder("tiny") if name == PLAN else site.ledger.folder(site.trials()[0].key)
    path = folder / name
    if name == BEST:
        flip(path, -5)
    else:
        text = path.read_text()
        path.write_text(text.replace('"image_size": 28', '"image_size": 29'))
        assert path.read_text() != text
    count, (told,) = damaged_files(site.ledger)
    assert str(path) in told
    if name != PLAN:
        code, found, said = states(site, "--verify", capsys=capsys)
        assert code == 1 and f"error: {told}" in said and set(found.values()) == {"done", "diverged"}
        assert status.main(["--store", str(site.ledger.store), "--verify"]) == 1
        assert f"\n{count} files read, 1 damaged\n" in capsys.readouterr().out


def test_a_sound_store_has_nothing_to_tell(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, before, said = states(site, "--verify", capsys=capsys)
    count, wrong = damaged_files(site.ledger)
    assert (code, said, wrong) == (0, "", []) and count > 3 * len(before)
    assert status.main(["--store", str(site.ledger.store), "--verify"]) == 0
    assert f"\n{count} files read, none damaged\n" in capsys.readouterr().out
    assert status.main(["--store", str(site.ledger.store), "--verify", site.trials()[0].key]) == 2
    assert "--verify reads every file of the store; leave out" in capsys.readouterr().err
    assert states(site, capsys=capsys)[1] == before and set(before.values()) == {"done", "diverged"}


def test_a_store_of_an_older_format_is_sound(tmp_path: Path) -> None:
    old = Path(__file__).parent / "format_1"
    store = shutil.copytree(old, tmp_path / "store")
    ledger = Ledger(store)
    assert ledger.kept_keys() and damaged_files(ledger)[1] == []
