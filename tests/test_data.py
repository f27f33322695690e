from __future__ import annotations

import io
import json
import logging
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmf.config import DataConfig
from dmf.data.layouts.files import omniglot_split
from dmf.data.sets import DATASETS, DataSet, ImageSplit, open_data
from dmf.machine.paths import default_cache_dir

SIDE = 12
CLASSES = {"train": ("n03", "n01", "n02"), "val": ("n05", "n04"), "test": ("n06", "n07")}
PER_CLASS = 4
Images = dict[str, dict[str, np.ndarray]]


@pytest.fixture
def images() -> Images:
    """Images by split and class, uint8 [PER_CLASS, SIDE, SIDE, 3], all different."""
    random = np.random.default_rng(0)
    return {
        split: {name: random.integers(256, size=(PER_CLASS, SIDE, SIDE, 3), dtype=np.uint8) for name in classes}
        for split, classes in CLASSES.items()
    }


def opened(root: Path, cache: Path, full_size: bool = False, **fields: object) -> DataSet:
    config = DataConfig.from_dict({"name": "mine", "root": str(root), "image_size": SIDE} | fields)
    return open_data(config, full_size, cache)


def dump(data: object, path: Path, protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(data, protocol))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def arrays_and_names(images: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Images of one split, taking one of every class in turn, which is not the order of a sorted folder."""
    names = list(images) * PER_CLASS
    return np.stack([images[name][i // len(images)] for i, name in enumerate(names)]), names


NUMBERS = {name: i for i, name in enumerate(sorted(sum(CLASSES.values(), ())))}


def write_folders(root: Path, images: Images) -> None:
    for split, classes in images.items():
        for i, (name, arrays) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for j, pixels in enumerate(arrays):
                # PNG bytes, whatever the name: these tests compare pixels, which JPEG would change
                (folder / f"{j}{('.jpg', '.JPEG', '.png', '.Bmp')[(i + j) % 4]}").write_bytes(png(pixels))
            (folder / ".DS_Store").write_bytes(b"x")
            (folder / "._0.jpg").write_bytes(b"x")


def write_csv(root: Path, images: Images, column: str = "label", blank: str = "\n") -> None:
    for split, classes in images.items():
        rows = [f"filename,{column}"]
        for name, arrays in classes.items():
            for j, pixels in enumerate(arrays):
                (root / "images").mkdir(parents=True, exist_ok=True)
                (root / "images" / f"{name}_{j}.JPEG").write_bytes(png(pixels))
                rows.append(f"{name}_{j}.JPEG,{name}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n" + blank)


def write_vinyals_csv(root: Path, images: Images) -> None:
    write_csv(root, images, "class", "\n  \n,\n")


def write_csv_in_split_folder(root: Path, images: Images) -> None:
    write_csv(root, images)
    (root / "split").mkdir()
    for split in images:
        (root / f"{split}.csv").rename(root / "split" / f"{split}.csv")


def write_csv_and_zip(root: Path, images: Images) -> None:
    write_csv(root, images)
    zip_folder(root / "images", root / "images.zip", "images/")
    shutil.rmtree(root / "images")


def write_category_pickles(root: Path, images: Images) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        phase = "train_phase_train" if split == "train" else split
        data = {"data": arrays, "labels": [NUMBERS[name] for name in names], "catname2label": None}
        dump(data, root / f"miniImageNet_category_split_{phase}.pickle", 2)


def write_cifar_pickles(root: Path, images: Images) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        dump({b"data": arrays, b"labels": np.array([NUMBERS[n] for n in names])}, root / f"CIFAR_FS_{split}.pickle")


def write_cache_pickles(root: Path, images: Images) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        indices = {name: [i for i, other in enumerate(names) if other == name] for name in classes}
        dump({"image_data": arrays, "class_dict": indices}, root / f"mini-imagenet-cache-{split}.pkl")


def write_npz(root: Path, images: Images, save: Callable[..., None] = np.savez) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        dump({"labels": [NUMBERS[name] for name in names]}, root / f"{split}_labels.pkl")
        save(root / f"{split}_images.npz", images=arrays)


def write_compressed_npz(root: Path, images: Images) -> None:
    write_npz(root, images, np.savez_compressed)


def write_png_pickles(root: Path, images: Images) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        order = sorted(classes)
        labels = {
            "label_specific": np.array([order.index(name) for name in names]),
            "label_specific_str": order,
            "label_general": np.zeros(len(names), int),
        }
        dump(labels, root / f"{split}_labels.pkl")
        dump([np.frombuffer(png(pixels), np.uint8) for pixels in arrays], root / f"{split}_images_png.pkl", 2)


def write_picture_pickles(root: Path, images: Images) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        numbers = {name: i for i, name in enumerate(classes)}
        data = ([Image.fromarray(pixels) for pixels in arrays], [numbers[name] for name in names], numbers)
        dump(data, root / f"{split}.pth")


def write_class_lists(root: Path, images: Images) -> None:
    for split, classes in images.items():
        for name, arrays in classes.items():
            (root / "data" / name).mkdir(parents=True)
            for j, pixels in enumerate(arrays):
                (root / "data" / name / f"{j}.png").write_bytes(png(pixels))
        (root / "splits" / "bertinetto").mkdir(parents=True, exist_ok=True)
        (root / "splits" / "bertinetto" / f"{split}.txt").write_text("\n".join(classes) + "\n")


def write_json(root: Path, images: Images) -> None:
    for split, classes in images.items():
        names, labels = [], []
        for number, (name, arrays) in enumerate(classes.items()):
            (root / "pictures" / name).mkdir(parents=True)
            for j, pixels in enumerate(arrays):
                (root / "pictures" / name / f"{j}.jpg").write_bytes(png(pixels))
                names.append(f"/home/someone/else/{name}/{j}.jpg")
                labels.append(number)
        file = {"train": "base", "val": "val", "test": "novel"}[split]
        text = json.dumps({"label_names": list(classes), "image_names": names, "image_labels": labels})
        (root / f"{file}.json").write_text(text)


def zip_folder(folder: Path, archive: Path, prefix: str) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, prefix + path.relative_to(folder).as_posix())
        file.writestr("__MACOSX/" + prefix + "._0.jpg", b"x")


LAYOUTS = {
    "class folders": (write_folders,),
    "images and CSV": (write_csv, write_vinyals_csv, write_csv_in_split_folder, write_csv_and_zip),
    "category-split pickles": (write_category_pickles,),
    "cache pickles": (write_cache_pickles,),
    "CIFAR-FS pickles": (write_cifar_pickles,),
    "npz images": (write_npz, write_compressed_npz),
    "png pickles": (write_png_pickles,),
    "PIL pickles": (write_picture_pickles,),
    "class lists": (write_class_lists,),
    "image lists in JSON": (write_json,),
}
CASES = [pytest.param(name, write, id=write.__name__) for name, writers in LAYOUTS.items() for write in writers]


@pytest.mark.parametrize(("layout", "write"), CASES)
def test_every_layout_gives_the_same_images(
    layout: str, write: Callable[[Path, Images], None], images: Images, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write(root, images)
    before = {path: path.stat() for path in root.rglob("*")}
    data = opened(root, tmp_path / "cache")
    assert data.layout == layout and data.image_sizes == f"{SIDE}x{SIDE}"
    for name, classes in CLASSES.items():
        split = data.split(name)
        in_order = sorted(classes)
        if layout in ("category-split pickles", "CIFAR-FS pickles", "npz images"):
            assert split.classes == tuple(f"{NUMBERS[class_id]:05d}" for class_id in in_order)
        else:
            assert split.classes == tuple(in_order)
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.labels, np.repeat(np.arange(len(classes)), PER_CLASS))
        expected = np.concatenate([images[name][class_id] for class_id in in_order])
        np.testing.assert_array_equal(split.pixels(np.arange(len(split))), expected)
    unchanged = {path: path.stat() for path in root.rglob("*")}
    assert {p: (s.st_mtime_ns, s.st_size) for p, s in unchanged.items()} == {
        p: (s.st_mtime_ns, s.st_size) for p, s in before.items()
    }, "the user's folder is never written to"


@pytest.mark.parametrize("write", [write_folders, write_class_lists, write_csv, write_npz, write_category_pickles])
def test_a_root_may_be_a_zip_archive(write: Callable[[Path, Images], None], images: Images, tmp_path: Path) -> None:
    write_to = tmp_path / "extracted"
    write_to.mkdir()
    write(write_to, images)
    for number, prefix in enumerate(("", "cifar100/")):
        archive = tmp_path / f"{number}.zip"
        zip_folder(write_to, archive, prefix)
        one, other = (opened(root, tmp_path / "cache") for root in (archive, write_to))
        assert one.layout == other.layout and one.fingerprint == other.fingerprint


def test_the_fingerprint_is_of_the_images_alone(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "folders", images)
    write_csv(tmp_path / "csv", images)
    one, other = (opened(tmp_path / name, tmp_path / "cache") for name in ("folders", "csv"))
    assert one.fingerprint == other.fingerprint and one.train.fingerprint != one.val.fingerprint
    images["test"]["n07"][0, 0, 0, 0] ^= 1
    write_folders(tmp_path / "changed", images)
    changed = opened(tmp_path / "changed", tmp_path / "cache")
    assert changed.train.fingerprint == one.train.fingerprint and changed.test.fingerprint != one.test.fingerprint
    assert changed.fingerprint != one.fingerprint


def test_a_changed_source_is_read_again(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    before = opened(tmp_path / "root", tmp_path / "cache")
    images["test"]["n07"][0] = 255 - images["test"]["n07"][0]
    shutil.rmtree(tmp_path / "root")
    write_folders(tmp_path / "root", images)
    after = opened(tmp_path / "root", tmp_path / "cache")
    assert after.test.fingerprint != before.test.fingerprint


def test_images_are_resized_once_and_in_the_configured_way(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    pictures = {}
    for split, classes in CLASSES.items():
        for name in classes:
            for j, (height, width) in enumerate([(30, 50), (20, 20), (40, 33), (23, 23)]):
                pictures[split, name, j] = random.integers(256, size=(height, width, 3), dtype=np.uint8)
                path = tmp_path / "root" / split / name / f"{j}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(pictures[split, name, j]))
    for resize in ("square", "center_crop"):
        data = opened(tmp_path / "root", tmp_path / "cache", image_size=21, resize=resize)
        whole = opened(tmp_path / "root", tmp_path / "cache", full_size=True, image_size=21, resize=resize)
        assert data.image_sizes == "20x20..50x30"
        assert whole.train.full_size and not data.train.full_size and not whole.val.full_size
        side = 21 if resize == "square" else 23
        for i, name in enumerate(sorted(CLASSES["train"])):
            for j in range(PER_CLASS):
                picture = Image.fromarray(pictures["train", name, j]).resize((side, side), Image.Resampling.BILINEAR)
                start = (side - 21) // 2
                expected = np.asarray(picture)[start : start + 21, start : start + 21]
                index = torch.tensor([i * PER_CLASS + j])
                np.testing.assert_array_equal(data.train.pixels(index)[0], expected)
                np.testing.assert_array_equal(whole.train.pixels(index)[0], expected)
                np.testing.assert_array_equal(whole.train.full(int(index)), pictures["train", name, j])
        np.testing.assert_array_equal(whole.test.pixels(np.arange(8)), data.test.pixels(np.arange(8)))
    with pytest.raises(ValueError, match="full_size_training=True"):
        data.train.full(0)


def test_colour_and_grey_become_the_configured_channels(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    grey = random.integers(2, size=(7, SIDE, SIDE), dtype=np.uint8) * 255
    for i, (split, name) in enumerate((split, name) for split, classes in CLASSES.items() for name in classes):
        path = tmp_path / "root" / split / name / "x.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(grey[i]).convert(("1", "L", "RGB", "P", "RGBA", "LA", "1")[i]).save(path)
    order = [1, 2, 0, 4, 3, 5, 6]
    for channels in (1, 3):
        data = opened(tmp_path / "root", tmp_path / "cache", channels=channels)
        got = torch.cat([split.pixels(np.arange(len(split))) for split in (data.train, data.val, data.test)])
        assert got.shape == (7, SIDE, SIDE, channels)
        np.testing.assert_array_equal(got, np.repeat(grey[order, ..., None], channels, axis=-1))


def test_rotations_are_classes_of_their_own(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    plain = opened(tmp_path / "root", tmp_path / "cache")
    turned = opened(tmp_path / "root", tmp_path / "cache", rotations_as_classes=True)
    assert len(list((tmp_path / "cache").glob("*/info.json"))) == 1, "the turned images are not stored"
    assert len(turned.train) == 4 * len(plain.train) and turned.fingerprint != plain.fingerprint
    assert turned.train.classes[:4] == ("n01", "n02", "n03", "n01@90") and len(set(turned.train.classes)) == 12
    np.testing.assert_array_equal(np.bincount(turned.train.labels), PER_CLASS)
    upright = plain.train.pixels(np.arange(12)).numpy()
    indices = torch.randperm(48)
    for index, pixels in zip(indices.tolist(), turned.train.pixels(indices), strict=True):
        turn, place = divmod(index, 12)
        assert turned.train.classes[turned.train.labels[index]] == (
            plain.train.classes[plain.train.labels[place]] + ("", "@90", "@180", "@270")[turn]
        )
        np.testing.assert_array_equal(pixels, np.rot90(upright[place], turn))


def test_indices_are_those_of_images(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    split = opened(tmp_path / "root", tmp_path / "cache").val
    got = split.pixels(torch.tensor([7, 0, 7]))
    np.testing.assert_array_equal(got[0], got[2])
    got[:] = 0  # changes a copy, not the cache
    assert split.pixels(np.array([7])).any()
    assert split.pixels(torch.empty(0, dtype=torch.long)).shape == (0, SIDE, SIDE, 3)
    for wrong in (np.array([8]), np.array([-1])):
        with pytest.raises(IndexError, match="val has 8"):
            split.pixels(wrong)
    with pytest.raises(TypeError, match="integers"):
        split.pixels(split.labels == 0)


# What a user gets wrong ----------------------------------------------------------------------------------------------


def refused(root: Path, tmp_path: Path, match: str, **fields: object) -> None:
    with pytest.raises(ValueError, match=match):
        opened(root, tmp_path / "cache", **fields)
    assert not list((tmp_path / "cache").glob("*/")), "nothing is left behind"


def test_a_missing_root_is_told(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", tmp_path, "nowhere.*does not exist")
    (tmp_path / "text.zip").write_text("no archive")
    refused(tmp_path / "text.zip", tmp_path, r"text\.zip.*expected a zip archive")
    with pytest.raises(ValueError, match="data.root is not set.*DMF"):
        open_data(DataConfig(name="mini_imagenet"), cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="glyphs are embedded"):
        open_data(DataConfig(name="glyphs", root="x"), cache_dir=tmp_path / "cache")


def test_an_unknown_layout_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in ("miniImageNet_category_split_train_phase_train.pickle", "images.zip", "train_images_png.pkl"):
        refused(tmp_path / "root", tmp_path, f"(?s)none of the known layouts.*{name}")


def test_a_missing_split_is_named(images: Images, tmp_path: Path) -> None:
    write_category_pickles(tmp_path / "root", images)
    (tmp_path / "root" / "miniImageNet_category_split_val.pickle").unlink()
    refused(tmp_path / "root", tmp_path, r"pickles without miniImageNet_category_split_val\.pickle")
    write_csv(tmp_path / "csv", images)
    shutil.rmtree(tmp_path / "csv" / "images")
    refused(tmp_path / "csv", tmp_path, r"images and CSV without images/ or images\.zip")


def test_a_whole_layout_is_read_where_another_is_not_whole(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    dump({}, tmp_path / "root" / "miniImageNet_category_split_val.pickle")
    assert opened(tmp_path / "root", tmp_path / "cache").layout == "class folders"


def test_a_split_without_images_is_refused(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    for path in (tmp_path / "root" / "val").rglob("*.*"):
        path.rename(path.with_suffix(".svg"))
    refused(tmp_path / "root", tmp_path, r"no image for 'val' in .*root/val.*\.jpeg")


def test_overlapping_classes_are_refused(images: Images, tmp_path: Path) -> None:
    images["val"]["n01"] = 255 - images["train"]["n01"]
    write_folders(tmp_path / "root", images)
    refused(tmp_path / "root", tmp_path, "1 classes are in both 'train' and 'val', first 'n01'")


def test_the_same_images_under_other_names_are_refused(images: Images, tmp_path: Path) -> None:
    images["test"]["n07"] = images["train"]["n01"]
    write_folders(tmp_path / "root", images)
    refused(tmp_path / "root", tmp_path, "4 images of 'train' are also in 'test'")


def test_labels_that_restart_in_every_split_are_different_classes(
    images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, classes in images.items():
        arrays, names = arrays_and_names(classes)
        labels = [sorted(classes).index(name) for name in names]
        dump({"data": arrays, "labels": labels}, tmp_path / "root" / f"CIFAR_FS_{split}.pickle")
    data = opened(tmp_path / "root", tmp_path / "cache")
    assert data.val.classes == ("val/00000", "val/00001") and "numbered from 0 in every split" in caplog.text


def test_an_undecodable_file_is_named(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    file = tmp_path / "root" / "train" / "n01" / "0.JPEG"
    whole = file.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        refused(tmp_path / "root", tmp_path, r"train/n01/0\.JPEG: cannot be decoded")


def test_pickles_with_code_are_refused(images: Images, tmp_path: Path) -> None:
    write_category_pickles(tmp_path / "root", images)
    file = tmp_path / "root" / "miniImageNet_category_split_val.pickle"
    file.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "victim").encode() + b"'\ntR.")
    refused(tmp_path / "root", tmp_path, r"split_val\.pickle.*os\.system")
    assert not (tmp_path / "victim").exists()


def test_names_in_a_csv_stay_inside_of_the_root(images: Images, tmp_path: Path) -> None:
    write_csv(tmp_path / "root", images)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(images["train"]["n01"][0]))
    table = tmp_path / "root" / "val.csv"
    rows = table.read_text()
    for name in ("../../secret.png", str(secret), "a/../../../secret.png"):
        table.write_text(rows + f"{name},n05\n")
        refused(tmp_path / "root", tmp_path, r"val\.csv, line 11.*leads outside")


def test_mistakes_in_a_csv_are_told(images: Images, tmp_path: Path) -> None:
    write_csv(tmp_path / "root", images)
    table = tmp_path / "root" / "val.csv"
    rows = table.read_text()
    for text, match in (
        (rows.replace("filename,label", "file;label"), r"val\.csv: the header is 'file;label', expected 'filename,"),
        (rows.replace("n05_0.JPEG", "n05_0.jpg"), r"val\.csv: 1 of 8 files are not in .*images, first 'n05_0\.jpg'"),
        (rows + "n05_0.JPEG,n05\n", r"val\.csv: lists 1 files twice"),
        (rows + "n05_0.JPEG\n", r"val\.csv, line 11: 1 cells, expected 2"),
    ):
        table.write_text(text)
        refused(tmp_path / "root", tmp_path, match)


def test_numbers_of_images_and_labels_must_agree(images: Images, tmp_path: Path) -> None:
    write_category_pickles(tmp_path / "root", images)
    arrays, _ = arrays_and_names(images["val"])
    dump({"data": arrays, "labels": [3]}, tmp_path / "root" / "miniImageNet_category_split_val.pickle")
    refused(tmp_path / "root", tmp_path, "8 images, but 1 labels")
    dump({"data": arrays / 255, "labels": [3, 4] * 4}, tmp_path / "root" / "miniImageNet_category_split_val.pickle")
    refused(tmp_path / "root", tmp_path, r"float64 \(12, 12, 3\), expected uint8")
    dump({"images": arrays}, tmp_path / "root" / "miniImageNet_category_split_val.pickle")
    refused(tmp_path / "root", tmp_path, "holds images; expected 'data'")


def test_known_data_sets_have_known_counts(images: Images, tmp_path: Path) -> None:
    write_folders(tmp_path / "root", images)
    refused(tmp_path / "root", tmp_path, "3/2/2 classes .* expected 64/16/20 for mini_imagenet", name="mini_imagenet")
    assert len(opened(tmp_path / "root", tmp_path / "cache", name="mini_imagenet_mine").train) == 12
    write_category_pickles(tmp_path / "pickles", images)
    shutil.rmtree(tmp_path / "cache")
    refused(tmp_path / "pickles", tmp_path, "pickles of mini_imagenet, but data.name is cifar_fs", name="cifar_fs")


def cifar_fs(root: Path, images_per_class: int) -> None:
    random = np.random.default_rng(3)
    first = 0
    for split, count in zip(("train", "val", "test"), DATASETS["cifar_fs"].classes, strict=True):
        labels = np.repeat(np.arange(first, first + count), images_per_class)
        first += count
        arrays = random.integers(256, size=(len(labels), 8, 8, 3), dtype=np.uint8)
        dump({"data": arrays, "labels": labels}, root / f"CIFAR_FS_{split}.pickle")


def test_many_images_less_than_known_are_refused(tmp_path: Path) -> None:
    cifar_fs(tmp_path / "root", 2)
    message = "128/32/40 images .train/val/test., expected 38400/9600/12000 for cifar_fs"
    refused(tmp_path / "root", tmp_path / "cache", message, name="cifar_fs", image_size=8)


def test_a_few_images_less_than_known_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cifar_fs(tmp_path / "root", 599)
    opened(tmp_path / "root", tmp_path / "cache", name="cifar_fs", image_size=8)
    assert "38336/9584/11980 images (train/val/test), expected 38400/9600/12000" in caplog.text


@pytest.mark.parametrize("name", ["miniimagenet", "mini_imagnet", "cifarfs", "omniglott", "tinyimagenet"])
def test_misspelt_names_are_refused(name: str, tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, "did you mean", name=name)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, _value in (("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("DMF_CACHE", "/d")):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    assert default_cache_dir() == Path("/h/.cache/dmf")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir() == Path("/x/dmf")
    monkeypatch.setenv("DMF_CACHE", "/d")
    assert default_cache_dir() == Path("/d")


# Real images ---------------------------------------------------------------------------------------------------------


def test_omniglot_characters_are_split_as_by_vinyals(shared: Path) -> None:
    for split in ("train", "val", "test"):
        listed = (shared / "data" / "splits" / "omniglot_vinyals" / f"{split}.txt").read_text().split()
        assert {omniglot_split("/".join(name.split("/")[:2])) for name in listed} == {split}


def test_omniglot_is_read_from_its_archives(
    omniglot_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dmf.data")
    fields = {"name": "omniglot", "image_size": 28, "channels": 1, "rotations_as_classes": True}
    data = opened(omniglot_root, tmp_path / "cache", **fields)
    (doubt,) = data.doubts
    assert data.image_sizes == "105x105" and [r.message for r in caplog.records if r.levelno > logging.INFO] == [
        f"omniglot: {doubt}"
    ]
    braille = "images_background.repacked.zip:images_background/Braille/character01/0192"
    assert doubt == (
        f"1 image of 'train' is a copy of others in it, pixel by pixel, first {braille}_03.png and {braille}_19.png"
    )
    assert [len(split.classes) for split in (data.train, data.val, data.test)] == [4 * 1028, 4 * 172, 4 * 423]
    index = int(np.flatnonzero(data.test.labels == data.test.classes.index("Kannada/character05"))[2])
    with zipfile.ZipFile(omniglot_root / "images_evaluation.repacked.zip") as archive:
        name = sorted(n for n in archive.namelist() if "/Kannada/character05/" in n)[2]
        picture = Image.open(io.BytesIO(archive.read(name))).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.test.pixels(np.array([index]))[0, ..., 0], np.asarray(picture))
    assert 150 < data.train.pixels(np.arange(200)).float().mean() < 255, "dark strokes on white"


def small_tiny(shared: Path, root: Path) -> None:
    """Three classes of each split of the bundled natural images, as CSV and zip."""
    source = shared / "data" / "tinyimagenet_fs"
    with zipfile.ZipFile(source / "images.zip") as whole, zipfile.ZipFile(root / "images.zip", "w") as part:
        for split in ("train", "val", "test"):
            header, *rows = (source / f"{split}.csv").read_text().splitlines()
            classes = sorted({row.split(",")[1] for row in rows})[:3]
            rows = [row for row in rows if row.split(",")[1] in classes]
            (root / f"{split}.csv").write_text("\n".join([header, *rows]))
            for row in rows:
                name = "images/" + row.split(",")[0]
                part.writestr(name, whole.read(name))


def test_natural_images_are_the_same_zipped_and_extracted(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "zipped"
    root.mkdir()
    small_tiny(shared, root)
    zipped = opened(root, tmp_path / "cache", image_size=32)
    shutil.copytree(root, tmp_path / "extracted")
    with zipfile.ZipFile(root / "images.zip") as archive:
        archive.extractall(tmp_path / "extracted")
    (tmp_path / "extracted" / "images.zip").unlink()
    extracted = opened(tmp_path / "extracted", tmp_path / "cache", image_size=32)
    assert zipped.fingerprint == extracted.fingerprint and zipped.image_sizes == "64x64"
    assert all(len(split) == 600 for split in (zipped.train, zipped.val, zipped.test))


def test_glyphs_need_no_root(tmp_path: Path) -> None:
    data = open_data(DataConfig(name="glyphs", image_size=12, channels=1), cache_dir=tmp_path)
    assert data.layout == "embedded" and data.image_sizes == "12x12"
    classes = [set(split.classes) for split in (data.train, data.val, data.test)]
    assert all(classes) and not classes[0] & classes[1] | classes[0] & classes[2] | classes[1] & classes[2]
    assert isinstance(data.train, ImageSplit) and data.train.pixels(np.arange(3)).shape == (3, 12, 12, 1)
    with pytest.raises(ValueError, match="'training'.*train, val, test"):
        data.split("training")
