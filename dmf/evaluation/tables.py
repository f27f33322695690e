"""The features that an evaluation caches per image and per class: on the device, in memory, or in temporary files."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmf.config.sections import TABLE_BYTES
from dmf.data.augment import Augmentation
from dmf.data.prefetch import prefetched
from dmf.data.sets import ImageSplit
from dmf.episodes import EpisodeIndices
from dmf.machine.device import staged
from dmf.machine.files import temporary_folder
from dmf.machine.watchdog import alive
from dmf.methods.base import Adaptation, FewShotMethod, Table
from dmf.methods.related import BaseImages

IMAGES_PER_BATCH = 128


@dataclass(frozen=True)
class Tables:
    """A method's image table for a bank, and the bank's episodes as rows of that table."""

    method: FewShotMethod
    device: torch.device
    images: Table
    support: Tensor
    """[E, N, K]: rows of `images`, on the device of that table."""
    query: Tensor
    """[E, Q]: rows of `images`, on the device of that table."""
    examples: tuple[Table, Tensor] | None
    """With one shot, a class is a single support image: a class table of all support images, and the row of each image
    in it, both on the device. None if the table is not worth its memory."""

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation
    ) -> Iterator[Tables]:
        """Forward every image of `bank` once. Temporary files are removed when the block ends."""
        device = device_of_method(method)
        with temporary_folder("tables") as room:
            rows, row_of = torch.unique(torch.cat([bank.support.flatten(), bank.query.flatten()]), return_inverse=True)
            images = image_table(method, split, rows, augment, device, Path(room))
            support = row_of[: bank.support.numel()].view_as(bank.support)
            query = row_of[bank.support.numel() :].view_as(bank.query)
            examples = None if method.adapts else _examples_as_classes(method, images, support, device)
            place = _device_of(images)
            yield cls(method, device, images, support.to(place), query.to(place), examples)

    def scores(self, part: slice) -> Tensor:
        """Logits [B, Q, N] of the episodes in `part`."""
        support, query = self.support[part], self.query[part]
        if self.examples is not None:
            classes, row_of_example = self.examples
            return self.method.score_rows(classes, row_of_example[support[..., 0]], self.images, query)
        images, support, query = self._brought(support, query)
        classes = self.method.class_table(images, support.flatten(0, 1))
        class_rows = torch.arange(support[..., 0].numel(), device=self.device).view(support.shape[:2])
        return self.method.score_rows(classes, class_rows, images, query)

    def adapted(
        self, part: slice, seeds: list[int], base: BaseImages | None = None, first: int = 0
    ) -> Iterator[Adaptation]:
        """What a method that adapts answers in each episode of `part` from its number `first` on, with their seeds."""
        images, support, query = self._brought(self.support[part], self.query[part])
        return self.method.adapt_each(images, support, query, seeds, base, first)

    def _brought(self, support: Tensor, query: Tensor) -> tuple[Table, Tensor, Tensor]:
        """Move the images of these rows to the device; returns their table, and the rows within it."""
        images = self.images
        if _device_of(images) != self.device:
            needed, row_of = torch.unique(torch.cat([support.flatten(), query.flatten()]), return_inverse=True)
            images = {name: table[needed].to(self.device) for name, table in images.items()}
            support, query = row_of[: support.numel()].view_as(support), row_of[support.numel() :].view_as(query)
        return images, support.to(self.device), query.to(self.device)


def device_of_method(method: FewShotMethod) -> torch.device:
    """The device of the method's weights."""
    return next((parameter.device for parameter in method.parameters()), torch.device("cpu"))


def image_table(
    method: FewShotMethod, split: ImageSplit, rows: Tensor, augment: Augmentation, device: torch.device, room: Path
) -> Table:
    """`FewShotMethod.image_table` for the split's `rows`, where `table_of` keeps it."""
    return table_of(lambda images: method.image_table(method.maps(images)), split, rows, augment, device, room)


