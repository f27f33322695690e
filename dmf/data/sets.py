"""Data sets and their splits, read from any layout in `dmf.data.layouts.layouts` and decoded once into a cache."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dmf.config import AnyTraining, DataConfig
from dmf.data import cache as image_cache
from dmf.data.cache import open_arrays, open_cache
from dmf.data.layouts.layouts import SPLITS, find_layout
from dmf.data.layouts.raw import RawImage, RawSplit
from dmf.data.layouts.trees import open_tree
from dmf.data.store import Form, FullSizes, Squares
from dmf.values import digest

if TYPE_CHECKING:  # torch is slow to import, and reports, which only need fingerprints, do without it
    from torch import Tensor

LOG = logging.getLogger("dmf.data")
QUARTER_TURNS = 4
DATA_SETS_OPEN = 4
"""Data sets that a process keeps open for its next trainings, as memory maps, whose pages all processes share."""


@dataclass(frozen=True)
class Facts:
    """Number of classes and images that a known data set has in train, val and test; None: not fixed."""

    classes: tuple[int, int, int] | None
    images: tuple[int, int, int] | None
    obtained: str
    """Where to get it."""


DATASETS: dict[str, Facts] = {
    "mini_imagenet": Facts(
        (64, 16, 20),
        (38_400, 9_600, 12_000),
        "the pickles or images + CSV that the repositories of CAN, DMF, MetaOptNet, FEAT and LibFewShot link to",
    ),
    "tiered_imagenet": Facts(
        (351, 97, 160),
        (448_695, 124_261, 206_209),
        "the folders that DeepEMD links to, or the npz files and pickles of MetaOptNet and few-shot-ssl-public",
    ),
    "cifar_fs": Facts(
        (64, 16, 20),
        (38_400, 9_600, 12_000),
        "the archive with Bertinetto's splits that R2D2 links to, or MetaOptNet's pickles",
    ),
    "omniglot": Facts(
        (1_028, 172, 423),
        (20_560, 3_440, 8_460),
        "images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot, in one folder",
    ),
    "tinyimagenet_fs": Facts(
        (61, 17, 20),
        (12_200, 3_400, 4_000),
        "Tiny ImageNet in tieredImageNet's split: images.zip with train.csv, val.csv and test.csv",
    ),
    "glyphs": Facts(None, None, "embedded; leave data.root out"),
}
"""Known data sets by name; `glyphs` are embedded. Any other name is for your own images."""


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
    """Warnings about the images, such as that a known data set lacks a few."""
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
    training images at full size (for RandomResizedCrop). Raises ValueError if the root holds no known layout, if splits
    overlap, if a known data set has the wrong number of classes or images, or if an image cannot be decoded.
    """
    source, form = _source(config), Form(config.image_size, config.channels, config.resize)
    full_size = frozenset({"train"} if full_size_training else ())
    folder = _folder(config, source, form, full_size, cache_dir)
    LOG.info("%s: %s, cached in %s", config.name, source.layout, folder)
    info = open_cache(folder, source.read, source.layout, form, full_size)
    splits = {}
    for name in SPLITS:
        labels, stored = open_arrays(folder, name, form)
        cached = info.splits[name]
        splits[name] = ImageSplit(name, labels, cached.classes, cached.fingerprint, stored)
        LOG.info("%s %s: %d images of %d classes", config.name, name, len(labels), len(cached.classes))
    doubt = _check_counts(config, tuple(len(splits[name]) for name in SPLITS))
    if config.rotations_as_classes:
        splits = {name: _with_rotations(split) for name, split in splits.items()}
    return DataSet(config.name, info.layout, info.image_sizes, (doubt,) if doubt else (), **splits)


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


def fingerprint_for(training: AnyTraining) -> str | None:
    """Today's `DataSet.fingerprint` of a training's images; None if they are not here or have never been opened.

    It neither decodes images nor writes files.
    """
    config = training.data
    try:
        source = _source(config)
    except ValueError:
        return None
    form = Form(config.image_size, config.channels, config.resize)
    full_size = frozenset({"train"} if training.augmentation.crop == "resized" else ())
    info = image_cache.whole(_folder(config, source, form, full_size, None))
    if info is None:
        return None
    found = (info.splits[name].fingerprint for name in SPLITS)
    return _joined(map(_rotated, found) if config.rotations_as_classes else found)


def _source(config: DataConfig) -> _Source:
    _check_name(config.name)
    return _embedded(config) if config.name == "glyphs" else _found(config)


def _folder(config: DataConfig, source: _Source, form: Form, full_size: frozenset[str], cache_dir: Path | None) -> Path:
    """The folder that the images are decoded into."""
    key = digest([image_cache.VERSION, source.identity, form.size, form.channels, form.resize, sorted(full_size)])
    return (cache_dir or default_cache_dir()) / f"{config.name}-{key}"


def _joined(fingerprints: Iterable[str]) -> str:
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()


def _rotated(fingerprint: str) -> str:
    return hashlib.sha256(f"{fingerprint} with rotations".encode()).hexdigest()


