"""Readers of layouts that store each image in its own file, in folders or zip archives."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from dmf.data.layouts.pickles import with_text_keys
from dmf.data.layouts.raw import RawImage, RawSplit, check_lengths, class_ids_of, decode, field, listed
from dmf.data.layouts.trees import Tree, inside
from dmf.values import shown

LOG = logging.getLogger("dmf.data")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""Suffixes of image files; upper case counts too."""

OMNIGLOT_VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
OMNIGLOT_TEST = (
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)
OMNIGLOT_GURMUKHI_IN_TEST = 42
"""First Gurmukhi character in the test split: Vinyals' first 1,200 characters end within this alphabet."""


def read_csv(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """`images/` or `images.zip`, and a CSV with the header `filename,label` or `filename,class`; skips blank rows."""
    images, where = tree.mount(parts[1]), tree.where(parts[0])
    rows = _rows(_text(tree, parts[0]), where)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    label = next((name for name in ("label", "class") if name in header), None)
    if "filename" not in header or label is None:
        raise ValueError(f"{where}: the header is {','.join(header)!r}, expected 'filename,label' or 'filename,class'")
    columns = header.index("filename"), header.index(label)
    pairs = []
    for line, row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(header):
            raise ValueError(f"{where}, line {line}: {len(row)} cells, expected {len(header)}")
        name, class_id = (row[column].strip() for column in columns)
        if not (name and class_id):
            raise ValueError(f"{where}, line {line}: expected a file name and a label, but one of them is empty")
        pairs.append((class_id, inside(name, f"{where}, line {line}")))
    present = set(images.files())
    missing = [name for _, name in pairs if name not in present]
    if missing:
        place = images.where()
        raise ValueError(f"{where}: {len(missing)} of {len(pairs)} files are not in {place}, first {missing[0]!r}")
    _check_once([name for _, name in pairs], where)
    return _file_split(images, pairs)


def read_class_folders(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Class folders: `<split>/<class>/.../<image>`."""
    return _file_split(tree, [(name.split("/")[1], name) for name in _images_in(tree, parts[0], levels=1)])


def read_class_lists(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Bertinetto's CIFAR-FS: `splits/bertinetto/<split>.txt` lists classes; images are `data/<class>/<image>`."""
    lines = _text(tree, parts[0]).splitlines()
    classes = [inside(line.strip(), tree.where(parts[0])) for line in lines if line.strip()]
    images = tree.mount(parts[1])
    files = [(name.split("/")[0], name) for name in _images_in(images, "", levels=1)]
    absent = sorted(set(classes) - {class_id for class_id, _ in files})
    if absent:
        raise ValueError(f"{tree.where(parts[0])}: no images in {images.where()} for {', '.join(absent)}")
    wanted = set(classes)
    return _file_split(images, [pair for pair in files if pair[0] in wanted])


def read_json(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """CloserLook's `base.json`, `val.json`, `novel.json`: absolute paths `image_names` and numbers `image_labels`.

    The paths come from another machine, so files are found anywhere in the root by class and name, the last two
    components of the path.
    """
    where = tree.where(parts[0])
    try:
        data = json.loads(tree.read(parts[0]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}; expected JSON with image_names and image_labels") from error
    data = with_text_keys(data, where)
    names = listed(field(data, "image_names", where), "image_names", where)
    labels = class_ids_of(field(data, "image_labels", where), "image_labels", where)
    check_lengths(where, len(names), labels)
    ends = [_class_and_file(name, where) for name in names]
    numbers = {(end[0], label) for end, label in zip(ends, labels, strict=True)}
    if len({folder for folder, _ in numbers}) != len(numbers) or len(set(labels)) != len(numbers):
        raise ValueError(f"{where}: image_labels do not agree with the images' folders; expected one label per folder")
    files = {tuple(name.split("/")[-2:]): name for name in reversed(_images_in(tree, "", levels=1))}
    missing = [end for end in ends if end not in files]
    if missing:
        first = "/".join(missing[0])
        raise ValueError(f"{where}: {len(missing)} of {len(ends)} files are not in {tree.where()}, first {first!r}")
    _check_once([files[end] for end in ends], where)
    return _file_split(tree, [(end[0], files[end]) for end in ends])


def read_omniglot(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Both archives or folders of Omniglot, `<alphabet>/<character>/<image>`, split as Vinyals et al. did."""
    splits = []
    for part in parts:
        below = tree.mount(part)
        pairs = [("/".join(name.split("/")[:2]), name) for name in _images_in(below, "", levels=2)]
        splits.append(_file_split(below, [pair for pair in pairs if omniglot_split(pair[0]) == split]))

    def images() -> Iterator[RawImage]:
        for each in splits:
            yield from each.images()

    return RawSplit([class_id for each in splits for class_id in each.class_ids], images)


def omniglot_split(character: str) -> str:
    """The split of a class such as `Greek/character07`; 1,028 classes are in train, 172 in val and 423 in test."""
    alphabet, name = character.split("/")
    if alphabet == "Gurmukhi":
        number = name.removeprefix("character")
        if not number.isdecimal():
            raise ValueError(f"Omniglot has no folder {character!r}; expected a name like Gurmukhi/character07")
        return "test" if int(number) >= OMNIGLOT_GURMUKHI_IN_TEST else "train"
    return "val" if alphabet in OMNIGLOT_VALIDATION else "test" if alphabet in OMNIGLOT_TEST else "train"


def _images_in(tree: Tree, folder: str, levels: int) -> list[str]:
    """The image files in `folder`, at least `levels` folders deep. Logs how many other files there are."""
    names = tree.files(folder)
    kept = [name for name in names if name.lower().endswith(SUFFIXES) and name.count("/") >= levels]
    if len(kept) < len(names) and folder:
        others = sorted(set(names) - set(kept))
        place = tree.where(folder)
        LOG.warning("%s: skipped %d files that are not images of a class, first %s", place, len(others), others[0])
    return [folder + name for name in kept]


def _file_split(tree: Tree, pairs: list[tuple[str, str]]) -> RawSplit:
    """A split of (class, name) pairs, sorted, so that the same images in another layout come in the same order."""
    pairs = sorted(pairs)

    def images() -> Iterator[RawImage]:
        for _, name in pairs:
            yield RawImage(tree.where(name), partial(decode, partial(tree.read, name)))

    return RawSplit([class_id for class_id, _ in pairs], images)


def _text(tree: Tree, name: str) -> str:
    try:
        return tree.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"{error.reason} at byte {error.start}"
        raise ValueError(f"{tree.where(name)}: is not UTF-8 text ({told}); save it as UTF-8") from None


def _rows(table: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers; accepts the line endings of any system."""
    reader = csv.reader(io.StringIO(table, newline=None))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num}: is not CSV ({error}); expected filename,label") from error


def _check_once(names: list[str], where: str) -> None:
    if len(set(names)) < len(names):
        first = next(name for name, count in Counter(names).items() if count > 1)
        more = len(names) - len(set(names))
        raise ValueError(f"{where}: lists {more} files twice, first {first!r}; expected every file once")


def _class_and_file(path: Any, where: str) -> tuple[str, ...]:
    """The last two components of a path from another machine."""
    end = PurePosixPath(path.replace("\\", "/")).parts[-2:] if isinstance(path, str) else ()
    if len(end) < 2:
        raise ValueError(f"{where}: image_names has {shown(path)}, expected paths that end in class/file")
    return end
