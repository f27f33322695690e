"""The layouts in which users have their images, and how to find out which one a root has."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from dmf.data.layouts.arrays import (
    read_cache_pickle,
    read_data_and_labels,
    read_npz,
    read_picture_pickle,
    read_png_pickle,
)
from dmf.data.layouts.files import read_class_folders, read_class_lists, read_csv, read_json, read_omniglot
from dmf.data.layouts.names import composed, folded
from dmf.data.layouts.pictures import SUFFIXES, USUAL, counted
from dmf.data.layouts.raw import RawSplit, class_id_of
from dmf.data.layouts.trees import Archive, Tree
from dmf.values import printable, shown

LOG = logging.getLogger("dmf.data")
SPLITS = ("train", "val", "test")
WHOLE_ROOT = "./"
"""The part of a layout whose images can be anywhere in the root."""
MOST_FOLDERS = 100
"""Folders of a root in which a layout is looked for if the root itself holds none."""
LONGEST_NAME = 255
"""Longest class name, in characters."""


@dataclass(frozen=True)
class Layout:
    """How a data set is laid out in files. `parts` are templates of names, with `|` between alternatives."""

    name: str
    parts: tuple[str, ...]
    read: Callable[[Tree, str, list[str]], RawSplit]
    only: str | None = None
    """The known data set that the layout belongs to, if it can hold no other."""
    arrays: bool = False
    """Whether images are arrays, whose channels can be in any order."""

    def names(self, split: str) -> list[list[str]]:
        """The possible names of each part; names of folders end with `/`."""
        words = {"split": split, "phase": "train_phase_train" if split == "train" else split}
        words["chen"] = {"train": "base", "val": "val", "test": "novel"}[split]
        return [list(dict.fromkeys(part.format(**words).split("|"))) for part in self.parts]

    @property
    def expected(self) -> str:
        """The layout's file names on one line, for error messages."""
        names = dict.fromkeys(" or ".join(names) for split in SPLITS for names in self.names(split))
        return f"{self.name}: {', '.join(name for name in names if name != WHOLE_ROOT)}"


@dataclass(frozen=True)
class FoundLayout:
    """A layout, and the names that its parts have in `tree`, by split."""

    layout: Layout
    tree: Tree
    parts: dict[str, list[str]]

    def read(self) -> dict[str, RawSplit]:
        """Read the three splits. If classes are numbered from 0 in every split, they count as different classes."""
        splits = {split: self.layout.read(self.tree, split, parts) for split, parts in self.parts.items()}
        for name, split in splits.items():
            if not split.class_ids:
                places = ", ".join(self.tree.where(part) for part in self.parts[name])
                raise ValueError(
                    f"no image for {name!r} in {places}; expected files ending in {', '.join(USUAL)} or the like"
                )
            for class_id in set(split.class_ids):
                _check_name(class_id, self.tree.where(self.parts[name][0]))
        return _with_own_numbers({name: _composed(name, split) for name, split in splits.items()})

    def ignored(self) -> str:
        """A doubt that counts the hidden files, and those of other programs, that have an image's suffix."""
        names: list[str] = []
        for part in dict.fromkeys(part for parts in self.parts.values() for part in parts):
            if part.endswith("/"):
                names += [self.tree.where(part + name) for name in self.tree.ignored(part)]
            elif part.endswith(".zip"):
                archive = self.tree.mount(part)
                names += [archive.where(name) for name in archive.ignored()]
        kept = [name for name in names if name.lower().endswith(SUFFIXES)]
        return f"{counted(len(kept), 'file')}, hidden or of other programs, left out, first {min(kept)}" if kept else ""

    def stamps(self) -> list[tuple[str, int, int]]:
        """Names, sizes and modification times of all files of the layout."""
        parts = dict.fromkeys(part for parts in self.parts.values() for part in parts)
        return [stamp for part in parts for stamp in self.tree.stamps(part)]


def find_layout(tree: Tree) -> FoundLayout:
    """The first of `LAYOUTS` that `tree` holds completely; in an archive, also one folder deeper.

    Raises ValueError, saying what was found instead, if there is none.
    """
    whole, torn = _held(tree)
    if not whole:
        deeper = _one_deeper(tree)
        if len(deeper) == 1 and isinstance(tree, Archive):
            return deeper[0]
        raise ValueError(f"{tree.where()}: {_found_instead(tree, torn, deeper)}")
    if len(whole) > 1:
        others = ", ".join(found.layout.name for found in whole[1:])
        LOG.info("%s: reading the %s; it also holds: %s", tree.where(), whole[0].layout.name, others)
    return whole[0]


def _held(tree: Tree) -> tuple[list[FoundLayout], dict[Layout, list[str]]]:
    """The layouts that `tree` holds, and those that it holds in part, each with what is missing."""
    whole, torn = [], {}
    for layout in LAYOUTS:
        parts = {s: [next(filter(tree.has, names), None) for names in layout.names(s)] for s in SPLITS}
        missing = [
            " or ".join(layout.names(split)[i])
            for split in SPLITS
            for i, part in enumerate(parts[split])
            if part is None
        ]
        if not missing:
            there = {split: [part for part in parts[split] if part is not None] for split in SPLITS}
            whole.append(FoundLayout(layout, tree, there))
        elif any(parts[split][0] for split in SPLITS):
            torn[layout] = list(dict.fromkeys(missing))
    return whole, torn


