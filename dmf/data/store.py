"""Makes images square, and reads images back from the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dmf.data.checks import Checks

CENTER_CROP = 92 / 84
"""Side before the centre crop, relative to the side after it (released code for tieredImageNet)."""


@dataclass(frozen=True)
class Form:
    """The form of decoded images: `channels`, and a square of `size` pixels made as `DataConfig.resize` says."""

    size: int
    channels: int
    resize: str
    background: str = "white"
    """As `DataConfig.background`."""
    orientation: str = "stored"
    """As `DataConfig.orientation`."""

    def square(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [h, w, C] -> [S, S, C], by antialiased bilinear resizing unless the size is right already.

        "center_crop" resizes both sides to 92/84 of S and crops the centre, as the released code does for
        tieredImageNet.
        """
        side = round(self.size * CENTER_CROP) if self.resize == "center_crop" else self.size
        if pixels.shape[:2] != (side, side):
            image = Image.fromarray(pixels if self.channels == 3 else pixels[..., 0])
            pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).reshape(side, side, -1)
        start = round((side - self.size) / 2)
        return pixels[start : start + self.size, start : start + self.size]


@dataclass(frozen=True, eq=False)
class Squares:
    """Square images on disk, uint8 [M, S, S, C]."""

    array: np.ndarray
    checks: Checks | None = None
    """None: for images that are in memory."""

    def __len__(self) -> int:
        return len(self.array)

    def squares(self, indices: np.ndarray) -> np.ndarray:
        """A copy of the images at `indices`, [n, S, S, C]."""
        squares: np.ndarray = self.array[indices]
        if self.checks:
            for index, pixels in zip(indices, squares, strict=True):
                self.checks.check(index, pixels)
        return squares


@dataclass(frozen=True, eq=False)
class FullSizes:
    """Images of any size on disk, concatenated in `bytes`; `sizes` [M, 2] are heights and widths."""

    bytes: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    form: Form
    checks: Checks | None = None
    """None: for images that are in memory."""

    def __len__(self) -> int:
        return len(self.sizes)

    def full(self, index: int) -> np.ndarray:
        """One image at full size, uint8 [h, w, C]."""
        height, width = self.sizes[index]
        count = height * width * self.form.channels
        pixels = self.bytes[self.starts[index] : self.starts[index] + count].reshape(height, width, self.form.channels)
        if self.checks:
            self.checks.check(index, pixels)
        return pixels

    def squares(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, made square now, [n, S, S, C]."""
        squares = np.empty((len(indices), self.form.size, self.form.size, self.form.channels), np.uint8)
        for square, index in zip(squares, indices, strict=True):
            square[:] = self.form.square(self.full(index))
        return squares


def starts_of(sizes: np.ndarray, channels: int) -> np.ndarray:
    """Offsets of concatenated images of `sizes` [M, 2], and the end of the last one: [M + 1]."""
    return np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * channels)])
