"""Readers of layouts that store each image in its own file, in folders or zip archives."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from dmf.data.layouts.names import Names, composed
from dmf.data.layouts.pickles import with_text_keys
from dmf.data.layouts.pictures import SUFFIXES, counted
from dmf.data.layouts.raw import RawImage, RawSplit, check_lengths, class_ids_of, decode, field, listed
from dmf.data.layouts.trees import Tree, inside
from dmf.values import shown

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
    present = Names(images.files())
    found = [(class_id, present.find(name, where)) for class_id, name in pairs]
    missing = [name for (_, name), (_, file) in zip(pairs, found, strict=True) if file is None]
    if missing:
        place = images.where()
        raise ValueError(f"{where}: {len(missing)} of {len(pairs)} files are not in {place}, first {missing[0]!r}")
    files = [(class_id, file) for class_id, file in found if file is not None]
    _check_once([file for _, file in files], where)
    return _file_split(images, files)


def read_class_folders(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Class folders: `<split>/<class>/.../<image>`."""
    names, doubts = _images_in(tree, parts[0], levels=1)
    if not names and (flat := [name for name in tree.files(parts[0]) if name.lower().endswith(SUFFIXES)]):
        raise ValueError(
            f"{tree.where(parts[0])}: {len(flat)} images, first {flat[0]}, lie in no class folder; expected "
            f"{parts[0]}CLASS/IMAGE"
        )
    pairs = [(name.split("/")[1], name) for name in names]
    doubts += _empty_folders(tree, parts[0], {class_id for class_id, _ in pairs})
    return _file_split(tree, pairs, doubts + _families(pairs))


