"""The known data sets, and what is checked of images that claim to be one."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from dmf.config import DataConfig
from dmf.data.layouts.layouts import SPLITS
from dmf.data.layouts.names import folded
from dmf.data.layouts.raw import RawImage, RawSplit


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


EMBEDDED = "glyphs"
"""The data set that needs no root."""
PHOTOGRAPHS = frozenset({"mini_imagenet", "tiered_imagenet", "cifar_fs"})
"""Known data sets of photographs, whose red exceeds their blue by 16 to 19 of 255 on average."""
BGR_MARGIN = 5.0
"""By how much the mean of the last channel has to exceed that of the first for arrays to count as BGR, of 255."""
SAMPLED = 1000
"""Images whose channels' means are computed."""


def check_name(name: str) -> None:
    """Reject a misspelt known name; a name such as `mini_imagenet_mine` is fine."""
    if name in DATASETS or any(name.startswith(f"{known}_") for known in DATASETS):
        return
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.85)
    if close:
        raise ValueError(
            f"data.name={name!r} is not a known data set; did you mean {close[0]!r}? "
            f"For your own images, choose a name that differs more, such as {close[0]}_mine"
        )


def check_classes(config: DataConfig, splits: dict[str, RawSplit]) -> None:
    """Raise ValueError if a class is in two splits, or if there are too few, or not those of a known data set."""
    classes = {name: {folded(class_id): class_id for class_id in split.class_ids} for name, split in splits.items()}
    for one, other in itertools.combinations(SPLITS, 2):
        common = sorted(classes[one].keys() & classes[other].keys())
        if common:
            first = dict.fromkeys((classes[one][common[0]], classes[other][common[0]]))
            told = " and ".join(map(repr, first))
            numbered = all(class_id.isdecimal() for found in classes.values() for class_id in found)
            hint = "; if every split numbers its own classes, write their names in place of numbers" if numbered else ""
            raise ValueError(
                f"{config.root}: {len(common)} classes are in both {one!r} and {other!r}, first {told}; "
                f"expected splits without common classes{hint}"
            )
    for name, found in classes.items():
        if len(found) < 2 and not config.rotations_as_classes:
            only = next(iter(found.values()), "none")
            raise ValueError(
                f"{config.root}: the {name} split has one class, {only!r}, and an episode has two or more; give it "
                "classes of another split"
            )
    facts, counts = DATASETS.get(config.name), tuple(len(set(splits[name].class_ids)) for name in SPLITS)
    if facts and facts.classes and counts != facts.classes:
        raise ValueError(
            f"{config.root}: {_slashed(counts)} classes (train/val/test), expected {_slashed(facts.classes)} for "
            f"{config.name}; for another selection use another name, such as data.name={config.name}_mine"
        )


def check_counts(config: DataConfig, counts: tuple[int, ...]) -> str:
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
    return told.removeprefix(f"{config.root}: ")


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))


def in_rgb(config: DataConfig, splits: dict[str, RawSplit]) -> dict[str, RawSplit]:
    """Splits from arrays with their channels in the order red, green, blue.

    OpenCV writes blue first, and copies of tieredImageNet made with it are about. In the known data sets of
    photographs, the channels' means tell which order it is, and it is turned; in others, it can only be doubted.
    """
    red, blue = _first_and_last_channel(splits["train"])
    if blue - red <= BGR_MARGIN:
        return splits
    told = f"the first channel's mean is {red:.0f} and the last one's {blue:.0f}"
    if config.name in PHOTOGRAPHS:
        doubt = f"{told}, so the channels are in OpenCV's order blue, green, red; read as red, green, blue"
        return {
            name: RawSplit(split.class_ids, partial(_turned, split), (doubt, *split.doubts))
            for name, split in splits.items()
        }
    doubt = f"{told}, unlike in most photographs; if OpenCV made the arrays, reverse the order of their channels"
    return {name: RawSplit(split.class_ids, split.images, (doubt, *split.doubts)) for name, split in splits.items()}


def _first_and_last_channel(split: RawSplit) -> tuple[float, float]:
    """Means of the first and of the last channel, from images taken evenly from the whole split."""
    step = max(1, len(split.class_ids) // SAMPLED)
    means = [
        np.asarray(picture).mean((0, 1))
        for raw in itertools.islice(split.images(), 0, None, step)
        if (picture := raw.open()).mode == "RGB" and picture.width and picture.height
    ]
    return (float(np.mean(means, 0)[0]), float(np.mean(means, 0)[2])) if means else (0.0, 0.0)


def _turned(split: RawSplit) -> Iterator[RawImage]:
    for raw in split.images():
        yield RawImage(raw.where, partial(_reversed, raw))


def _reversed(raw: RawImage) -> Image.Image:
    picture = raw.open()
    return Image.merge("RGB", picture.split()[::-1]) if picture.mode == "RGB" else picture
