"""Readers of layouts that store images as arrays: pickles and npz files."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from PIL import Image

from dmf.data.layouts.pickles import read_pickle, with_text_keys
from dmf.data.layouts.raw import RawImage, RawSplit, check_lengths, class_id_of, class_ids_of, decode, field, listed
from dmf.data.layouts.trees import Tree
from dmf.values import shown

NPZ_BLOCK = 256
"""Images read at a time from an npz file, which can be larger than the memory."""


def read_data_and_labels(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """CAN/DMF `miniImageNet_category_split_*.pickle`, MetaOptNet `CIFAR_FS_*.pickle`: `data` [N, H, W, 3], `labels`."""
    where, data = tree.where(parts[0]), _load_dict(tree, parts[0])
    return _array_split(where, field(data, "data", where), class_ids_of(field(data, "labels", where), "labels", where))


def read_cache_pickle(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """`mini-imagenet-cache-*.pkl`: `image_data` [N, H, W, 3] and `class_dict` {class: indices}."""
    where, data = tree.where(parts[0]), _load_dict(tree, parts[0])
    images = listed(field(data, "image_data", where), "image_data", where)
    class_ids: list[str | None] = [None] * len(images)
    for class_id, indices in with_text_keys(field(data, "class_dict", where), where).items():
        for index in listed(indices, f"class_dict[{class_id!r}]", where):
            if not isinstance(index, (int, np.integer)) or not 0 <= index < len(images) or class_ids[index] is not None:
                raise ValueError(
                    f"{where}: class_dict has image {shown(index)} of {len(images)} twice, or there is no such image"
                )
            class_ids[index] = class_id_of(class_id, where)
    if None in class_ids:
        raise ValueError(f"{where}: image {class_ids.index(None)} is in no class of class_dict")
    return _array_split(where, images, [class_id for class_id in class_ids if class_id is not None])


def read_npz(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """MetaOptNet's tieredImageNet: `*_images.npz` with `images` [N, H, W, 3] and `*_labels.pkl`."""
    where, class_ids = tree.where(parts[0]), _read_labels(tree, parts[1])
    with _npz_array(tree, parts[0]) as (_, shape):
        check_lengths(where, shape[0], class_ids)

    def images() -> Iterator[RawImage]:
        with _npz_array(tree, parts[0]) as (member, (count, *sides)):
            for start in range(0, count, NPZ_BLOCK):
                block = min(NPZ_BLOCK, count - start)
                data = member.read(block * math.prod(sides))
                if len(data) < block * math.prod(sides):
                    raise ValueError(f"{where}: ends before image {start + block} of {count}; copy it again")
                for index, pixels in enumerate(np.frombuffer(data, np.uint8).reshape(block, *sides), start):
                    yield _array_image(where, index, pixels)

    return RawSplit(class_ids, images)


def read_png_pickle(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Ren et al.'s tieredImageNet: `*_images_png.pkl`, a list of encoded images, and `*_labels.pkl`.

    OpenCV encoded them, which writes its BGR arrays as ordinary RGB files; PIL reads them back as RGB.
    """
    where, class_ids = tree.where(parts[0]), _read_labels(tree, parts[1])

    def images() -> Iterator[RawImage]:
        encoded = listed(_load(tree, parts[0]), "it", where)
        check_lengths(where, len(encoded), class_ids)
        for index, data in enumerate(encoded):
            yield RawImage(f"{where}, image {index}", partial(decode, partial(_encoded, data)))

    return RawSplit(class_ids, images)


def read_picture_pickle(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """LibFewShot's memory cache `*.pth`: a list of PIL images, a list of labels, and a dict {class: label}."""
    where, data = tree.where(parts[0]), _load(tree, parts[0])
    if not (isinstance(data, list) and len(data) == 3 and isinstance(data[2], dict)):
        raise ValueError(f"{where}: expected (images, labels, {{class: label}}) as LibFewShot writes it")
    pictures, labels = listed(data[0], "the first entry", where), class_ids_of(data[1], "the second entry", where)
    class_of = {class_id_of(number, where): class_id_of(class_id, where) for class_id, number in data[2].items()}
    check_lengths(where, len(pictures), labels)
    if unknown := sorted(set(labels) - set(class_of)):
        raise ValueError(f"{where}: the label {unknown[0]} belongs to no class; expected those in {{class: label}}")

    def images() -> Iterator[RawImage]:
        for index, picture in enumerate(pictures):
            if not isinstance(picture, Image.Image):
                raise ValueError(f"{where}, image {index}: is a {type(picture).__name__}, expected a PIL image")
            yield RawImage(f"{where}, image {index}", picture.copy)

    return RawSplit([class_of[label] for label in labels], images)


def _load(tree: Tree, name: str) -> Any:
    with tree.open(name) as file:
        return read_pickle(file, tree.where(name))


def _load_dict(tree: Tree, name: str) -> dict[str, Any]:
    return with_text_keys(_load(tree, name), tree.where(name))


def _read_labels(tree: Tree, name: str) -> list[str]:
    """Class ids from `*_labels.pkl`: `labels`, or `label_specific` with the classes' names in `label_specific_str`."""
    where, data = tree.where(name), _load_dict(tree, name)
    if "labels" in data:
        return class_ids_of(data["labels"], "labels", where)
    labels, names = field(data, "label_specific", where), data.get("label_specific_str")
    if names is None:
        return class_ids_of(labels, "label_specific", where)
    names = class_ids_of(names, "label_specific_str", where)
    for label in listed(labels, "label_specific", where):
        if not isinstance(label, (int, np.integer)) or not 0 <= label < len(names):
            raise ValueError(
                f"{where}: label_specific has {shown(label)}, but label_specific_str names {len(names)} classes"
            )
    return [names[label] for label in labels]


def _array_split(where: str, images: Any, class_ids: Sequence[str]) -> RawSplit:
    check_lengths(where, len(listed(images, "the value for images", where)), class_ids)
    return RawSplit(class_ids, lambda: (_array_image(where, i, np.asarray(pixels)) for i, pixels in enumerate(images)))


def _array_image(where: str, index: int, pixels: np.ndarray) -> RawImage:
    """The image in an array [H, W], [H, W, 1] or [H, W, 3]."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))):
        raise ValueError(f"{where}, image {index}: {pixels.dtype} {pixels.shape}, expected uint8 [height, width, 3]")
    plain = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    return RawImage(f"{where}, image {index}", partial(Image.fromarray, plain))


@contextlib.contextmanager
def _npz_array(tree: Tree, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open the array `images` in an npz file at its first pixel; yields the open file and the array's shape."""
    where = tree.where(name)
    try:
        with tree.open(name) as file, zipfile.ZipFile(file) as archive, archive.open("images.npy") as member:
            shape, columns_first, dtype = _npy_header(member, where)
            if dtype != np.uint8 or len(shape) != 4 or columns_first:
                raise ValueError(
                    f"{where}: images are {dtype} {shape}, expected uint8 [N, height, width, 3] in C order"
                )
            yield member, shape
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        raise ValueError(f"{where}: {error}; expected an npz file with the array 'images'") from error


def _npy_header(member: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the shape, order and type of the array in `member`, up to its pixels."""
    try:
        version = npy_format.read_magic(member)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        return read_header(member)
    except Exception as error:  # NumPy parses the header as Python, which can fail in several ways
        raise ValueError(f"{where}: 'images' is not an array ({error}); expected a file by numpy.savez") from error


def _encoded(data: Any) -> bytes:
    """The bytes of an image file that is stored as numbers."""
    return np.asarray(data, np.uint8).tobytes()
