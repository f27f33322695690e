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
from dmf.data.layouts.files import SUFFIXES, read_class_folders, read_class_lists, read_csv, read_json, read_omniglot
from dmf.data.layouts.raw import RawSplit, class_id_of
from dmf.data.layouts.trees import Tree
from dmf.values import shown

LOG = logging.getLogger("dmf.data")
SPLITS = ("train", "val", "test")
WHOLE_ROOT = "./"
"""The part of a layout whose images can be anywhere in the root."""
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

    def names(self, split: str) -> list[list[str]]:
        """The possible names of each part; names of folders end with `/`."""
        words = {"split": split, "phase": "train_phase_train" if split == "train" else split}
        words["chen"] = {"train": "base", "val": "val", "test": "novel"}[split]
        return [part.format(**words).split("|") for part in self.parts]

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
                raise ValueError(f"no image for {name!r} in {places}; expected files ending in {', '.join(SUFFIXES)}")
            for class_id in set(split.class_ids):
                _check_name(class_id, self.tree.where(self.parts[name][0]))
        return _with_own_numbers(splits)

    def stamps(self) -> list[tuple[str, int, int]]:
        """Names, sizes and modification times of all files of the layout."""
        parts = dict.fromkeys(part for parts in self.parts.values() for part in parts)
        return [stamp for part in parts for stamp in self.tree.stamps(part)]


def find_layout(tree: Tree) -> FoundLayout:
    """The first of `LAYOUTS` that `tree` holds completely. Raises ValueError if there is none."""
    whole, torn = [], []
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
            torn.append(f"{layout.name} without {', '.join(dict.fromkeys(missing))}")
    if not whole:
        found = f"found {'; '.join(torn)}" if torn else "found none of the known layouts"
        expected = "\n  ".join(layout.expected for layout in LAYOUTS)
        raise ValueError(f"{tree.where()}: {found}; expected the files of one of:\n  {expected}")
    if len(whole) > 1:
        others = ", ".join(found.layout.name for found in whole[1:])
        LOG.info("%s: reading the %s; it also holds: %s", tree.where(), whole[0].layout.name, others)
    return whole[0]


def _check_name(class_id: str, where: str) -> None:
    """Raise ValueError if a class name cannot be used in a file or in a line of text."""
    strange = class_id in (".", "..") or any(unicodedata.category(character) in ("Cc", "Cs") for character in class_id)
    if strange or not 0 < len(class_id) <= LONGEST_NAME:
        raise ValueError(
            f"{where}: a class is called {shown(class_id)}; expected 1 to {LONGEST_NAME} printable characters"
        )


def _with_own_numbers(splits: dict[str, RawSplit]) -> dict[str, RawSplit]:
    """Prefix class ids with their split if they are just 0, 1, ... in every split."""
    for split in splits.values():
        classes = set(split.class_ids)
        if classes != {class_id_of(number, "") for number in range(len(classes))}:
            return splits
    LOG.warning("the classes are numbered from 0 in every split; treating them as different classes")
    return {
        name: RawSplit([f"{name}/{class_id}" for class_id in split.class_ids], split.images)
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
    ),
    Layout("cache pickles", ("mini-imagenet-cache-{split}.pkl",), read_cache_pickle, "mini_imagenet"),
    Layout("npz images", ("{split}_images.npz", "{split}_labels.pkl"), read_npz),
    Layout("png pickles", ("{split}_images_png.pkl", "{split}_labels.pkl"), read_png_pickle),
    Layout("CIFAR-FS pickles", ("CIFAR_FS_{split}.pickle",), read_data_and_labels, "cifar_fs"),
    Layout("Omniglot alphabets", (_BACKGROUND, _EVALUATION), read_omniglot, "omniglot"),
    Layout("class lists", ("splits/bertinetto/{split}.txt", "data/|data.zip"), read_class_lists),
    Layout("images and CSV", ("{split}.csv|split/{split}.csv|splits/{split}.csv", "images/|images.zip"), read_csv),
    Layout("class folders", ("{split}/|{chen}/",), read_class_folders),
    Layout("PIL pickles", ("{split}.pth",), read_picture_pickle),
    Layout("image lists in JSON", ("{chen}.json", WHOLE_ROOT), read_json),
)
"""All layouts, in order of preference if a root has several."""
