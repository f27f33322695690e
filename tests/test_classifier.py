"""A trained model classifies images given by the user, as it does in an evaluation, without the training's images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dmf
from dmf.classifier import Classifier
from dmf.config import DataConfig, EvaluationConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import ImageSplit, open_data
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import correct_answers


@pytest.fixture(scope="module")
def model(trainings: Path) -> Classifier:
    return dmf.load(trainings / "ended")


@pytest.fixture(scope="module")
def split(cache: Path) -> ImageSplit:
    return open_data(DataConfig(name="glyphs", image_size=20, normalisation="half"), cache_dir=cache).test


def images(split: ImageSplit, rows: torch.Tensor) -> list[np.ndarray]:
    return list(split.pixels(rows).numpy())


def test_answers_are_those_of_an_evaluation(model: Classifier, split: ImageSplit) -> None:
    bank = episode_bank(split, EvaluationConfig(episodes=6, way=4, shot=2, queries=3))
    augment = Augmentation(model.config.augmentation, model.config.data)
    expected = correct_answers(model.model, split, bank, augment, model.config.training.precision).sum(1)
    for episode in range(len(bank)):
        labels = [f"class {way}" for way in range(4) for _ in range(2)]
        found = model.classify(
            images(split, bank.support[episode].flatten()), labels, images(split, bank.query[episode])
        )
        right = [f"class {target}" for target in bank.targets[episode].tolist()]
        assert sum(a == b for a, b in zip(found.labels, right, strict=True)) == expected[episode]


def test_the_order_of_the_images_changes_nothing(model: Classifier, split: ImageSplit) -> None:
    bank = episode_bank(split, EvaluationConfig(episodes=2, way=3, shot=2, queries=2))
    support, labels = images(split, bank.support[0].flatten()), list("aabbcc")
    queries = images(split, bank.query[0])
    one = model.classify(support, labels, queries)
    order = [5, 2, 0, 3, 4, 1]
    other = model.classify([support[i] for i in order], [labels[i] for i in order], queries)
    assert one.labels == other.labels
    places = [other.classes.index(name) for name in one.classes]
    torch.testing.assert_close(one.scores, other.scores[:, places], rtol=1e-4, atol=1e-5)


def test_files_arrays_and_pillow_images_are_the_same(model: Classifier, split: ImageSplit, tmp_path: Path) -> None:
    arrays = images(split, torch.arange(3))
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    expected = model.transform(arrays)
    assert expected.shape == (3, 3, 20, 20)
    torch.testing.assert_close(model.transform(paths), expected)
    torch.testing.assert_close(model.transform([Image.fromarray(array) for array in arrays]), expected)
    large = np.asarray(Image.fromarray(arrays[0]).resize((57, 41)))
    assert model.transform([large]).shape == (1, 3, 20, 20)
    assert model.transform([arrays[0][..., 0]]).shape == (1, 3, 20, 20)  # grey


def test_it_needs_the_folder_alone(trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(trainings / "ended", folder)
    monkeypatch.setenv("DMF_CACHE", str(tmp_path / "no cache"))
    image = np.zeros((20, 20, 3), np.uint8)
    found = dmf.load(str(folder)).classify([image, 255 - image], ["black", "white"], [image])
    assert found.classes == ["black", "white"] and found.scores.shape == (1, 2)
    assert not (tmp_path / "no cache").exists()


@pytest.mark.parametrize(
    ("count", "labels", "queries", "told"),
    [
        (3, "aab", 1, "the classes have 2, 1 images; expected the same number of each"),
        (2, "aa", 1, "got images of 1 class; expected two classes or more"),
        (2, "abc", 1, "got 2 images and 3 labels; expected one label for each image"),
        (2, "ab", 0, "got no queries; expected at least one image to classify"),
    ],
)
def test_a_wrong_question_is_answered(model: Classifier, count: int, labels: str, queries: int, told: str) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match=told):
        model.classify([image] * count, list(labels), [image] * queries)


def test_an_image_that_cannot_be_used_is_named(model: Classifier, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    good = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="image 1 cannot be used"):
        model.transform([good, tmp_path / "text.png"])
    with pytest.raises(ValueError, match="image 0 cannot be used"):
        model.transform([np.zeros((4, 4, 3))])


def test_a_folder_without_a_model_is_refused(trainings: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no training: config.json is missing"):
        dmf.load(tmp_path)
    shutil.copytree(trainings / "ended", tmp_path / "ended")
    (tmp_path / "ended/best.safetensors").unlink()
    with pytest.raises(ValueError, match="weights were not kept"):
        dmf.load(tmp_path / "ended")
