"""Images as people have them, read to the right pixels: what published reports of mistakes are about."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmf.config import DataConfig
from dmf.data import known
from dmf.data.layouts.pictures import SUFFIXES_OF
from dmf.data.sets import DataSet, open_data
from dmf.data.survey import survey
from tests import test_data as layouts
from tests.test_bad_input import noise, pictures
from tests.test_data import dump, opened

SIDE = 28
ALPHABETS = {"train": ("Greek", "Latin"), "val": ("Hebrew", "Armenian"), "test": ("Kannada", "Tengwar")}
"""Alphabets of Omniglot whose first characters are classes here."""
ORIENTED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> what a camera does to the upright image that it stores with it."""

Pictures = dict[str, Image.Image]
"""Images by file, such as `train/Greek/0.png`."""


@pytest.fixture(scope="module")
def characters(omniglot_root: Path) -> Pictures:
    """Real characters, black on white: 5 classes a split, 20 images each."""
    found: Pictures = {}
    for part in ("background", "evaluation"):
        with zipfile.ZipFile(omniglot_root / f"images_{part}.repacked.zip") as archive:
            for split, alphabets in ALPHABETS.items():
                for alphabet in alphabets:
                    for name in archive.namelist():
                        if f"/{alphabet}/character0" in name and name.endswith(".png") and "character00" not in name:
                            character, file = name.split("/")[-2:]
                            if int(character[-2:]) <= 3:
                                picture = Image.open(io.BytesIO(archive.read(name)), formats=["PNG"])
                                found[f"{split}/{alphabet}_{character}/{file}"] = picture.convert("L")
    return found


def write(root: Path, drawn: Pictures, **options: object) -> Path:
    for name, picture in drawn.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name, **options)
    return root


def read(root: Path, cache: Path, full_size: bool = False, **fields: object) -> DataSet:
    given = {"name": "mine", "root": str(root), "image_size": SIDE, "channels": 1} | fields
    return open_data(DataConfig.from_dict(given), full_size, cache)


def strokes(picture: Image.Image, mode: str) -> Image.Image:
    """The black strokes of a character on a transparent ground."""
    alpha = Image.eval(picture, lambda value: 255 - value)
    black = Image.merge("LA", [Image.new("L", picture.size, 0), alpha])
    if mode == "P":  # entry 0 is transparent and black, entry 1 opaque and black
        flat = alpha.point(lambda value: int(value > 0)).convert("P")
        flat.putpalette([0] * 6)
        return flat
    return black.convert(mode)


# Transparency --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_strokes_on_a_transparent_ground_are_those_on_white(mode: str, characters: Pictures, tmp_path: Path) -> None:
    """Dropping the transparency made every image black."""
    plain = read(write(tmp_path / "plain", characters), tmp_path / "cache")
    drawn = {name: strokes(picture, mode) for name, picture in characters.items()}
    options = {"transparency": 0} if mode == "P" else {}
    root = write(tmp_path / "drawn", drawn, **options)
    data = read(root, tmp_path / "cache")
    assert data.fingerprint == plain.fingerprint and plain.doubts == ()
    first = min(name for name in drawn)
    assert data.doubts == (
        f"{len(drawn)} images with transparent pixels, which show white (data.background), first {first}",
    )
    with pytest.raises(ValueError, match="119 images of 'train' are copies"):  # black on black, as asked for
        read(root, tmp_path / "cache", background="black")


def test_a_transparency_that_is_the_same_everywhere_is_dropped(characters: Pictures, tmp_path: Path) -> None:
    plain = read(write(tmp_path / "plain", characters), tmp_path / "cache")
    for alpha in (0, 128, 255):
        faded = {name: picture.convert("RGBA") for name, picture in characters.items()}
        for picture in faded.values():
            picture.putalpha(alpha)
        data = read(write(tmp_path / str(alpha), faded), tmp_path / "cache")
        assert data.fingerprint == plain.fingerprint and data.doubts == ()


# Orientation ---------------------------------------------------------------------------------------------------------


