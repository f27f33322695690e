"""The embedded data set: disjoint shapes, determinism, and images that are neither trivial nor too hard."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from dmf.data.glyphs import (
    IMAGES_PER_CLASS,
    LOOK_ALIKE,
    REFERENCE_FACE,
    SCRIPTS,
    UNASSIGNED,
    Face,
    Split,
    class_characters,
    clean_shape,
    glyphs,
    place,
    texture,
)

pytest.importorskip("matplotlib", reason="the fonts are matplotlib's")


@pytest.fixture(scope="module")
def small() -> dict[str, Split]:
    return glyphs(16, 1)


def digest(splits: dict[str, Split]) -> str:
    return hashlib.sha256(b"".join(images.tobytes() for images, _, _ in splits.values())).hexdigest()


def test_splits_are_as_large_as_promised_and_balanced(small: dict[str, Split]) -> None:
    assert list(small) == ["train", "val", "test"]
    for split, (low, high) in {"train": (200, 400), "val": (40, 100), "test": (60, 200)}.items():
        images, labels, classes = small[split]
        assert low <= len(classes) <= high
        assert images.shape == (len(labels), 16, 16, 1) and images.dtype == np.uint8 and labels.dtype == np.int64
        assert np.array_equal(np.bincount(labels), np.full(len(classes), IMAGES_PER_CLASS))
        assert classes == tuple(sorted(set(classes)))


def test_no_image_is_there_twice(small: dict[str, Split]) -> None:
    images = np.concatenate([images for images, _, _ in small.values()])
    assert len({image.tobytes() for image in images}) == len(images)


def test_splits_share_no_script() -> None:
    scripts = {
        split: {unicodedata.name(character).split()[0] for character in characters.values()}
        for split, characters in class_characters().items()
    }
    assert scripts["val"] <= {"ARMENIAN", "GREEK"}
    assert scripts["test"] == {"GEORGIAN", "HEBREW", "LAO", "TIFINAGH"}
    assert not scripts["train"] & (scripts["val"] | scripts["test"])
    for split, characters in class_characters().items():
        assert {name.split("_")[0] for name in characters} == set(SCRIPTS[split])


def test_no_two_classes_look_alike_within_or_between_splits() -> None:
    face = Face.load(REFERENCE_FACE, 64)
    characters = [character for names in class_characters().values() for character in names.values()]
    shapes = np.stack([clean_shape(face.bitmap(character)) for character in characters])
    alike = shapes @ shapes.T - 2 * np.eye(len(shapes))
    assert alike.max() < LOOK_ALIKE
    assert len({"A", "\N{GREEK CAPITAL LETTER ALPHA}", "\N{CYRILLIC CAPITAL LETTER A}"} & set(characters)) <= 1
    assert len({"o", "O", "0", "\N{GREEK SMALL LETTER OMICRON}", "\N{CYRILLIC SMALL LETTER O}"} & set(characters)) <= 1


def test_a_shape_does_not_depend_on_size_and_place() -> None:
    small, large = (Face.load(REFERENCE_FACE, size).bitmap("R") for size in (48, 96))
    moved = Image.new("L", (large.width + 30, large.height + 50))
    moved.paste(large, (25, 10))
    assert clean_shape(small) @ clean_shape(moved.crop(moved.getbbox())) > 0.95
    assert clean_shape(small) @ clean_shape(Face.load(REFERENCE_FACE, 48).bitmap("S")) < LOOK_ALIKE


def test_faces_say_which_characters_they_lack() -> None:
    assert Face.load("STIXGeneral", 32).bitmap("\N{GEORGIAN LETTER AN}") is None
    assert Face.load("DejaVuSans", 32).bitmap("\N{GEORGIAN LETTER AN}") is not None
    assert Face.load("DejaVuSans", 32).bitmap(UNASSIGNED) is None
    assert Face.load("DejaVuSans", 32).bitmap(" ") is None
    with pytest.raises(ValueError, match="NoSuchFace.ttf"):
        Face.load("NoSuchFace", 32)


def three_per_class(seed: int) -> dict[str, Split]:
    """The data set with fewer images per class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmf.data.glyphs.IMAGES_PER_CLASS", 3)
        return glyphs(16, 3, seed)