@contextlib.contextmanager
def base_images(method: FewShotMethod, split: ImageSplit | None, augment: Augmentation) -> Iterator[BaseImages | None]:
    """The base images that `method` reads, those of the training split; None if it reads none.

    Every image of the split passes once through the network. Temporary files are removed when the block ends.
    """
    if not method.reads_base:
        yield None
        return
    assert split is not None
    device, pictures = device_of_method(method), split

    def images(rows: Tensor) -> Tensor:
        return augment.evaluate(staged(pictures.pixels(rows), device))

    def features(images: Tensor) -> Table:
        return {"features": method.base_features(images)}

    with temporary_folder("features") as room:
        table = table_of(features, split, torch.arange(len(split)), augment, device, Path(room))
        yield BaseImages(torch.from_numpy(split.labels), table["features"], images)


def table_of(
    of_images: Callable[[Tensor], Table],
    split: ImageSplit,
    rows: Tensor,
    augment: Augmentation,
    device: torch.device,
    room: Path,
) -> Table:
    """What `of_images` gives for the split's `rows`, from images as tests see them.

    The table is on the device if it fits in half of the GPU's free memory, else in the CPU's memory, and above
    TABLE_BYTES in files in the folder `room`.
    """
    table: Table = {}
    starts = range(0, len(rows), IMAGES_PER_BATCH)

    def read(start: int) -> Tensor:
        return staged(split.pixels(rows[start : start + IMAGES_PER_BATCH]), device)

    for start, pixels in zip(starts, prefetched(read, starts), strict=True):
        images = augment.evaluate(pixels)
        part = of_images(images)
        alive()
        table = table or _room_for(len(rows), part, room)
        for name, values in part.items():
            table[name][start : start + len(images)] = values
    return table


def _room_for(count: int, like: Table, room: Path) -> Table:
    """Empty tensors for a table of `count` rows, with types and row shapes as in `like`."""
    shapes = {name: (count, *values.shape[1:]) for name, values in like.items()}
    sizes = {name: math.prod(shape) * like[name].element_size() for name, shape in shapes.items()}
    device, total = _device_of(like), sum(sizes.values())
    if device.type == "cuda" and total < torch.cuda.mem_get_info(device)[0] / 2:
        return {name: like[name].new_empty(shape) for name, shape in shapes.items()}
    if total <= TABLE_BYTES:
        return {name: torch.empty(shape, dtype=like[name].dtype) for name, shape in shapes.items()}
    free = shutil.disk_usage(room).free
    if total > free:
        raise ValueError(
            f"the features of the episodes' images take {total / 1e9:.1f} GB, but {room.parent} has only "
            f"{free / 1e9:.1f} GB free; set TMPDIR to a larger folder, or use fewer episodes"
        )
    return {
        name: torch.from_file(str(room / name), shared=True, size=math.prod(shape), dtype=like[name].dtype).view(shape)
        for name, shape in shapes.items()
    }


def _examples_as_classes(
    method: FewShotMethod, images: Table, support: Tensor, device: torch.device
) -> tuple[Table, Tensor] | None:
    """`Tables.examples`. Episodes share support images, so there are fewer of them than classes in all episodes."""
    examples = support.unique()
    if not method.computes_classes or support.shape[-1] != 1 or len(examples) >= support.numel():
        return None
    if _device_of(images) != device:
        return None
    sample = method.class_table(images, examples[:1, None].to(device))
    room = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else TABLE_BYTES - _bytes(images)
    if _bytes(sample) * len(examples) > room:
        return None
    table = {name: values.new_empty(len(examples), *values.shape[1:]) for name, values in sample.items()}
    for start in range(0, len(examples), IMAGES_PER_BATCH):
        part = method.class_table(images, examples[start : start + IMAGES_PER_BATCH, None].to(device))
        for name, values in part.items():
            table[name][start : start + len(values)] = values
    row_of_example = torch.full((int(examples.max()) + 1,), -1)
    row_of_example[examples] = torch.arange(len(examples))
    return table, row_of_example.to(device)


def _device_of(table: Table) -> torch.device:
    return next(iter(table.values())).device


def _bytes(table: Table) -> int:
    return sum(values.nbytes for values in table.values())