def photographs(shared: Path, count: int = 4) -> Pictures:
    """Real photographs, cropped to 64x48, of two classes a split."""
    source = shared / "data" / "tinyimagenet_fs"
    found: Pictures = {}
    with zipfile.ZipFile(source / "images.zip") as archive:
        for split in ("train", "val", "test"):
            rows = [row.split(",") for row in (source / f"{split}.csv").read_text().splitlines()[1:]]
            for class_id in sorted({class_id for _, class_id in rows})[:2]:
                for number, name in enumerate([name for name, each in rows if each == class_id][:count]):
                    picture = Image.open(io.BytesIO(archive.read(f"images/{name}")), formats=["JPEG"])
                    found[f"{split}/{class_id}/{number}.png"] = picture.convert("RGB").crop((0, 0, 64, 48))
    return found


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_photographs_are_turned_as_their_camera_says(kind: str, shared: Path, tmp_path: Path) -> None:
    upright = photographs(shared)
    for number, name in enumerate(list(upright)):
        orientation = 2 + number % 7
        exif = Image.Exif()
        exif[274] = orientation
        path = (tmp_path / "turned" / name).with_suffix(f".{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = upright[name].transpose(ORIENTED[orientation])
        stored.save(path, exif=exif, **({"lossless": True} if kind == "webp" else {}))
        assert path.read_bytes().find(b"\x01\x12" if kind != "tiff" else b"\x12\x01") > 0, "it has an orientation"
    plain = write(tmp_path / "plain", upright)
    for full_size in (False, True):
        expected = read(plain, tmp_path / "cache", full_size, channels=3)
        turned = read(tmp_path / "turned", tmp_path / "cache", full_size, channels=3, orientation="exif")
        assert turned.fingerprint == expected.fingerprint
        stored = read(tmp_path / "turned", tmp_path / "cache", full_size, channels=3)
        if kind == "tiff":  # Pillow turns it by itself
            assert stored.fingerprint == expected.fingerprint and stored.doubts == ()
        else:
            told = f"{len(upright)} images with an EXIF orientation, read as stored"
            assert stored.doubts[0].startswith(told) and stored.fingerprint != expected.fingerprint
            assert turned.doubts[0].startswith(f"{len(upright)} images turned as their EXIF orientation says")


def test_known_data_sets_are_read_as_published_code_reads_them(shared: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "root", photographs(shared))
    with pytest.raises(ValueError, match=r"orientation=exif, but mini_imagenet is read as stored.*mini_imagenet_mine"):
        read(root, tmp_path / "cache", name="mini_imagenet", orientation="exif")


def test_exif_data_that_cannot_be_read_keep_no_image_out(shared: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "root", photographs(shared))
    folder = next((root / "val").iterdir())
    for number, damage in enumerate((b"MM\0*\xff\xff\xff\xff", b"", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08")):
        noise(number, side=48).save(folder / f"damaged {number}.jpg", exif=b"Exif\0\0" + damage)
    for orientation in ("stored", "exif"):
        assert len(read(root, tmp_path / "cache", channels=3, orientation=orientation).val) == 8 + 4


# Kinds of files ------------------------------------------------------------------------------------------------------

LOSSLESS: dict[str, dict[str, bool]] = {
    suffix: {} for suffix in (".tif", ".bmp", ".ppm", ".tga", ".qoi", ".jp2", ".pcx")
}
LOSSLESS[".webp"] = {"lossless": True}
IN_FILES = (layouts.write_folders, layouts.write_class_lists, layouts.write_csv, layouts.write_json)


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("layout", IN_FILES)
def test_every_kind_of_image_is_read_in_every_layout(
    suffix: str,
    layout: layouts.Callable[..., None],
    tmp_path: Path,
) -> None:
    """A class list of 200 images of which 100 were .webp had been read as one of 100."""
    (tmp_path / "plain").mkdir()
    layout(tmp_path / "plain", pictures())
    expected = opened(tmp_path / "plain", tmp_path / "cache")
    shutil.copytree(tmp_path / "plain", tmp_path / "root")
    lists = [path for path in (tmp_path / "root").rglob("*") if path.suffix in (".csv", ".json")]
    for path in list((tmp_path / "root").rglob("[!.]*.*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp") and path.stem.endswith(("1", "2")):
            Image.open(path, formats=["PNG"]).save(path.with_suffix(suffix), **LOSSLESS[suffix])
            for each in lists:
                each.write_text(each.read_text().replace(path.name, path.with_suffix(suffix).name))
            if path.suffix != suffix:
                path.unlink()
    assert opened(tmp_path / "root", tmp_path / "cache").fingerprint == expected.fingerprint


def test_every_suffix_is_one_of_pillow_s() -> None:
    Image.init()
    for kind, suffixes in SUFFIXES_OF.items():
        assert {suffix for suffix in suffixes if Image.EXTENSION.get(suffix) not in (kind, "JPEG")} <= {".qoi", ".rgba"}
    assert not {"EPS", "WMF", "PDF"} & SUFFIXES_OF.keys()


# Names ---------------------------------------------------------------------------------------------------------------


def test_a_class_is_the_same_however_its_accents_are_encoded(tmp_path: Path) -> None:
    """macOS stores decomposed names; the same set has the same fingerprint on another system."""
    found = set()
    for form in ("NFC", "NFD"):
        renamed = {
            split: {unicodedata.normalize(form, f"épervier {name}"): arrays for name, arrays in classes.items()}
            for split, classes in pictures().items()
        }
        layouts.write_folders(tmp_path / form, renamed)
        found.add(opened(tmp_path / form, tmp_path / "cache").fingerprint)
    assert len(found) == 1


def test_a_list_in_json_finds_the_file_that_it_names(tmp_path: Path) -> None:
    """By the longest end of the path: with other images below another folder, class and file alone are not enough."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    layouts.write_json(tmp_path / "plain", pictures())
    expected = opened(tmp_path / "plain", tmp_path / "cache").fingerprint
    for folder in ("aaa", "zzz"):
        root = tmp_path / folder
        shutil.copytree(tmp_path / "plain", root)
        for path in list((root / "pictures").glob("*/*.jpg")):
            thumb = root / folder / path.relative_to(root / "pictures")
            thumb.parent.mkdir(parents=True, exist_ok=True)
            thumb.write_bytes(layouts.png(np.zeros((2, 2, 3), np.uint8)))
        for path in root.glob("*.json"):
            path.write_text(path.read_text().replace("/else/", "/else/pictures/"))
        assert opened(root, tmp_path / "cache").fingerprint == expected


@pytest.mark.parametrize("rotated", [False, True])
def test_omniglot_in_lists_of_closer_look(rotated: bool, characters: Pictures, tmp_path: Path) -> None:
    """`character01` is in every alphabet, and with rotations `rot000` in every character."""
    turns = (0, 90, 180, 270) if rotated else (0,)
    for split, alphabets in ALPHABETS.items():
        names, labels, classes = [], [], []
        for name, picture in characters.items():
            if name.startswith(split):
                alphabet, character = name.split("/")[1].split("_")
                for turn in turns:
                    folder = f"{alphabet}/{character}" + (f"/rot{turn:03}" if rotated else "")
                    path = tmp_path / "images" / folder / name.rpartition("/")[2]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.rotate(turn).save(path)
                    classes += [folder] if folder not in classes else []
                    names.append(f"/home/someone/filelists/omniglot/images/{folder}/{path.name}")
                    labels.append(classes.index(folder))
        assert len(classes) == 3 * len(alphabets) * len(turns)
        text = json.dumps({"label_names": classes, "image_names": names, "image_labels": labels})
        (tmp_path / f"{ {'train': 'base', 'val': 'val', 'test': 'novel'}[split] }.json").write_text(text)
    data = read(tmp_path, tmp_path / "cache")
    assert data.layout == "image lists in JSON" and data.doubts == ()
    first = "Greek/character01" + ("/rot000" if rotated else "")
    assert data.train.classes[0] == first and len(data.train.classes) == 6 * len(turns)
    np.testing.assert_array_equal(np.bincount(data.train.labels), 20)


# Channels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiered_imagenet", "mini_imagenet"])
def test_photographs_with_blue_first_are_turned(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV's arrays: told by the channels' means, which in these sets differ by 16 to 19."""
    monkeypatch.setitem(known.DATASETS, name, known.Facts(None, None, ""))
    photos = photographs(shared, count=40)
    for order, step in (("rgb", 1), ("bgr", -1)):
        for number, split in enumerate(("train", "val", "test")):
            named = {file: picture for file, picture in photos.items() if file.startswith(split)}
            classes = sorted({file.split("/")[1] for file in named})
            labels = [10 * number + classes.index(file.split("/")[1]) for file in named]
            (tmp_path / order).mkdir(exist_ok=True)
            arrays = np.stack([np.asarray(picture)[..., ::step] for picture in named.values()])
            np.savez(tmp_path / order / f"{split}_images.npz", images=arrays)
            dump({"labels": labels}, tmp_path / order / f"{split}_labels.pkl")
    rgb, bgr = (read(tmp_path / order, tmp_path / "cache", channels=3, name=name) for order in ("rgb", "bgr"))
    assert rgb.fingerprint == bgr.fingerprint and rgb.doubts == ()
    (told,) = bgr.doubts
    assert told.endswith("so the channels are in OpenCV's order blue, green, red; read as red, green, blue")
    own = read(tmp_path / "bgr", tmp_path / "cache", channels=3)
    assert own.fingerprint != rgb.fingerprint and "if OpenCV made the arrays" in own.doubts[0]


# What is told without decoding ---------------------------------------------------------------------------------------


def test_a_survey_says_before_decoding_what_is_there(characters: Pictures, tmp_path: Path) -> None:
    root = write(tmp_path / "root", {name: strokes(picture, "LA") for name, picture in characters.items()})
    (root / "val" / "empty").mkdir()
    config = DataConfig(name="mine", root=str(root), image_size=SIDE, rotations_as_classes=True)
    seen = survey(config)
    assert str(seen).partition("; decoded so far")[0] == (  # other tests may have decoded these pictures
        "mine, class folders (sizes, copies and damage are found when they are decoded): train 480 of 24 classes (20 "
        "each), val 480 of 24 classes (20 each), test 480 of 24 classes (20 each)"
    )
    assert seen.doubts == ("1 class folder without images left out, first val/empty",)
    data = open_data(config)
    after = survey(config)
    assert after.image_sizes == "105x105" and after.doubts == data.doubts and len(data.doubts) == 2
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(seen.splits[name].labels, data.split(name).labels)
        np.testing.assert_array_equal(after.splits[name].labels, data.split(name).labels)