def default_cache_dir() -> Path:
    """$DMF_CACHE, else $XDG_CACHE_HOME/dmf, else ~/.cache/dmf."""
    if os.environ.get("DMF_CACHE"):
        return Path(os.environ["DMF_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "dmf"
    return Path.home() / ".cache" / "dmf"


@dataclass(frozen=True)
class _Source:
    """The original images. `identity` changes when they do; `read` is called if they are not in the cache yet."""

    layout: str
    identity: Any
    read: Callable[[], dict[str, RawSplit]]


def _found(config: DataConfig) -> _Source:
    """The source of the images in `config.root`."""
    facts = DATASETS.get(config.name)
    if config.root is None:
        obtained = f"{config.name} is: {facts.obtained}" if facts else "in any of the layouts in dmf.data.layouts"
        raise ValueError(f"data.root is not set; expected the folder or zip archive of the data set ({obtained})")
    root = Path(os.path.expanduser(config.root)).absolute()  # Path.expanduser raises for an unknown user, ~nobody
    found = find_layout(open_tree(root))
    layout = found.layout
    if facts and layout.only not in (None, config.name):
        raise ValueError(f"{root} holds the {layout.name} of {layout.only}, but data.name is {config.name}")
    stamps = hashlib.sha256(json.dumps(found.stamps()).encode()).hexdigest()

    def read() -> dict[str, RawSplit]:
        splits = found.read()
        _check_classes(config, splits)
        _check_counts(config, tuple(len(splits[name].class_ids) for name in SPLITS))
        return splits

    return _Source(layout.name, [str(root.resolve()), layout.name, stamps], read)


def _embedded(config: DataConfig) -> _Source:
    """The source of the glyphs. Pillow draws them in matplotlib's fonts, so both versions are part of the identity."""
    from dmf.data import glyphs

    if config.root is not None:
        raise ValueError(f"data.root={config.root!r}, but glyphs are embedded; leave out data.root")
    glyphs.font_folder()  # raises now if matplotlib is missing

    def read() -> dict[str, RawSplit]:
        drawn = glyphs.glyphs(config.image_size, config.channels)
        return {split: _raw(split, images, labels, classes) for split, (images, labels, classes) in drawn.items()}

    return _Source("embedded", ["glyphs", glyphs.VERSION, version("matplotlib"), version("pillow")], read)


def _raw(name: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> RawSplit:
    def raw_images() -> Iterator[RawImage]:
        for index, pixels in enumerate(images):
            plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            yield RawImage(f"glyphs {name}, image {index}", partial(Image.fromarray, plain))

    return RawSplit([classes[label] for label in labels], raw_images)


def _with_rotations(split: ImageSplit) -> ImageSplit:
    """Four classes for every class of `split`; pixels are rotated when they are read."""
    labels = np.concatenate([split.labels + turn * len(split.classes) for turn in range(QUARTER_TURNS)])
    suffixes = ["", *(f"@{90 * turn}" for turn in range(1, QUARTER_TURNS))]
    classes = tuple(class_id + suffix for suffix in suffixes for class_id in split.classes)
    return ImageSplit(split.name, labels, classes, _rotated(split.fingerprint), split._stored)


def _check_name(name: str) -> None:
    """Reject a misspelt known name; a name such as `mini_imagenet_mine` is fine."""
    if name in DATASETS or any(name.startswith(f"{known}_") for known in DATASETS):
        return
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.85)
    if close:
        raise ValueError(
            f"data.name={name!r} is not a known data set; did you mean {close[0]!r}? "
            f"For your own images, choose a name that differs more, such as {close[0]}_mine"
        )


def _check_classes(config: DataConfig, splits: dict[str, RawSplit]) -> None:
    """Raise ValueError if a class is in two splits, or if a known data set has the wrong number of classes."""
    classes = {name: set(split.class_ids) for name, split in splits.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        common = sorted(classes[one] & classes[other])
        if common:
            raise ValueError(
                f"{config.root}: {len(common)} classes are in both {one!r} and {other!r}, first {common[0]!r}; "
                "expected splits without common classes"
            )
    facts, counts = DATASETS.get(config.name), tuple(len(classes[name]) for name in SPLITS)
    if facts and facts.classes and counts != facts.classes:
        raise ValueError(
            f"{config.root}: {_slashed(counts)} classes (train/val/test), expected {_slashed(facts.classes)} for "
            f"{config.name}; for another selection use another name, such as data.name={config.name}_mine"
        )


def _check_counts(config: DataConfig, counts: tuple[int, ...]) -> str:
    """Compare image counts with those of a known data set.

    Copies can differ by a few images, which is returned as a warning; a difference above 1 % raises ValueError.
    """
    facts = DATASETS.get(config.name)
    if not facts or not facts.images or counts == facts.images:
        return ""
    expected = f"expected {_slashed(facts.images)} for {config.name}"
    told = f"{config.root}: {_slashed(counts)} images (train/val/test), {expected}"
    if any(abs(count - whole) > whole / 100 for count, whole in zip(counts, facts.images, strict=True)):
        raise ValueError(f"{told}; complete it, or for another selection use another name, such as {config.name}_mine")
    LOG.warning(told)
    return told.removeprefix(f"{config.root}: ")


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))
