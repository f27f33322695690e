"""Use a trained model on images of one's own: `dmf.load(folder).classify(images, labels, queries)`.

It needs the training's folder alone, not the images that it was trained on, except with Associative Alignment, which
reads those for every answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmf.config import ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.layouts.pictures import Look, open_picture
from dmf.data.sets import images_of
from dmf.data.sources import form_of, look_of
from dmf.data.store import Form
from dmf.evaluation.tables import base_images, device_of_method
from dmf.machine.precision import autocast
from dmf.methods import base_classes_of, build_method
from dmf.methods.base import FewShotMethod
from dmf.methods.related import BaseImages
from dmf.records.checkpoints import load_weights, read_checkpoint_of, under
from dmf.records.records import BEST, CONFIG, Kept, without_weights

IMAGES_AT_ONCE = 64
AnyImage = Image.Image | np.ndarray | str | PathLike[str]
"""An image: Pillow's, uint8 [h, w] or [h, w, 1 or 3], or the path of a file."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of Q queries."""

    labels: list[Hashable]
    """The label of each query, one of those of the support images."""
    scores: Tensor
    """[Q, N], float32: the logits of the N classes."""
    classes: list[Hashable]
    """The N labels, in the order in which the support images first have them."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained few-shot model, in evaluation mode."""

    model: FewShotMethod
    config: ExperimentConfig
    """The training that it comes from."""
    base: BaseImages | None = None
    """The images of the base classes, if the method reads them."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((each.device for each in self.model.parameters()), torch.device("cpu"))

    def transform(self, images: Sequence[AnyImage]) -> Tensor:
        """P images -> the backbone's input, float32 [P, C, S, S]: resized and normalised as test images are.

        Raises ValueError, which names the image, if one cannot be used.
        """
        data = self.config.data
        form, look = form_of(data), look_of(data)
        squares = np.stack([_square(form, look, image, number) for number, image in enumerate(images)])
        return Augmentation(self.config.augmentation, data).evaluate(torch.from_numpy(squares))

    def classify(
        self, images: Sequence[AnyImage], labels: Sequence[Hashable], queries: Sequence[AnyImage], seed: int = 0
    ) -> Answers:
        """Name the class of each of `queries`, given labelled images, the same number of each class.

        Args:
            images: N x K support images, in any order.
            labels: the class of each of them; N classes or names of any kind.
            queries: Q images to be classified.
            seed: of the adaptation, for a method that adapts to the support images.

        Raises:
            ValueError: unequal numbers of images and labels, fewer than two classes, or classes of unequal size.
        """
        classes = list(dict.fromkeys(labels))
        rows = [[row for row, label in enumerate(labels) if label == name] for name in classes]
        _check(images, labels, queries, rows)
        with torch.inference_mode(not self.model.adapts), autocast(self.device, self.config.training.precision):
            table = self._table([*images, *queries])
            support = torch.tensor(rows, device=self.device)
            query = torch.arange(len(images), len(images) + len(queries), device=self.device)[None]
            if self.model.adapts:
                with torch.no_grad():
                    (answer,) = self.model.adapt_each(table, support[None], query, [seed], self.base)
                scores = answer.logits[None]
            else:
                ways = torch.arange(len(classes), device=self.device)[None]
                scores = self.model.score_rows(self.model.class_table(table, support), ways, table, query)
        found = scores[0].float().cpu()
        return Answers([classes[place] for place in found.argmax(1).tolist()], found, classes)

    @torch.no_grad()
    def _table(self, images: Sequence[AnyImage]) -> dict[str, Tensor]:
        parts = [self.model.image_table(self.model.maps(part)) for part in self._batches(images)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _batches(self, images: Sequence[AnyImage]) -> Iterator[Tensor]:
        for start in range(0, len(images), IMAGES_AT_ONCE):
            yield self.transform(images[start : start + IMAGES_AT_ONCE]).to(self.device)


def load(folder: str | PathLike[str], device: str = "cpu") -> Classifier:
    """The best weights of a training, from its folder (`STORE/trainings/KEY`), on `device`.

    Of a training that has not ended, these are the best so far. Raises ValueError if the folder holds no training, or
    one whose weights were not kept.
    """
    place = Path(folder)
    if not (place / CONFIG).is_file():
        raise ValueError(f"{place} holds no training: {CONFIG} is missing; name a folder such as runs/trainings/KEY")
    config = ExperimentConfig.read(place / CONFIG)
    if not (place / BEST).is_file():
        raise ValueError(f"{place}: {without_weights(config.key)}")
    tensors, kept = read_checkpoint_of(Kept, place / BEST)
    if kept.key != config.key:
        raise ValueError(f"{place / BEST} belongs to training {kept.key}, not to {config.key}")
    weights = under("model.", tensors)
    model = build_method(config.model, config.data, base_classes_of(config.model, config.data, weights))
    load_weights(model, weights, str(place / BEST))
    model = model.to(device).eval()
    split = images_of(config).train if model.reads_base else None
    augment = Augmentation(config.augmentation, config.data, device_of_method(model))
    with (
        torch.no_grad(),
        autocast(device_of_method(model), config.training.precision),
        base_images(model, split, augment) as base,  # if its features are in a file, the map outlives the file's name
    ):
        return Classifier(model, config, base)


def _square(form: Form, look: Look, image: AnyImage, number: int) -> np.ndarray:
    """An image as the cache would hold it: uint8 [S, S, C]."""
    try:
        if isinstance(image, np.ndarray):
            opened = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
        else:
            opened = image if isinstance(image, Image.Image) else open_picture(Path(image).read_bytes())
        return form.square(look.pixels(opened)[0])
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"image {number} cannot be used: {error}") from None


def _check(
    images: Sequence[AnyImage], labels: Sequence[Hashable], queries: Sequence[AnyImage], rows: Sequence[Sequence[int]]
) -> None:
    if len(images) != len(labels):
        raise ValueError(f"got {len(images)} images and {len(labels)} labels; expected one label for each image")
    if len(rows) < 2:
        raise ValueError(f"got images of {len(rows)} class; expected two classes or more")
    if len({len(each) for each in rows}) > 1:
        counts = ", ".join(str(len(each)) for each in rows)
        raise ValueError(f"the classes have {counts} images; expected the same number of each")
    if not queries:
        raise ValueError("got no queries; expected at least one image to classify")
