"""Lists what the cache of decoded images holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmf.data.cache import lock_of, whole

CACHED = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{16}(\.partial)?")
"""Matches the name of a folder with decoded images."""


@dataclass(frozen=True)
class KeptImages:
    """A folder of decoded images."""

    folder: Path
    form: str
    """Such as `84 px`, or `full size` where a split is stored so."""
    bytes: int
    """On the disk: of files that folders share, its share."""

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.folder.name.rpartition("-")[0]

    @property
    def lock(self) -> Path:
        """The file that processes lock while they decode into the folder."""
        return lock_of(self.folder)


def kept_images(cache: Path, name: str = "*") -> Iterator[KeptImages]:
    """Every folder of decoded images in a cache folder, whole or not; `name` is a data set's."""
    for folder in sorted(cache.glob(f"{name}-*")):
        if folder.is_dir() and CACHED.fullmatch(folder.name):
            stats = [path.stat() for path in folder.iterdir() if path.is_file()]
            count = sum(stat.st_size // stat.st_nlink for stat in stats)
            yield KeptImages(folder, _form(folder), count)


def _form(folder: Path) -> str:
    info = whole(folder)
    if info is None:
        return "not complete"
    shapes = [np.load(folder / f"{split}.npy", mmap_mode="r").shape for split in info.splits]
    sides = {f"{shape[1]} px" for shape in shapes if len(shape) > 1}
    return " and ".join([*sorted(sides), *(["full size"] if any(len(shape) == 1 for shape in shapes) else [])])
