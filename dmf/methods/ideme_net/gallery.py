"""The gallery: images of the base classes that a model carries with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

GALLERY_SEED = 2019
"""The released code's. The gallery is the same for all trainings on the same images."""


def gallery_rows(labels: np.ndarray, per_class: int) -> np.ndarray:
    """The gallery's images as rows of a split with `labels` [M], without replacement: [classes, per_class]."""
    random = np.random.RandomState(GALLERY_SEED)
    classes = (np.flatnonzero(labels == each) for each in range(labels.max() + 1))
    return np.stack([rows[random.permutation(len(rows))[:per_class]] for rows in classes])


class Gallery(nn.Module):
    """J classes of M images each, as bytes, and how to normalise them. It is saved with a model's weights."""

    pixels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, classes: int, per_class: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.shape = (image_size, image_size, channels)
        self.register_buffer("pixels", torch.zeros(classes, per_class, image_size**2 * channels, dtype=torch.uint8))
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def __len__(self) -> int:
        return self.pixels.shape[0] * self.pixels.shape[1]

    @torch.no_grad()
    def fill(self, pixels: Tensor, mean: Tensor, std: Tensor) -> None:
        """Take images, uint8 [J * M, S, S, C] class by class, which are normalised by `mean` and `std` [C, 1, 1]."""
        self.pixels.copy_(pixels.flatten(1).view(self.pixels.shape))
        self.mean.copy_(mean)
        self.std.copy_(std)

    @torch.no_grad()
    def images(self, rows: Tensor) -> Tensor:
        """Rows [n] of the J * M images -> the backbone's input [n, C, S, S], in the type of `mean`."""
        pixels = self.pixels.flatten(0, 1)[rows].view(-1, *self.shape).permute(0, 3, 1, 2)
        images = torch.empty(pixels.shape, dtype=self.mean.dtype, device=pixels.device).copy_(pixels)
        return images.mul_(1 / 255).sub_(self.mean).div_(self.std)
