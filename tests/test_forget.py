"""`python -m orchestrator.forget`: says what goes and how large it is, and removes that and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmf.config import DataConfig
from dmf.data.cache import whole
from dmf.data.kept import kept_images
from dmf.data.sets import open_data
from dmf.data.survey import survey
from dmf.machine.files import temporary_folder
from orchestrator import status
from orchestrator.forget import main
from orchestrator.prune import size
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import Trial, plan
from orchestrator.store.ledger import Ledger
from tests.test_prune import files
from tests.test_trial import CONFIG, TEST

SET = {"base": "released", "set": {}}


def sweep(name: str, groups: list[int]) -> dict[str, object]:
    settings = {path: value for path, value in CONFIG.flat().items() if value != type(CONFIG)().flat().get(path)}
    settings = {path: value for path, value in settings.items() if not path.startswith("model.groups")}
    return {
        "name": name,
        "set": settings,
        "evaluation": {"episodes": TEST.episodes, "shot": TEST.shot},
        "parts": [{"table": "2c", "grid": {"model.groups": groups}}],
    }


@pytest.fixture
def store(tmp_path: Path) -> tuple[Ledger, dict[str, list[Trial]]]:
    """Two sweeps with a training in common."""
    ledger, trials = Ledger(tmp_path / "runs"), {}
    for name, groups in (("one", [1, 4]), ("two", [4, 8])):
        planned = plan(spec_from(sweep(name, groups)))
        ledger.write_plan(planned)
        trials[name] = list(planned.trials())
    for trial in {trial.key: trial for each in trials.values() for trial in each}.values():
        run_trial(trial.config, trial.evaluations, ledger.store)
    return ledger, trials


def test_a_sweep_goes_with_the_trainings_that_only_it_asks_for(
    store: tuple[Ledger, dict[str, list[Trial]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, trials = store
    own, shared = (trial.key for trial in trials["one"])
    at = ["--store", str(ledger.store)]
    before = files(ledger.store)
    assert main(["sweep", "one", *at]) == 0
    said = capsys.readouterr().out
    count = sum((ledger.store / name).stat().st_size for name in before if name.startswith(f"trainings/{own}"))
    assert f"1 training stays, since other sweeps ask for them: {shared}" in said
    assert f"would remove a training, with its records and weights: trainings/{own}, {size(count)}" in said
    assert "would remove the plan and the looks of a sweep: sweeps/one, " in said
    assert said.splitlines()[-1].startswith("2 folders and files, ") and "remove them with --yes" in said
    assert files(ledger.store) - {"driver.lock", "store.id"} == before, "nothing has gone yet"
    assert main(["sweep", "one", *at, "--yes"]) == 0
    gone = before - files(ledger.store)
    assert {name.split("/")[1] for name in gone} == {"one", own}
    assert list(ledger.plans()) == ["two"] and all(ledger.state(trial) == "done" for trial in trials["two"])
    assert status.main([*at]) == 0
    capsys.readouterr()
    assert main(["sweep", "one", *at, "--yes"]) == 2
    assert "no sweep 'one' was started" in capsys.readouterr().err


def test_a_training_goes_and_who_asks_for_it_is_told(
    store: tuple[Ledger, dict[str, list[Trial]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, trials = store
    shared = trials["one"][1]
    at = ["--store", str(ledger.store)]
    with ledger.holding(shared.key):
        assert main(["training", shared.key, *at, "--yes"]) == 2
    assert f"a process works on training {shared.key}" in capsys.readouterr().err
    assert main(["training", shared.key, *at, "--yes"]) == 0
    said = capsys.readouterr().out
    assert f"{shared.key} is asked for by one, two, whose next start trains it again" in said
    assert ledger.state(shared) == "missing" and shared.key not in ledger.kept_keys()
    assert main(["training", "none", *at]) == 2
    assert "no training 'none'" in capsys.readouterr().err
    with ledger.driving():
        assert main(["training", trials["one"][0].key, *at, "--yes"]) == 2
    assert "is in use by process" in capsys.readouterr().err


def draw(root: Path, seed: int = 0) -> Path:
    """Class folders of noise."""
    from PIL import Image

    random = np.random.default_rng(seed)
    for split in ("train", "val", "test"):
        for number in range(5):
            folder = root / split / f"{split}{number}"
            folder.mkdir(parents=True)
            for image in range(4):
                Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{image}.png")
    return root


def birds(root: Path, side: int = 12) -> DataConfig:
    return DataConfig(name="birds", root=str(root), image_size=side)


def test_decoded_images_go_by_name_and_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "stores" / "a-0123456789abcdef").mkdir(parents=True)
    config = birds(draw(tmp_path / "birds"))
    before = open_data(config).fingerprint
    open_data(config.replace(name="bees"))
    assert main(["images", "birds"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("would remove decoded images (12 px): ") and len(said.splitlines()) == 2
    assert main(["images", "birds", "--yes"]) == 0
    assert [kept.name for kept in kept_images(tmp_path / "cache")] == ["bees"]
    assert open_data(config).fingerprint == before
    assert main(["images", "cats"]) == 2
    assert "no decoded images of 'cats'" in capsys.readouterr().err
    assert main(["images", "--yes"]) == 0
    assert not list(kept_images(tmp_path / "cache"))
    assert (tmp_path / "cache" / "stores" / "a-0123456789abcdef").is_dir(), "parts of stores stay"


def test_copies_of_a_data_set_share_their_decoded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies of one data set in three places, and one with other pixels; each can go on its own."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("DMF_CACHE", str(cache))
    roots = [draw(tmp_path / "birds")]
    for number in (2, 3):
        roots.append(Path(shutil.copytree(roots[0], tmp_path / f"birds{number}")))
    prints = [open_data(birds(root)).fingerprint for root in roots]
    other = open_data(birds(draw(tmp_path / "other", seed=1)))
    assert len({*prints}) == 1 and other.fingerprint not in prints
    folders = [kept.folder for kept in kept_images(cache)]
    assert len(folders) == 4
    inodes = {path.stat().st_ino for folder in folders for path in folder.glob("train.npy")}
    assert len(inodes) == 2, "the three copies share one file"
    shutil.rmtree(next(folder for folder in folders if (folder / "train.npy").stat().st_nlink == 3))
    again, every = [open_data(birds(root)) for root in roots], np.arange(20)
    assert [data.fingerprint for data in again] == prints
    assert all(np.array_equal(again[0].train.pixels(every), data.train.pixels(every)) for data in again)


def test_images_at_another_size_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMF_CACHE", str(tmp_path / "cache"))
    root = draw(tmp_path / "birds")
    assert "decoded so far" not in str(survey(birds(root)))
    open_data(birds(root))
    assert "decoded so far" not in str(survey(birds(root))), "nothing is to be decoded"
    assert str(survey(birds(root, 8))).endswith("; decoded so far, and kept: 12 px")
    (folder,) = (kept.folder for kept in kept_images(tmp_path / "cache"))
    assert whole(folder) is not None


def test_temporary_files_of_ended_processes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    session = "session_2026-01-02_03-04-05_678901_"
    gone = [
        tmp_path / f"dmf-tables-{ended.pid}-x1y2z3",
        tmp_path / "ray" / f"{session}{ended.pid}",
    ]
    kept = [tmp_path / "dmf-of-a-user", tmp_path / "ray" / f"{session}{os.getpid()}"]
    for folder in (*gone, *kept):
        folder.mkdir(parents=True)
        (folder / "file").write_text("12345")
    (tmp_path / "ray" / "session_latest").symlink_to(gone[1])
    with temporary_folder("tables") as ours:
        assert main(["temporary"]) == 0
        said = capsys.readouterr().out
        assert all(f"{folder}, 5 B" in said for folder in gone) and "2 folders and files, 10 B" in said
        assert main(["temporary", "--yes"]) == 0
        assert Path(ours).is_dir() and all(folder.is_dir() for folder in kept)
    assert not any(folder.exists() for folder in gone)


@pytest.mark.parametrize("key", ["", "..", "../sweeps/one", "."])
def test_what_is_no_key_is_refused(
    store: tuple[Ledger, dict[str, list[Trial]]], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as an unset variable of the shell."""
    ledger, _ = store
    before = files(ledger.store) - {"driver.lock"}
    assert main(["training", key, "--store", str(ledger.store), "--yes"]) == 2
    assert f"no training {key!r} in" in capsys.readouterr().err
    assert files(ledger.store) - {"driver.lock"} >= before


def test_a_damaged_plan_keeps_the_trainings_that_it_may_ask_for(
    store: tuple[Ledger, dict[str, list[Trial]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, trials = store
    path = ledger.sweep_folder("two") / "plan.json"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    assert main(["sweep", "one", "--store", str(ledger.store), "--yes"]) == 2
    assert "it is not known which trainings sweep two asks for" in capsys.readouterr().err
    assert set(ledger.kept_keys()) == {trial.key for each in trials.values() for trial in each}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_the_files_of_a_ray_that_a_command_started_stay(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its session is named after the process of `ray start`, which has ended; its daemons listen in it."""
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    session = short_path / "ray" / f"session_2026-01-02_03-04-05_678901_{ended.pid}"
    (session / "sockets").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(session / "sockets" / "raylet"))
        daemon.listen()
        assert main(["temporary", "--yes"]) == 0
        assert session.exists()
    assert main(["temporary", "--yes"]) == 0
    assert not session.exists(), capsys.readouterr().out
