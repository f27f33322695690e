"""Image sets and their splits, from every layout that `dmf.data.layouts.layouts` knows, decoded once into a cache."""

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

if TYPE_CHECKING:  # who only asks which images there are, such as a report, does not wait for torch
    from torch import Tensor

LOG = logging.getLogger("dmf.data")
QUARTER_TURNS = 4
DATA_SETS_OPEN = 4
"""That a process keeps open for its next trainings: memory maps, whose pages all processes share."""


@dataclass(frozen=True)
class Facts:
    """What a known data set has in train, val and test; None: not fixed."""

    classes: tuple[int, int, int] | None
    images: tuple[int, int, int] | None
    obtained: str
    """Where users get it."""


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
"""Names with a meaning of their own; `glyphs` is embedded. Other names are for images of one's own."""


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """M images and their labels. With rotations, the turned images follow the upright ones, as classes of their own."""

    name: str
    """train, val or test."""
    labels: np.ndarray
    """int64 [M], from 0 within the split."""
    classes: tuple[str, ...]
    """Sorted ids; turned classes follow with `@90`, `@180`, `@270` (counter-clockwise) behind them."""
    fingerprint: str
    """SHA-256 over classes, labels and pixels: equal for equal images, in whatever layout they lie."""
    _stored: Squares | FullSizes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def full_size(self) -> bool:
        """Are the images kept as they were found (`full`)?"""
        return isinstance(self._stored, FullSizes)

    def pixels(self, indices: np.ndarray | Tensor) -> Tensor:
        """Images at integer `indices` [n], made square as the configuration says: uint8 [n, S, S, C]."""
        import torch

        turns, stored = self._locate(np.asarray(indices.cpu() if isinstance(indices, torch.Tensor) else indices))
        pixels = self._stored.squares(stored)
        for turn in range(1, QUARTER_TURNS):
            turned = turns == turn
            if turned.any():
                pixels[turned] = np.rot90(pixels[turned], turn, axes=(1, 2))
        return torch.from_numpy(pixels)

    def full(self, index: int) -> Tensor:
        """One image at the size it was found in: uint8 [h, w, C]."""
        import torch

        if not isinstance(self._stored, FullSizes):
            raise ValueError(f"{self.name} images are stored at one size; open_data(full_size_training=True) keeps all")
        turns, stored = self._locate(np.array([index]))
        return torch.from_numpy(np.rot90(self._stored.full(int(stored[0])), int(turns[0])).copy())

    def _locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quarter turns and stored position of each index."""
        if indices.dtype.kind not in "iu":
            raise TypeError(f"indices are {indices.dtype}, expected integers")
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"indices {indices.min()} to {indices.max()}, but {self.name} has {len(self)} images")
        return np.divmod(indices, len(self._stored))


@dataclass(frozen=True, eq=False)
class DataSet:
    """The three splits of a data set; no class is in two of them."""

    name: str
    layout: str
    """What was found, such as "class folders"."""
    image_sizes: str
    """Sizes as found: "84x84", or the smallest and the largest as in "56x40..500x375"."""
    doubts: tuple[str, ...]
    """What is doubtful about the images, such as that a few of a known data set are missing."""
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
        """SHA-256 over those of the splits."""
        return _joined(self.split(name).fingerprint for name in SPLITS)


def open_data(config: DataConfig, full_size_training: bool = False, cache_dir: Path | None = None) -> DataSet:
    """The data set of `config`, decoded into `cache_dir` the first time that it is asked for.

    `cache_dir` is $DMF_CACHE, $XDG_CACHE_HOME/dmf or ~/.cache/dmf unless given. With `full_size_training` the training
    images keep their size there (for RandomResizedCrop). A root that holds no known layout, splits that overlap or have
    other classes than a known data set, and images that cannot be decoded are ValueErrors.
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
    """The data set of a training, its images in full size where the training crops from it."""
    return open_data(training.data, full_size_training=training.augmentation.crop == "resized")


