"""The images of a training's steps: read ahead of time, then augmented on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from dmf.data.augment import Augmentation, Stored
from dmf.data.sets import ImageSplit
from dmf.draws import derived_seed
from dmf.training.streams import AUGMENTATION


class TrainingImages:
    """The images of `split`; how those of a step are augmented depends on `seed` and the step alone."""

    def __init__(self, split: ImageSplit, augment: Augmentation, seed: int, device: torch.device) -> None:
        self.split, self.augment, self.seed, self.device = split, augment, seed, device

    def read(self, indices: Tensor) -> Stored:
        """The stored images `indices` [n], pinned for a GPU so that they are copied asynchronously."""
        stored = self.augment.read(self.split, indices)
        return stored.pin_memory() if self.device.type == "cuda" and isinstance(stored, Tensor) else stored

    def augmented(self, stored: Stored, step: int) -> Tensor:
        """Augment images that `read` returned, for a step -> float32 [n, C, S, S] on the device."""
        generator = torch.Generator(self.device)
        generator.manual_seed(derived_seed(self.seed, AUGMENTATION, step))
        return self.augment.transform(stored, generator)
