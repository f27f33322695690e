"""Data sets and their splits, read from any layout in `dmf.data.layouts.layouts` and decoded once into a cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmf.config import AnyTraining, DataConfig, EvaluationConfig, ExperimentConfig
from dmf.data.cache import open_arrays, open_cache, whole
from dmf.data.known import DATASETS as DATASETS
from dmf.data.layouts.layouts import SPLITS
from dmf.data.sources import cache_folder, doubts_of, form_of, source_of
from dmf.data.store import FullSizes, Squares

if TYPE_CHECKING:  # torch is slow to import, and reports, which only need fingerprints, do without it
    from torch import Tensor

LOG = logging.getLogger("dmf.data")
QUARTER_TURNS = 4
DATA_SETS_OPEN = 4
"""Data sets that a process keeps open for its next trainings, as memory maps, whose pages all processes share."""


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """M images and their labels. With rotations, the rotated images follow the upright ones, as additional classes."""

    name: str
    """train, val or test."""
    labels: np.ndarray
    """int64 [M], from 0 within the split."""
    classes: tuple[str, ...]
    """Sorted class ids, then those of rotated classes, with `@90`, `@180` or `@270` (counter-clockwise) appended."""
    fingerprint: str
    """SHA-256 over classes, labels and pixels: the same for the same images, whatever their layout."""
    _stored: Squares | FullSizes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def full_size(self) -> bool:
        """Whether the images are stored at full size, so that `full` works."""
        return isinstance(self._stored, FullSizes)

    @property
    def damaged(self) -> bool:
        """Whether an image was found damaged since the data set was opened."""
        return self._stored.checks is not None and self._stored.checks.failed

    def pixels(self, indices: np.ndarray | Tensor) -> Tensor:
        """The images at integer `indices` [n], made square as the configuration says: uint8 [n, S, S, C]."""
        import torch

        turns, stored = self._locate(np.asarray(indices.cpu() if isinstance(indices, torch.Tensor) else indices))
        pixels = self._stored.squares(stored)
        for turn in range(1, QUARTER_TURNS):
            turned = turns == turn
            if turned.any():
                pixels[turned] = np.rot90(pixels[turned], turn, axes=(1, 2))
        return torch.from_numpy(pixels)

    def full(self, index: int) -> Tensor:
        """One image at full size: uint8 [h, w, C]."""
        import torch

        if not isinstance(self._stored, FullSizes):
            raise ValueError(f"{self.name} images are not stored at full size; use open_data(full_size_training=True)")
        turns, stored = self._locate(np.array([index]))
        return torch.from_numpy(np.rot90(self._stored.full(int(stored[0])), int(turns[0])).copy())

    def _locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of quarter turns and stored position of each index."""
        if indices.dtype.kind not in "iu":
            raise TypeError(f"indices are {indices.dtype}, expected integers")
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"indices {indices.min()} to {indices.max()}, but {self.name} has {len(self)} images")
        return np.divmod(indices, len(self._stored))


@dataclass(frozen=True, eq=False)
class DataSet:
    """The three splits of a data set, which have no class in common."""

    name: str
    layout: str
    """The layout of the files, such as "class folders"."""
    image_sizes: str
    """Original sizes: "84x84", or the smallest and the largest as in "56x40..500x375"."""
    doubts: tuple[str, ...]
    """What was left out, converted or found twice, and what a known data set lacks, one sentence each."""
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit

    def split(self, name: str) -> ImageSplit:
        """train, val or test."""
        if name not in SPLITS:
            raise ValueError(f"split={name!r}, expected one of {', '.join(SPLITS)}")
        split: ImageSplit = getattr(self, name)
        return split

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the splits' fingerprints."""
        return _joined(self.split(name).fingerprint for name in SPLITS)