def read_class_lists(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Bertinetto's CIFAR-FS: `splits/bertinetto/<split>.txt` lists classes; images are `data/<class>/<image>`."""
    where, images = tree.where(parts[0]), tree.mount(parts[1])
    lines = _text(tree, parts[0]).splitlines()
    listed_classes = [inside(line.strip(), where) for line in lines if line.strip()]
    names, doubts = _images_in(images, "", levels=1)
    folders = Names(sorted({name.split("/")[0] for name in names}))
    found = {class_id: folders.find(class_id, where) for class_id in listed_classes}
    absent = sorted(class_id for class_id, folder in found.items() if folder is None)
    if absent:
        raise ValueError(f"{where}: no images in {images.where()} for {', '.join(absent)}")
    wanted = set(found.values())
    return _file_split(images, [(c, name) for name in names if (c := name.split("/")[0]) in wanted], doubts)


def read_json(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """CloserLook's `base.json`, `val.json`, `novel.json`: absolute paths `image_names` and numbers `image_labels`.

    The paths come from another machine, so each names the file in the root that shares the longest end of the path with
    it: at least the file's name and its folder's. A class is called as its folder, with the folders above it if folders
    of several classes have the same name, such as `Greek/character01`.
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
    for name in names:
        if not isinstance(name, str) or len(PurePosixPath(name.replace("\\", "/")).parts) < 2:
            raise ValueError(f"{where}: image_names has {shown(name)}, expected paths that end in class/file")
    present = Names(name for name in tree.files() if "/" in name)
    files = [present.find_end(name, where) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        first = "/".join(PurePosixPath(missing[0].replace("\\", "/")).parts[-2:])
        raise ValueError(f"{where}: {len(missing)} of {len(names)} files are not in {tree.where()}, first {first!r}")
    found = [file for file in files if file is not None]
    _check_once(found, where)
    classes = _classes_by_folder([(label, file) for label, file in zip(labels, found, strict=True)], where)
    return _file_split(tree, list(zip(classes, found, strict=True)))


def _classes_by_folder(pairs: list[tuple[str, str]], where: str) -> list[str]:
    """The class of each (label, file): the shortest end of its folder's path that tells the labels apart."""
    folders = [file.split("/")[:-1] for _, file in pairs]
    for depth in range(1, max(map(len, folders), default=0) + 1):
        classes = ["/".join(folder[-depth:]) for folder in folders]
        told = {(class_id, label) for class_id, (label, _) in zip(classes, pairs, strict=True)}
        if len(told) == len(set(classes)) == len({label for label, _ in pairs}):
            return classes
    raise ValueError(f"{where}: image_labels do not agree with the images' folders; expected one label per folder")


def read_omniglot(tree: Tree, split: str, parts: list[str]) -> RawSplit:
    """Both archives or folders of Omniglot, `<alphabet>/<character>/<image>`, split as Vinyals et al. did."""
    splits = []
    for part in parts:
        below = tree.mount(part)
        names, doubts = _images_in(below, "", levels=2)
        pairs = [("/".join(name.split("/")[:2]), name) for name in names]
        splits.append(_file_split(below, [pair for pair in pairs if omniglot_split(pair[0]) == split], doubts))

    def images() -> Iterator[RawImage]:
        for each in splits:
            yield from each.images()

    class_ids = [class_id for each in splits for class_id in each.class_ids]
    return RawSplit(class_ids, images, tuple(doubt for each in splits for doubt in each.doubts))


def omniglot_split(character: str) -> str:
    """The split of a class such as `Greek/character07`; 1,028 classes are in train, 172 in val and 423 in test."""
    alphabet, name = character.split("/")
    if alphabet == "Gurmukhi":
        number = name.removeprefix("character")
        if not number.isdecimal():
            raise ValueError(f"Omniglot has no folder {character!r}; expected a name like Gurmukhi/character07")
        return "test" if int(number) >= OMNIGLOT_GURMUKHI_IN_TEST else "train"
    return "val" if alphabet in OMNIGLOT_VALIDATION else "test" if alphabet in OMNIGLOT_TEST else "train"


def _images_in(tree: Tree, folder: str, levels: int) -> tuple[list[str], list[str]]:
    """The image files in `folder`, at least `levels` folders deep, and a doubt if there are other files."""
    names = tree.files(folder)
    kept = [name for name in names if name.lower().endswith(SUFFIXES) and name.count("/") >= levels]
    doubts = []
    if others := sorted(set(names) - set(kept)):
        kinds = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in others)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        are = "is no image" if len(others) == 1 else "are no images"
        doubts.append(
            f"{counted(len(others), 'file')} {are} of a class ({told}), first {tree.where(folder + others[0])}"
        )
    return [folder + name for name in kept], doubts


def _empty_folders(tree: Tree, folder: str, classes: set[str]) -> list[str]:
    empty = [name for name in tree.entries(folder) if name.endswith("/") and name[:-1] not in classes]
    if not empty:
        return []
    return [f"{counted(len(empty), 'class folder')} without images left out, first {tree.where(folder + empty[0])}"]


def _families(pairs: list[tuple[str, str]]) -> list[str]:
    """A doubt if classes have several folders with images, which may be the classes that were meant."""
    below: dict[str, set[str]] = {}
    for class_id, name in pairs:
        inner = name.split("/")[2:-1]
        below.setdefault(class_id, set()).add("/".join(inner))
    families = sorted(class_id for class_id, folders in below.items() if len(folders - {""}) > 1)
    if not families:
        return []
    first, split = families[0], pairs[0][1].split("/")[0]
    inner = sorted(below[first] - {""})
    told = (
        f"{counted(len(families), 'class folder')} of {split!r} hold several folders of images, each read as one class"
    )
    return [f"{told}, first {first!r} with {inner[0]!r} and {inner[1]!r}; if those are the classes, move them up"]


def _file_split(tree: Tree, pairs: list[tuple[str, str]], doubts: list[str] | None = None) -> RawSplit:
    """A split of (class, name) pairs, sorted, so that the same images in another layout come in the same order."""
    pairs = sorted(pairs, key=lambda pair: (composed(pair[0]), composed(pair[1])))

    def images() -> Iterator[RawImage]:
        for _, name in pairs:
            yield RawImage(tree.where(name), partial(decode, partial(tree.read, name)))

    return RawSplit([class_id for class_id, _ in pairs], images, tuple(doubts or ()))


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
