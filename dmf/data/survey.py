"""What a data set holds, found out without decoding its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dmf.config import DataConfig
from dmf.data.cache import whole
from dmf.data.kept import kept_images
from dmf.data.layouts.layouts import SPLITS
from dmf.data.sources import cache_folder, doubts_of, source_of

QUARTER_TURNS = 4


@dataclass(frozen=True, eq=False)
class CountedSplit:
    """The classes and labels of a split, as in `dmf.data.sets.ImageSplit`, without its images."""

    name: str
    labels: np.ndarray
    """int64 [M], from 0 within the split."""
    classes: tuple[str, ...]

    def __str__(self) -> str:
        sizes = np.bincount(self.labels)
        each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
        return f"{self.name} {len(self.labels):,} of {len(self.classes):,} classes ({each} each)"


@dataclass(frozen=True, eq=False)
class Survey:
    """The facts of a data set."""

    name: str
    layout: str
    image_sizes: str
    """As in `dmf.data.sets.DataSet`; empty if the images have not been decoded yet."""
    doubts: tuple[str, ...]
    """Those about images that have not been decoded yet are missing."""
    splits: Mapping[str, CountedSplit]
    otherwise: tuple[str, ...] = ()
    """Where the images have not been decoded in the form that is asked for: the forms in which they have."""

    def __str__(self) -> str:
        sizes = self.image_sizes or "sizes, copies and damage are found when they are decoded"
        told = f"{self.name}, {self.layout} ({sizes}): {', '.join(map(str, self.splits.values()))}"
        return f"{told}; decoded so far, and kept: {', '.join(self.otherwise)}" if self.otherwise else told


def survey(config: DataConfig, full_size_training: bool = False) -> Survey:
    """The facts of a data set: from its decoded images if they are here, else from the lists and names of its files.

    Raises ValueError if `dmf.data.sets.open_data` would refuse the data set before decoding an image.
    """
    source = source_of(config)
    folder = cache_folder(config, source, frozenset({"train"} if full_size_training else ()))
    info = whole(folder)
    otherwise: tuple[str, ...] = ()
    if info is not None:
        sizes, kept = info.image_sizes, info.doubts
        splits = {
            name: CountedSplit(name, np.load(folder / f"{name}_labels.npy"), info.splits[name].classes)
            for name in SPLITS
        }
    else:
        raw = source.read()
        otherwise = tuple(dict.fromkeys(each.form for each in kept_images(folder.parent, config.name)))
        sizes, kept = "", tuple(dict.fromkeys(doubt for split in raw.values() for doubt in split.doubts))
        splits = {}
        for name in SPLITS:
            classes, labels = np.unique(np.array(raw[name].class_ids, dtype=str), return_inverse=True)
            splits[name] = CountedSplit(name, labels, tuple(map(str, classes)))
    doubts = doubts_of(config, source, kept, tuple(len(splits[name].labels) for name in SPLITS))
    if config.rotations_as_classes:
        splits = {name: _with_rotations(split) for name, split in splits.items()}
    return Survey(config.name, source.layout, sizes, doubts, splits, otherwise)


def _with_rotations(split: CountedSplit) -> CountedSplit:
    labels = [split.labels + turn * len(split.classes) for turn in range(QUARTER_TURNS)]
    return CountedSplit(split.name, np.concatenate(labels), split.classes * QUARTER_TURNS)
