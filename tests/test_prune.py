"""`python -m orchestrator.prune`: says what no sweep needs, and removes it only when told to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.prune import main, size
from orchestrator.running.trial import run_trial
from orchestrator.store.ledger import Ledger
from tests.test_trial import CONFIG, TEST


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Ledger:
    """With a training, the same as it was before it was retrained, and leftovers of killed processes."""
    ledger = Ledger(tmp_path / "runs")
    run_trial(CONFIG, (TEST,), ledger.store)
    ledger.supersede(CONFIG.key)
    run_trial(CONFIG, (TEST,), ledger.store)
    for number, name in enumerate(("0" * 16, "1" * 16)):
        (ledger.store / "code" / name).mkdir(parents=True)
        (ledger.store / "code" / name / "a.py").write_text("code")
        os.utime(ledger.store / "code" / name, (number, number))
    (ledger.folder(CONFIG.key) / ".training.json.x1y2").write_text("half")
    (ledger.store / "work" / CONFIG.key / "trainings").mkdir(parents=True)
    (ledger.store / "work" / CONFIG.key / "trainings" / "a").write_text("12345")
    return ledger


def test_it_says_what_it_would_remove_and_removes_it_with_yes(
    store: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(store.store)
    assert main(["--store", str(store.store)]) == 0
    said = capsys.readouterr().out
    assert said.count("would remove") == 4 and "remove them with --yes" in said
    assert f"would remove the work folder of a killed process: {store.store}/work/{CONFIG.key}, 5 B" in said
    assert f"a copy of the code of an earlier sweep: {store.store}/code/0000000000000000, 4 B" in said
    assert files(store.store) - {"driver.lock", "store.id"} == before
    assert main(["--store", str(store.store), "--yes"]) == 0
    assert "removed 4 folders and files" in capsys.readouterr().out
    gone = before - files(store.store)
    assert {name.split("/")[0] for name in gone} == {"superseded", "code", "work", "trainings"}
    assert {name for name in gone if name.startswith("trainings")} == {f"trainings/{CONFIG.key}/.training.json.x1y2"}
    assert list((store.store / "superseded").iterdir()) == []
    assert store.training(CONFIG.key) is not None and store.evaluation(CONFIG.key, TEST.key) is not None
    assert main(["--store", str(store.store)]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_a_store_in_use_or_that_is_not_there_is_refused(store: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    with store.driving():
        assert main(["--store", str(store.store), "--yes"]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert main(["--store", str(store.store / "none")]) == 2
    assert "there is no store" in capsys.readouterr().err


def test_what_a_living_process_works_on_stays(store: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    work = store.store / "work" / CONFIG.key
    with Ledger(work).driving(), store.holding(CONFIG.key):
        (store.folder(CONFIG.key) / ".best.safetensors.a1b2").touch()
        assert main(["--store", str(store.store)]) == 0
    said = capsys.readouterr().out
    assert "work folder" not in said and "a file of a killed process" not in said


def test_sizes() -> None:
    assert [size(count) for count in (0, 999, 12_000, 3_400_000_000)] == ["0 B", "999 B", "12 KB", "3.4 GB"]


def test_folders_of_the_users_are_not_taken_for_the_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where --store names a folder with other things."""
    for name in ("code/thesis", "code/old", "work/paper"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine").write_text("mine")
    main(["--store", str(tmp_path), "--yes"])
    capsys.readouterr()
    assert {"code/thesis/mine", "code/old/mine", "work/paper/mine"} <= files(tmp_path)