def open_data(config: DataConfig, full_size_training: bool = False, cache_dir: Path | None = None) -> DataSet:
    """Open the data set of `config`, decoding its images into `cache_dir` the first time.

    `cache_dir` defaults to $DMF_CACHE, $XDG_CACHE_HOME/dmf or ~/.cache/dmf. With `full_size_training`, the cache holds
    training images at full size (for RandomResizedCrop). Logs a warning for each doubt.

    Raises ValueError if the root holds no known layout, if splits overlap, if a known data set has the wrong number of
    classes or images, if a split holds many copies, or if images cannot be decoded.
    """
    source, form = source_of(config), form_of(config)
    full_size = frozenset({"train"} if full_size_training else ())
    folder = cache_folder(config, source, full_size, cache_dir)
    LOG.info("%s: %s, cached in %s", config.name, source.layout, folder)
    info = open_cache(folder, source.read, source.layout, form, full_size)
    splits = {}
    for name in SPLITS:
        labels, stored = open_arrays(folder, name, form)
        cached = info.splits[name]
        splits[name] = ImageSplit(name, labels, cached.classes, cached.fingerprint, stored)
        LOG.info("%s %s: %d images of %d classes", config.name, name, len(labels), len(cached.classes))
    doubts = doubts_of(config, source, info.doubts, tuple(len(splits[name]) for name in SPLITS))
    for doubt in doubts:
        LOG.warning("%s: %s", config.name, doubt)
    if config.rotations_as_classes:
        splits = {name: _with_rotations(split) for name, split in splits.items()}
    return DataSet(config.name, info.layout, info.image_sizes, doubts, **splits)


def open_for(training: AnyTraining) -> DataSet:
    """Open the data set of a training, with training images at full size if its augmentation crops from them."""
    return open_data(training.data, full_size_training=training.augmentation.crop == "resized")


def images_of(training: AnyTraining) -> DataSet:
    """As `open_for`, but trainings on the same images share one data set within a process."""
    crops = training.augmentation.crop == "resized"
    data = _opened(training.data, crops)
    if any(data.split(name).damaged for name in SPLITS):
        _opened.cache_clear()
        data = _opened(training.data, crops)
    LOG.info("images: %s, %s, fingerprint %s", data.name, data.layout, data.fingerprint[:16])
    return data


@lru_cache(maxsize=DATA_SETS_OPEN)
def _opened(data: DataConfig, full_size_training: bool) -> DataSet:
    return open_data(data, full_size_training)


def images_for(training: ExperimentConfig, evaluation: EvaluationConfig) -> DataSet:
    """The images that `evaluation` tests a training on, shared within a process as by `images_of`."""
    return images_of(training) if evaluation.data is None else _opened(evaluation.data_of(training), False)


def fingerprint_for(training: AnyTraining, evaluation: EvaluationConfig | None = None) -> str | None:
    """Today's `DataSet.fingerprint` of a training's images, or of those that `evaluation` tests it on.

    None if they are not here or have never been opened. It neither decodes images nor writes files.
    """
    config, other = training.data, False
    if evaluation is not None and evaluation.data is not None and isinstance(training, ExperimentConfig):
        config, other = evaluation.data_of(training), True
    try:
        source = source_of(config)
    except ValueError:
        return None
    full_size = frozenset({"train"} if training.augmentation.crop == "resized" and not other else ())
    info = whole(cache_folder(config, source, full_size))
    if info is None:
        return None
    found = (info.splits[name].fingerprint for name in SPLITS)
    return _joined(map(_rotated, found) if config.rotations_as_classes else found)


def _joined(fingerprints: Iterable[str]) -> str:
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()


def _rotated(fingerprint: str) -> str:
    return hashlib.sha256(f"{fingerprint} with rotations".encode()).hexdigest()


def _with_rotations(split: ImageSplit) -> ImageSplit:
    """Four classes for every class of `split`; pixels are rotated when they are read."""
    labels = np.concatenate([split.labels + turn * len(split.classes) for turn in range(QUARTER_TURNS)])
    suffixes = ["", *(f"@{90 * turn}" for turn in range(1, QUARTER_TURNS))]
    classes = tuple(class_id + suffix for suffix in suffixes for class_id in split.classes)
    return ImageSplit(split.name, labels, classes, _rotated(split.fingerprint), split._stored)