def test_another_process_draws_the_same_bytes() -> None:
    """With another hash seed, so that the order of a set or dictionary cannot matter, and other thread counts."""
    code = "from tests.test_glyphs import digest, three_per_class; print(digest(three_per_class(5)))"
    environment = os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(three_per_class(5))


def test_another_seed_draws_other_images_of_the_same_classes() -> None:
    first, other = three_per_class(0), three_per_class(1)
    for split, (images, labels, classes) in first.items():
        assert other[split][2] == classes and np.array_equal(other[split][1], labels)
        assert (other[split][0] != images).any(axis=(1, 2, 3)).all()


def nearest(queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """Index of the row of `supports` [n, D] with the largest cosine to each of `queries` [q, D]."""
    return (queries @ (supports / np.linalg.norm(supports, axis=1, keepdims=True)).T).argmax(axis=1)


def test_raw_pixels_say_little_and_not_nothing(small: dict[str, Split]) -> None:
    """5-way 1-shot by cosine is near chance; with half of a class as support, its character becomes visible."""
    images, _, classes = small["test"]
    pixels = images.reshape(len(classes), IMAGES_PER_CLASS, -1) / 255
    random, way, half = np.random.RandomState(0), 5, IMAGES_PER_CLASS // 2
    right = {1: 0.0, half: 0.0}
    truth = np.repeat(np.arange(way), half)
    for _ in range(300):
        chosen = pixels[random.choice(len(classes), way, replace=False)][:, random.permutation(IMAGES_PER_CLASS)]
        queries = chosen[:, half:].reshape(way * half, -1)
        for shot in right:
            right[shot] += (nearest(queries, chosen[:, :shot].mean(axis=1)) == truth).mean() / 300
    assert 0.21 < right[1] < 0.33
    assert right[half] > right[1] + 0.1


def test_place_scales_turns_and_moves() -> None:
    bar = Image.new("L", (40, 10), 255)

    def box(angle: float) -> tuple[int, ...]:
        drawn = place(bar, 64, side=0.5, stretch=1.0, angle=angle, slant=0.0, centre=(0.5, 0.25))
        return Image.fromarray(np.uint8(drawn > 127)).getbbox()

    assert box(0.0) == (16, 12, 48, 20)
    assert np.abs(np.subtract(box(np.pi / 2), (28, 0, 36, 32))).max() <= 1


def test_place_maps_every_point_as_its_formula_says() -> None:
    """A dot of the bitmap, away from the middle, lands where the forward map puts it."""
    dotted = Image.new("L", (41, 31))
    dotted.paste(255, (29, 19, 34, 24))
    size, side, stretch, angle, slant, centre = 128, 0.7, 1.2, 0.4, 0.3, (0.45, 0.55)
    drawn = place(dotted, size, side, stretch, angle, slant, centre).astype(float)
    found = [(drawn.sum(axis) * (np.arange(size) + 0.5)).sum() / drawn.sum() for axis in (0, 1)]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = turn @ np.array([[1, slant], [0, 1]]) @ np.diag([stretch, 1 / stretch])
    expected = size * side / 41 * shape @ (np.array([31.5, 21.5]) - (20.5, 15.5)) + size * np.array(centre)
    np.testing.assert_allclose(found, expected, atol=0.5)


def test_texture_is_bilinear_between_its_cells() -> None:
    drawn = texture(np.random.RandomState(0), 2, 11)
    assert drawn.shape == (2, 11, 11, 3) and drawn.std() > 0.03
    cells = drawn[:, ::2, ::2]
    np.testing.assert_allclose(drawn[:, 1::2, ::2], (cells[:, :-1] + cells[:, 1:]) / 2, atol=1e-6)
    np.testing.assert_allclose(drawn[:, ::2, 1::2], (cells[:, :, :-1] + cells[:, :, 1:]) / 2, atol=1e-6)


@pytest.mark.parametrize("arguments", [(4, 3), (32, 2), (32, 3, -1)])
def test_impossible_sizes_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="channels 1 or 3"):
        glyphs(*arguments)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        glyphs(16, 3)


def test_importing_the_module_leaves_matplotlib_alone() -> None:
    code = "import sys, dmf.data.glyphs; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
