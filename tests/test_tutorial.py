"""The tutorial, walked from its first command to its last on a folder of drawn photographs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"```(python|yaml|sh)\n(.*?)```", TEXT, re.DOTALL)
SHORTER = {
    "data.image_size: 84": "data.image_size: 20",
    "training.epochs: 20": "training.epochs: 2",
    "training.episodes_per_epoch: 200": "training.episodes_per_epoch: 4",
    "training.validation_episodes: 200": "training.validation_episodes: 4",
    "episodes: 1000": "episodes: 20",
    "  training.learning_rate: 0.1\n": "  training.learning_rate: 0.1\n  augmentation.crop_padding: 2\n",
}
"""What the test changes in the tutorial's sweep file, so that it takes seconds."""


def draw(folder: Path, classes: int = 25, images: int = 16) -> None:
    """Photographs of a colour for each class."""
    random = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"kind {number}").mkdir(parents=True)
        colour = random.integers(0, 200, 3)
        for image in range(images):
            pixels = (colour + random.integers(0, 56, (30, 40, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"kind {number}" / f"IMG_{image:04}.jpg")


def test_every_step_of_the_tutorial_runs(tmp_path: Path) -> None:
    draw(tmp_path / "photos")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DMF_CACHE": str(tmp_path / "cache"),
    }
    said: list[str] = []
    for kind, block in BLOCKS:
        if kind == "yaml":
            for usual, shorter in SHORTER.items():
                assert usual in block
                block = block.replace(usual, shorter)
            (tmp_path / "photos.yaml").write_text(block)
            continue
        command = ["bash", "-ec", block] if kind == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        said.append(done.stdout)
    _, plan, calibrated, _, trained, status, table, more, classified, asked, cleaned = said
    assert "photos, class folders" in plan and "7 distinct" in plan and "7 missing" not in plan
    assert "estimated: " in calibrated
    assert "7 trainings, 0 done, 7 to run" in trained and "7 done" in status
    for row in ("proto_net", "dmf", "raw_pixels", "3 of 3", "baseline"):
        assert row in table, table
    assert "9 distinct" in more
    assert classified.count("kind ") == 10
    assert asked.count("7 trainings, 0 done, 7 to run (all only to test)") == 3
    for column in ("5-way 3-shot", "3-way 1-shot", "glyphs"):
        assert column in asked.lower()
    assert "removed " in cleaned and "would remove decoded images (20 px)" in cleaned
    assert not (tmp_path / "look" / "sweeps" / "photos").exists() and (tmp_path / "runs" / "sweeps" / "photos").exists()


def test_words_are_explained_before_they_are_used() -> None:
    before = TEXT.split("## 1.")[0]
    explained = {word for line in re.findall(r"^\| ([^|]+) \|", before, re.MULTILINE) for word in line.split(", ")}
    for word in ("episode", "way", "shot", "support", "queries", "backbone", "seed", "sweep", "store", "class"):
        assert word in explained


@pytest.mark.parametrize("page", ["README.md", "docs/sweep_files.md"])
def test_it_is_linked(page: str) -> None:
    assert "tutorial.md" in (ROOT / page).read_text()
