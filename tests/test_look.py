"""A sweep looks at its images before it pays for anything, and what they lack stays with its numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from dmf import evaluate, train
from dmf.config import EvaluationConfig, ExperimentConfig, Task
from dmf.data.sets import open_data
from dmf.records.records import EvaluationRecord, TrainingRecord
from orchestrator.costs.images import Look
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import plan
from orchestrator.sweep import main
from orchestrator.tracking.names import EXPERIMENT
from orchestrator.tracking.server import tracking_uri
from tests.sites import Site
from tests.test_bad_input import answer, transparent

PIXELS = """
name: own
set: {{data.name: birds, data.root: {root}, data.image_size: 12, data.normalisation: half, model.method: raw_pixels,
  training.device: cpu}}
evaluation: {{way: 2, queries: 2, episodes: 20{more}}}
parts:
  - {{table: '1'}}
"""
"""A sweep of one training that learns nothing, on class folders."""


def birds(root: Path, per_class: int = 5, classes: int = 3) -> Path:
    """Class folders with random images."""
    random = np.random.default_rng(len(root.name))
    for split in ("train", "val", "test"):
        for number in range(classes):
            (root / split / f"{split}{number}").mkdir(parents=True)
            for index in range(per_class):
                pixels = random.integers(256, size=(12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"{split}{number}" / f"{index}.png")
    return root


@pytest.fixture
def root(place: Path) -> Path:
    return birds(place / "birds")


def planned(root: Path, *settings: str) -> int:
    Path("own.yaml").write_text(PIXELS.format(root=root, more=""))
    return main(["own.yaml", "--plan", *settings])


LEARNT = ("model.method=proto_net", "model.backbone=conv64f", "model.last_pooling=false", "episodes.queries=2")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["episodes.way=9", *LEARNT], "train split: way=9 needs 9 classes, but the split has 3; lower episodes.way"),
        (
            ["episodes.way=2", "episodes.shot=4", "evaluation.shot=1", *LEARNT],
            "train split: shot=4 and queries=2 need 6 images per class, but the smallest class has 5 ('train0')",
        ),
        (
            ["episodes.way=3", "validation.way=4", *LEARNT],
            "validation on 4-way 1-shot episodes with 4 queries per class needs 4 classes of 5 images",
        ),
        (
            ["episodes.way=3", "validation.queries=5", *LEARNT],
            "the smallest has 5 images ('val0'); lower validation.way",
        ),
        (["evaluation.way=5"], "test split: way=5 needs 5 classes, but the split has 3; lower evaluation.way"),
        (["evaluation.shot=4"], "shot=4 and queries=2 need 6 images per class, but the smallest class has 5 ('test0')"),
        (["evaluation.split=val", "evaluation.queries=5"], "val split: shot=1 and queries=5 need 6 images per class"),
        (["data.root={one}", *LEARNT], "the val split has one class, 'val0', and an episode has two or more; give it"),
        (["data.root={one}"], "the val split has one class, 'val0'"),
        (["data.root=/nowhere"], "data.root='/nowhere' does not exist; expected a folder or a zip archive"),
        (["data.name=mini_imagenet"], "3/3/3 classes (train/val/test), expected 64/16/20 for mini_imagenet"),
        (["evaluation.data.name=fish", "evaluation.data.root=/nowhere"], "data.root='/nowhere' does not exist"),
    ],
)
def test_what_the_images_do_not_allow_is_told_once_by_the_plan_and_at_the_start(
    settings: list[str], told: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, "one", ignore=shutil.ignore_patterns("val[12]"))
    settings = [setting.format(one=Path("one").absolute()) for setting in settings]
    for command in (["--plan"], ["--executor", "local"]):
        Path("own.yaml").write_text(PIXELS.format(root=root, more=""))
        assert main(["own.yaml", *command, *settings, "seeds=[0,1]", "training.episodes_per_epoch=4"]) == 2
        said = capsys.readouterr().err
        assert said.count(told) == 1 and said.count("\n") == 1, said
        assert said.endswith("(1 training)\n") or (said.endswith("(2 trainings)\n") and settings[-1] == LEARNT[-1])
    assert not list(Path("runs").glob("trainings/*")), "nothing was begun"


def test_several_mistakes_are_told_together(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(root, "evaluation.way=9", "evaluation.data.name=fish", "evaluation.data.root=/nowhere") == 2
    assert "'/nowhere' does not exist" in capsys.readouterr().err
    spec = spec_from(
        {
            "name": "many",
            "set": {"data.name": "birds", "data.root": str(root), "data.image_size": 12, "model.method": "raw_pixels"},
            "evaluation": {"shots": list(range(4, 20)), "way": 2, "queries": 2},
            "parts": [{"table": "1"}],
        }
    )
    look = Look()
    look.at(plan(spec).trials())
    assert len(look.mistakes) == 16 and len(look.impossible) == 1
    assert look.told.count("\n") == 10 and look.told.endswith("... and 6 more")


def test_what_is_impossible_for_some_stops_the_others_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(
        PIXELS.format(root=root, more="") + f"  - {{table: 2c, set: {{data.root: {root}, episodes.way: 9}}}}\n"
    )
    settings = ["parts.1.model.method=proto_net", "parts.1.model.backbone=conv64f", "parts.1.model.last_pooling=false"]
    assert main(["own.yaml", "--executor", "local", *settings]) == 1
    said = capsys.readouterr().out
    assert "warning: these will fail, the others run: episodes of the train split: way=9" in said
    assert "2 trainings: 1 done, 1 failed" in said


def test_images_that_are_not_set_are_no_mistake_of_a_plan(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(PIXELS.format(root="null", more=""))
    assert main(["own.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "warning: images of birds: data.root is not set, so they were not looked at" in said
    assert main(["own.yaml", "--executor", "local"]) == 2
    assert "data.root is not set; expected the folder" in capsys.readouterr().err


def test_images_that_only_other_machines_have_are_no_mistake(root: Path) -> None:
    Path("own.yaml").write_text(PIXELS.format(root="/nowhere", more=""))
    look = Look(absent_is_doubt=True)
    spec = spec_from({"name": "s", "set": {"data.name": "birds", "data.root": "/nowhere"}, "parts": [{"table": "2c"}]})
    look.at(plan(spec).trials())
    assert list(look.doubts) == [
        "images of birds: there is nothing at /nowhere on this machine, so they were not looked at"
    ]
    assert not look.mistakes and not look.facts


def test_a_finished_sweep_needs_no_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text(PIXELS.format(root=root, more=""))
    assert main(["own.yaml", "--executor", "local"]) == 0
    shutil.rmtree(root)
    assert main(["own.yaml", "--executor", "local"]) == 0 and main(["own.yaml", "--plan"]) == 0
    assert "1 done, 0 to run" in capsys.readouterr().out


def test_validation_takes_what_the_split_allows_and_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training with more shots than validation has images had failed after the images were decoded."""
    shutil.rmtree(root / "val" / "val2")
    settings = [*LEARNT, "episodes.way=3", "episodes.shot=3", "training.epochs=1", "training.warmup_epochs=0"]
    settings += ["training.episodes_per_epoch=4", "training.validation_episodes=2"]
    Path("own.yaml").write_text(PIXELS.format(root=root, more=""))
    assert main(["own.yaml", "--plan", *settings]) == 0
    line = "validation on birds: 2-way 3-shot with 2 queries per class, as much as its val split allows (validation.*)"
    assert line in capsys.readouterr().out
    assert main(["own.yaml", "--executor", "local", *settings]) == 0
    assert line in capsys.readouterr().out
    (record,) = (TrainingRecord.read(path) for path in Path("runs").glob("trainings/*/training.json"))
    assert record.validation == Task(way=2, shot=3, queries=2)


