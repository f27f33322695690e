"""Checks cached images against the SHA-256 that each had when it was decoded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from dmf.values import Damaged

INFO = "info.json"
"""A cache folder counts as written only while it has this file."""
BYTES = 32
"""Length of a SHA-256."""


class DamagedImages(Damaged):
    """A cached image is not the one that was written. The next start decodes the images again."""


class Checks:
    """Checks each image of a split the first time that a process reads it: 11 microseconds at 84x84 pixels."""

    def __init__(self, path: Path, digests: np.ndarray) -> None:
        """`path` is the file with the pixels; `digests` are uint8 [M, 32]."""
        self.path, self.digests = path, digests
        self.checked = np.zeros(len(digests), bool)
        self.failed = False

    def check(self, index: int, pixels: np.ndarray) -> None:
        """Raise DamagedImages, and make the cache incomplete, unless image `index` has these pixels."""
        if self.checked[index]:
            return
        if hashlib.sha256(np.ascontiguousarray(pixels).data).digest() != self.digests[index].tobytes():
            self.failed = True
            told = f"{self.path} is damaged: image {index} is not the one that was written; "
            try:
                (self.path.parent / INFO).unlink(missing_ok=True)
            except OSError as error:
                raise DamagedImages(f"{told}remove {self.path.parent} ({error.strerror})") from None
            raise DamagedImages(f"{told}the next start decodes the images again")
        self.checked[index] = True
