"""The images of a training's steps: read ahead of time, then augmented on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from dmf.data.augment import Augmentation, Stored
from dmf.data.sets import ImageSplit
from dmf.draws import derived_seed
from dmf.machine.device import staged
from dmf.training.streams import AUGMENTATION


@dataclass(frozen=True)
class Drawn:
    """The stored images of a step, and the generator that drew their windows, which on a CPU draws all that follows."""

    stored: Stored
    generator: Generator


class TrainingImages:
    """The images of `split`; how those of a step are augmented depends on `seed` and the step alone."""

    def __init__(self, split: ImageSplit, augment: Augmentation, seed: int, device: torch.device) -> None:
        self.split, self.augment, self.seed, self.device = split, augment, seed, device

    def read(self, indices: Tensor, step: int) -> Drawn:
        """The stored images `indices` [n] of a step, pinned for a GPU so that they are copied asynchronously."""
        generator = self._generator(step, torch.device("cpu"))
        stored = self.augment.read(self.split, indices, generator)
        return Drawn(replace(stored, pixels=staged(stored.pixels, self.device)), generator)

    def augmented(self, drawn: Drawn, step: int) -> Tensor:
        """Augment images that `read` returned, for a step -> float32 [n, C, S, S] on the device."""
        generator = drawn.generator if self.device.type == "cpu" else self._generator(step, self.device)
        return self.augment.transform(drawn.stored, generator)

    def _generator(self, step: int, device: torch.device) -> Generator:
        return Generator(device).manual_seed(derived_seed(self.seed, AUGMENTATION, step))
