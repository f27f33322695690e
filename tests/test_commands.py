"""`python -m dmf.train` and `python -m dmf.evaluate`, as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dmf import evaluate, released
from dmf.config import DataConfig, DMFConfig
from dmf.methods import build_method
from dmf.records.records import TrainingRecord

ROOT = Path(__file__).resolve().parents[1]
SMALL = """data.image_size=20 data.normalisation=half model.backbone=conv64f augmentation.crop_padding=2
training.epochs=2 training.warmup_epochs=1 training.episodes_per_epoch=8 training.validation_episodes=5""".split()


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("room")


def run(room: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DMF_CACHE": str(room / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=room, env=environment, capture_output=True, text=True
    )


def test_train_then_evaluate(room: Path) -> None:
    trained = run(room, "dmf.train", "--dataset", "glyphs", "--groups", "16", "--nExemplars", "2", *SMALL)
    assert trained.returncode == 0, trained.stderr
    (folder,) = (room / "runs" / "trainings").iterdir()
    record = TrainingRecord.read(folder / "training.json")
    assert (record.config.model.groups, record.config.episodes.shot) == (16, 2)
    assert f"python -m dmf.evaluate {folder.relative_to(room)}" in trained.stdout

    tested = run(room, "dmf.evaluate", folder, "--nExemplars", "5", "--episodes", "20")
    assert tested.returncode == 0, tested.stderr
    assert "5-way 5-shot, 20 test episodes" in tested.stdout
    assert len(list((folder / "evaluations").iterdir())) == 1

    again = run(room, "dmf.train", "--resume", folder)
    assert (again.returncode, "already done" in again.stdout) == (0, True)


def test_a_released_checkpoint_is_tested(room: Path) -> None:
    torch.manual_seed(0)
    released.save(build_method(DMFConfig(groups=160), DataConfig(), 64), room / "official.pth.tar")
    command = ["dmf.evaluate", "--resume", "official.pth.tar", "--dataset", "glyphs", "--episodes", "2"]
    tested = run(room, *command, "data.image_size=20", "data.normalisation=half", "--groups", "160")
    assert tested.returncode == 0, tested.stderr
    assert "5-way 1-shot, 2 test episodes" in tested.stdout
    wrong = run(room, *command, "--groups", "64")
    assert (wrong.returncode, "but official.pth.tar has 160" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model.alignment=1"], "model.alignment=1: .* is of the released DMF, with its settings; leave that out"),
        (["model.method=feat"], "model.method=feat: .* is of the released DMF"),
        (["--adapted-episodes", "2"], "--adapted-episodes is for .*, but model.method=dmf; use --episodes"),
    ],
)
def test_what_a_released_checkpoint_would_not_read_is_refused(tmp_path: Path, more: list[str], message: str) -> None:
    released.save(build_method(DMFConfig(), DataConfig(), 64), tmp_path / "official.pth.tar")
    command = ["--resume", str(tmp_path / "official.pth.tar"), "--dataset", "glyphs", *more]
    with pytest.raises(ValueError, match=message):
        evaluate.test(evaluate.parser().parse_intermixed_args(command))


def test_the_model_needs_neither_ray_nor_mlflow_nor_yaml() -> None:
    code = """
import sys
for name in ("ray", "mlflow", "yaml", "pandas", "optuna", "matplotlib"):
    sys.modules[name] = None  # importing it fails
import dmf.train, dmf.evaluate, dmf.released
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmf.train", "--dataset", "glyphs", "--groups", "7"], "groups=7 does not divide"),
        (["dmf.train", "--root", "/nowhere"], "/nowhere"),
        (["dmf.train", "model.groups"], "got 'model.groups', expected path=value"),
        (["dmf.train", "--resume", "nothing"], "nothing to resume"),
        (["dmf.evaluate"], "give either one"),
        (["dmf.train", "--dataset", "glyphs", "--save-dir", "/dev/null/x", *SMALL], "/dev/null/x"),
        (["dmf.evaluate", "nothing"], "nothing holds no finished training"),
        (["dmf.evaluate", "nothing", "--groups", "64"], "--groups needs --resume"),
        (["dmf.evaluate", "--resume", "nothing.pth.tar", "--dataset", "glyphs"], "no checkpoint at nothing.pth.tar"),
    ],
)
def test_mistakes_are_one_sentence(room: Path, arguments: list[str], message: str) -> None:
    result = run(room, *arguments)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