def _one_deeper(tree: Tree) -> list[FoundLayout]:
    """The layouts in the folders of `tree`, at most one of each."""
    folders = [name for name in tree.entries() if name.endswith("/")]
    return [found[0] for folder in folders[:MOST_FOLDERS] if (found := _held(tree.below(folder))[0])]


def _found_instead(tree: Tree, torn: dict[Layout, list[str]], deeper: list[FoundLayout]) -> str:
    if deeper:
        places = ", ".join(f"{found.layout.name} in {found.tree.where()}" for found in deeper)
        return f"found {places}; set data.root to {'it' if len(deeper) == 1 else 'one of them'}"
    if torn:
        found = "; ".join(f"{layout.name} without {', '.join(missing)}" for layout, missing in torn.items())
        return f"found {found}; expected {'; or '.join(layout.expected for layout in torn)}"
    entries = [printable(name) for name in tree.entries()]
    folders, files = ([name for name in entries if name.endswith("/") == is_folder] for is_folder in (True, False))
    held = [
        f"{counted(len(names), what)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((folders, "folder"), (files, "file"))
        if names
    ]
    expected = "\n  ".join(layout.expected for layout in LAYOUTS)
    return (
        f"found none of the known layouts, but {' and '.join(held) or 'nothing'}; expected the files of one of:"
        f"\n  {expected}"
    )


def _check_name(class_id: str, where: str) -> None:
    """Raise ValueError if a class name cannot be used in a file or in a line of text."""
    strange = class_id in (".", "..") or any(unicodedata.category(character) in ("Cc", "Cs") for character in class_id)
    if strange or not 0 < len(class_id) <= LONGEST_NAME:
        raise ValueError(
            f"{where}: a class is called {shown(class_id)}; expected 1 to {LONGEST_NAME} printable characters"
        )


def _composed(name: str, split: RawSplit) -> RawSplit:
    """The split with composed characters in class names; classes that then have the same name are one class."""
    spellings: dict[str, set[str]] = {}
    for class_id in set(split.class_ids):
        spellings.setdefault(composed(class_id), set()).add(class_id)
    doubts = list(split.doubts)
    if twice := sorted(class_id for class_id, found in spellings.items() if len(found) > 1):
        told = "with composed and with decomposed characters, read as one"
        doubts.append(f"{counted(len(twice), 'class name')} of {name!r} written {told}, first {twice[0]!r}")
    cases: dict[str, list[str]] = {}
    for class_id in sorted(spellings):
        cases.setdefault(folded(class_id), []).append(class_id)
    if alike := [found for found in cases.values() if len(found) > 1]:
        told = f"differ only in case from other classes, first {alike[0][0]!r} and {alike[0][1]!r}"
        doubts.append(f"{sum(len(found) - 1 for found in alike)} classes of {name!r} {told}")
    return RawSplit([composed(class_id) for class_id in split.class_ids], split.images, tuple(doubts))


def _with_own_numbers(splits: dict[str, RawSplit]) -> dict[str, RawSplit]:
    """Prefix class ids with their split if they are just 0, 1, ... in every split."""
    for split in splits.values():
        classes = set(split.class_ids)
        if classes != {class_id_of(number, "") for number in range(len(classes))}:
            return splits
    doubt = "the classes are numbered from 0 in every split; they count as different classes"
    return {
        name: RawSplit(
            [f"{name}/{class_id}" for class_id in split.class_ids],
            split.images,
            tuple(dict.fromkeys((doubt, *split.doubts))),
        )
        for name, split in splits.items()
    }


_BACKGROUND, _EVALUATION = (
    f"images_{part}/|images_{part}.zip|images_{part}.repacked.zip" for part in ("background", "evaluation")
)
LAYOUTS = (
    Layout(
        "category-split pickles",
        ("miniImageNet_category_split_{phase}.pickle",),
        read_data_and_labels,
        "mini_imagenet",
        arrays=True,
    ),
    Layout("cache pickles", ("mini-imagenet-cache-{split}.pkl",), read_cache_pickle, "mini_imagenet", arrays=True),
    Layout("npz images", ("{split}_images.npz", "{split}_labels.pkl"), read_npz, arrays=True),
    Layout("png pickles", ("{split}_images_png.pkl", "{split}_labels.pkl"), read_png_pickle),
    Layout("CIFAR-FS pickles", ("CIFAR_FS_{split}.pickle",), read_data_and_labels, "cifar_fs", arrays=True),
    Layout("Omniglot alphabets", (_BACKGROUND, _EVALUATION), read_omniglot, "omniglot"),
    Layout("class lists", ("splits/bertinetto/{split}.txt", "data/|data.zip"), read_class_lists),
    Layout("images and CSV", ("{split}.csv|split/{split}.csv|splits/{split}.csv", "images/|images.zip"), read_csv),
    Layout("class folders", ("{split}/|{chen}/",), read_class_folders),
    Layout("PIL pickles", ("{split}.pth",), read_picture_pickle),
    Layout("image lists in JSON", ("{chen}.json", WHOLE_ROOT), read_json),
)
"""All layouts, in order of preference if a root has several."""