def images_of(training: AnyTraining) -> DataSet:
    """`open_for`, once in a process for trainings on the same images."""
    data = _opened(training.data, training.augmentation.crop == "resized")
    LOG.info("images: %s, %s, fingerprint %s", data.name, data.layout, data.fingerprint[:16])
    return data


@lru_cache(maxsize=DATA_SETS_OPEN)
def _opened(data: DataConfig, full_size_training: bool) -> DataSet:
    return open_data(data, full_size_training)


def fingerprint_for(training: AnyTraining) -> str | None:
    """`DataSet.fingerprint` of a training's images as they are now; None where they are not here or never were opened.

    Nothing is decoded and nothing written.
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
    """Where the images are decoded to."""
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
    """Images before the cache: `identity` changes when they do, `read` is called when there is no cache of it yet."""

    layout: str
    identity: Any
    read: Callable[[], dict[str, RawSplit]]


def _found(config: DataConfig) -> _Source:
    """What lies in `config.root`."""
    facts = DATASETS.get(config.name)
    if config.root is None:
        obtained = f"{config.name} is: {facts.obtained}" if facts else "one in any of the layouts of dmf.data.layouts"
        raise ValueError(f"data.root is not set; expected the folder or zip archive of the data set ({obtained})")
    root = Path(os.path.expanduser(config.root)).absolute()  # leaves ~nobody as it is, Path.expanduser raises
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
    """The glyphs; they are drawn from matplotlib's fonts by pillow's FreeType, hence their versions."""
    from dmf.data import glyphs

    if config.root is not None:
        raise ValueError(f"data.root={config.root!r}, but glyphs are embedded; leave the root out")
    glyphs.font_folder()  # says what is missing when matplotlib is

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
    """Every class four times; the pixels are turned when they are read."""
    labels = np.concatenate([split.labels + turn * len(split.classes) for turn in range(QUARTER_TURNS)])
    suffixes = ["", *(f"@{90 * turn}" for turn in range(1, QUARTER_TURNS))]
    classes = tuple(class_id + suffix for suffix in suffixes for class_id in split.classes)
    return ImageSplit(split.name, labels, classes, _rotated(split.fingerprint), split._stored)


def _check_name(name: str) -> None:
    """Refuse a misspelt known name; `mini_imagenet_mine` is a name of one's own."""
    if name in DATASETS or any(name.startswith(f"{known}_") for known in DATASETS):
        return
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.85)
    if close:
        raise ValueError(
            f"data.name={name!r} is no known data set; did you mean {close[0]!r}? "
            f"For images of your own take a name that differs more, such as {close[0]}_mine"
        )


def _check_classes(config: DataConfig, splits: dict[str, RawSplit]) -> None:
    """No class in two splits, and as many as a known data set has."""
    classes = {name: set(split.class_ids) for name, split in splits.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        common = sorted(classes[one] & classes[other])
        if common:
            raise ValueError(
                f"{config.root}: {len(common)} classes are both in {one!r} and in {other!r}, first {common[0]!r}; "
                "expected splits without common classes"
            )
    facts, counts = DATASETS.get(config.name), tuple(len(classes[name]) for name in SPLITS)
    if facts and facts.classes and counts != facts.classes:
        raise ValueError(
            f"{config.root}: {_slashed(counts)} classes (train/val/test), expected {_slashed(facts.classes)} for "
            f"{config.name}; name another selection otherwise, such as data.name={config.name}_mine"
        )


def _check_counts(config: DataConfig, counts: tuple[int, ...]) -> str:
    """Copies of a data set differ in a few images, which is told; more than one in a hundred is an error."""
    facts = DATASETS.get(config.name)
    if not facts or not facts.images or counts == facts.images:
        return ""
    expected = f"expected {_slashed(facts.images)} for {config.name}"
    told = f"{config.root}: {_slashed(counts)} images (train/val/test), {expected}"
    if any(abs(count - whole) > whole / 100 for count, whole in zip(counts, facts.images, strict=True)):
        raise ValueError(f"{told}; complete it, or name another selection otherwise, such as {config.name}_mine")
    LOG.warning(told)
    return told.removeprefix(f"{config.root}: ")


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))
