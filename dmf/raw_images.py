"""Images and splits before they are decoded: what the readers of all layouts give."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dmf.pickles import text


@dataclass(frozen=True)
class RawImage:
    """An image that is read when asked for. `where` names it in errors."""

    where: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class RawSplit:
    """The images of one split as the user has them; `images()` gives them in the order of `class_ids`."""

    class_ids: Sequence[str]
    images: Callable[[], Iterator[RawImage]]


def class_id_of(label: Any) -> str:
    """A label as text; numbers get leading zeros, so that sorted texts are sorted numbers."""
    label = text(label)
    return str(label) if isinstance(label, str) else f"{int(label):05d}"


def decode(read: Callable[[], bytes]) -> Image.Image:
    """The image file whose bytes `read()` gives; its pixels are decoded when they are asked for."""
    return Image.open(io.BytesIO(read()))


def field(data: dict[str, Any], key: str, where: str) -> Any:
    """`data[key]`, which the file `where` must have."""
    if key not in data:
        raise ValueError(f"{where}: holds {', '.join(map(str, data))}; expected {key!r}")
    return data[key]


def check_lengths(where: str, images: int, labels: Sequence[Any]) -> None:
    """As many labels as images."""
    if images != len(labels):
        raise ValueError(f"{where}: {images} images, but {len(labels)} labels; expected one label per image")
