"""Images and splits before decoding, as the readers of all layouts return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dmf.data.layouts.pickles import text
from dmf.data.layouts.pictures import open_picture
from dmf.values import LONGEST_SHOWN, shown


@dataclass(frozen=True)
class RawImage:
    """An image that `open` reads. `where` names it in errors."""

    where: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class RawSplit:
    """The images of one split in the user's files; `images()` yields them in the order of `class_ids`."""

    class_ids: Sequence[str]
    images: Callable[[], Iterator[RawImage]]
    doubts: tuple[str, ...] = ()
    """What was left out or looks wrong, one sentence each."""


def class_id_of(label: Any, where: str) -> str:
    """A label as text. Numbers get leading zeros, so that they sort by value."""
    label = text(label)
    if isinstance(label, str):
        return str(label)
    number = isinstance(label, (int, float, np.integer, np.floating)) and not isinstance(label, bool)
    if not (number and label >= 0 and label % 1 == 0):
        raise ValueError(f"{where}: the label {shown(label)} is neither text nor a whole number from 0 up")
    return f"{int(label):05d}"


def class_ids_of(labels: Any, what: str, where: str) -> list[str]:
    """The labels that a file stores under `what`, as text."""
    return [class_id_of(label, where) for label in listed(labels, what, where)]


def listed(value: Any, what: str, where: str) -> list[Any] | np.ndarray:
    """`value`, which the file `where` stores under `what`. Raises ValueError unless it is a list or an array."""
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        return value
    raise ValueError(f"{where}: {what} is a {type(value).__name__}, expected a list or an array")


def decode(read: Callable[[], bytes]) -> Image.Image:
    """Open the image file whose bytes `read()` returns; its pixels are decoded on first use."""
    return open_picture(read())


def field(data: dict[str, Any], key: str, where: str) -> Any:
    """`data[key]` from the file `where`. Raises ValueError if it is missing."""
    if key not in data:
        raise ValueError(f"{where}: holds {', '.join(map(str, data))[:LONGEST_SHOWN]}; expected {key!r}")
    return data[key]


def check_lengths(where: str, images: int, labels: Sequence[Any]) -> None:
    """Raise ValueError unless there are as many labels as images."""
    if images != len(labels):
        raise ValueError(f"{where}: {images} images, but {len(labels)} labels; expected one label per image")