# Doubts --------------------------------------------------------------------------------------------------------------


def test_doubts_about_images_are_told_on_every_start_and_stay_with_the_numbers(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transparent().save(root / "train" / "train0" / "x.png")
    (root / "val" / "empty").mkdir()
    Path("own.yaml").write_text(PIXELS.format(root=root, more=""))
    empty = "1 class folder without images left out, first val/empty"
    seen = "1 image with transparent pixels, which show white (data.background), first train/train0/x.png"
    assert main(["own.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    facts = "train 16 of 3 classes (5 to 6 each), val 15 of 3 classes (5 each), test 15 of 3 classes (5 each)"
    assert f"images: birds, class folders (sizes, copies and damage are found when they are decoded): {facts}" in said
    assert f"warning: images of birds: {empty}" in said and seen not in said
    assert main(["own.yaml", "--executor", "local"]) == 0
    for command in (["--plan"], ["--executor", "local"]):
        capsys.readouterr()
        assert main(["own.yaml", *command, "evaluation.episodes=30"]) == 0
        said = capsys.readouterr().out
        assert f"images: birds, class folders (12x12): {facts}" in said
        assert f"warning: images of birds: {empty}" in said and f"warning: images of birds: {seen}" in said
    for path in Path("runs").glob("trainings/*/training.json"):
        provenance = TrainingRecord.read(path).provenance
        assert provenance is not None and provenance.data_doubts == (empty, seen)
    table = Path("results/own/table_1.md").read_text()
    assert f"Images of birds: {empty}." in table and "Images of birds: 1 image with transparent pixels" in table


def test_a_single_training_tells_its_doubts_each_time(
    root: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    transparent().save(root / "train" / "train0" / "x.png")
    arguments = ["--dataset", "birds", "--root", str(root), "data.image_size=12", "model.method=raw_pixels"]
    for folder in ("one", "two"):
        caplog.clear()
        assert train.main([*arguments, "--save-dir", folder]) == 0
        assert "birds: 1 image with transparent pixels" in caplog.text


# Another data set ----------------------------------------------------------------------------------------------------


def test_a_trained_model_is_tested_on_another_data_set(
    trainings: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs no image of its training, and each data set has a record of its own."""
    other = birds(place / "CUB 200.2011", per_class=6)
    shutil.copytree(trainings / "ended", place / "ended")
    arguments = ["ended", "--way", "2", "--queries", "2", "--episodes", "6"]
    assert evaluate.main(arguments) == 0
    assert evaluate.main([*arguments, "--data", str(other)]) == 0
    assert "6 test episodes of cub_200 (bank" in capsys.readouterr().out
    found = [EvaluationRecord.read(path) for path in (place / "ended" / "evaluations").iterdir()]
    own, cross = sorted(found, key=lambda record: record.config.data is not None)
    assert cross.config.data is not None and (cross.config.data.name, cross.config.data.root) == ("cub_200", str(other))
    assert own.evaluation_key != cross.evaluation_key and own.data_fingerprint != cross.data_fingerprint
    assert own.training_key == cross.training_key and (own.classes, cross.classes) == (168, 3)
    assert evaluate.main([*arguments, "--data", str(other), "--dataset", "birds"]) == 0
    assert len(list((place / "ended" / "evaluations").iterdir())) == 3
    for wrong, told in (
        (["--data", "/nowhere"], "data.root='/nowhere' does not exist"),
        (["--data", str(other), "--dataset", "Birds"], "data.name: got 'Birds', expected lower-case"),
        (["--dataset", "birds"], "--dataset needs --resume"),
        (["--data", str(other), "--way", "9"], "test split: way=9 needs 9 classes, but the split has 3"),
    ):
        assert told in answer(evaluate.main, [*arguments, *wrong], capsys)


def test_where_other_images_are_is_not_part_of_an_evaluation_s_identity() -> None:
    plain = EvaluationConfig(shot=1)
    here, there = (plain.replace(data={"name": "cub", "root": root}) for root in ("/a", "/b"))
    assert here.key == there.key != plain.key == "e29539d7b4cd06d2"
    assert here.replace(data={"name": "dogs", "root": "/a"}).key != here.key


def test_a_sweep_has_columns_for_other_data_sets(root: Path, place: Path) -> None:
    fish = birds(place / "fish", per_class=6)
    transparent().save(fish / "test" / "test0" / "x.png")
    (place / "site").mkdir()
    site = Site(place / "site", PIXELS.format(root=root, more=f", also_on: [{{name: fish, root: {fish}}}]"))
    assert site.run() == 0, site.said
    table = (site.folder / "results" / "own" / "table_1.md").read_text()
    assert "birds, 2-way 1-shot" in table and "fish, 2-way 1-shot, trained on birds" in table
    assert "Images of fish: 1 image with transparent pixels" in table and "Ours: birds, fish" in table
    (trial,) = site.trials()
    own, cross = trial.evaluations
    assert own.data is None and cross.data is not None and cross.data.name == "fish"
    client = MlflowClient(tracking_uri(site.ledger.store, None))
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], "tags.`dmf.key` != ''")
    for evaluation, what in ((own, "2way_1shot"), (cross, "2way_1shot_fish")):
        record = site.ledger.evaluation(trial.key, evaluation.key)
        assert record is not None and run.data.metrics[f"test_accuracy/{what}"] == record.accuracy
    before = site.files()
    assert site.run() == 0 and site.files() == before, site.said
    Image.new("RGB", (12, 12), (1, 2, 3)).save(fish / "test" / "test1" / "new.png")
    assert isinstance(trial.config, ExperimentConfig)
    now = open_data(cross.data_of(trial.config)).fingerprint
    assert site.command("--plan") == 0
    assert f"stale: made from other images ({record.data_fingerprint[:8]}, today's are {now[:8]})" in site.said
