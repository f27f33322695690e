"""The images of the study can be laid out by anyone who has Tiny ImageNet, as docs/results.md says."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from dmf.config import ExperimentConfig
from dmf.data.sets import images_of
from orchestrator.store.archive import Archive

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_images_of_the_study_are_those_of_its_records(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the layout in which Tiny ImageNet comes."""
    with zipfile.ZipFile(shared / "data/tinyimagenet_fs/images.zip") as images:
        for name in images.namelist():
            path = Path("tiny-imagenet-200/train") / Path(name).parent.name / "images" / Path(name).name
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(images.read(name))
    (found,) = re.findall(r"```python\n(.*?)```", (DOCS / "results.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "docs").symlink_to(DOCS)
    monkeypatch.chdir(tmp_path)
    exec(found, {})
    config = ExperimentConfig().replace(
        data__name="tinyimagenet_fs", data__root=str(tmp_path / "DATA/tinyimagenet_fs"), data__image_size=64
    )
    records = Archive(DOCS / "study/table1_tinyimagenet.dmfa").trainings.values()
    made = {record.provenance.data_fingerprint for record in records if record.provenance}
    assert made == {images_of(config).fingerprint}
