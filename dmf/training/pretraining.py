"""Pre-training: a classifier of the base classes on ordinary batches of augmented images."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.backbones import build_backbone
from dmf.config import ClassifierConfig, Pretraining
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet
from dmf.draws import derived_seed
from dmf.evaluation.bank import validation_bank
from dmf.evaluation.evaluate import episode_accuracies
from dmf.evaluation.tasks import validation_task
from dmf.machine.device import staged
from dmf.machine.precision import autocast
from dmf.methods.base import FewShotMethod, Losses
from dmf.methods.classifier_baseline.model import ClassifierBaseline
from dmf.methods.fine_tuning.model import FineTuning
from dmf.methods.novel_head import Kind, NovelHead
from dmf.training.classifier import BaseClassifier
from dmf.training.images import Drawn, TrainingImages
from dmf.training.mixing import ClassMixing, with_partners
from dmf.training.streams import BATCHES, MIXING


@dataclass(frozen=True)
class StoredBatch:
    """A batch of n images as it is read, on the CPU."""

    labels: Tensor
    """[n]"""
    images: Drawn
    """The n images, then the m that some of them are mixed with."""
    places: Tensor
    """[m]: which images are mixed."""
    weights: Tensor
    """[m, cells]: of their partners, as in `with_partners`."""


class PretrainingStage:
    """A classifier and its batches. Implements `dmf.training.stage.Stage`.

    Batches run through all training images in one random order, then in another, and so on. Validation is the
    accuracy over validation episodes of the nearest class mean by cosine (`ClassifierBaseline`), or of a head fitted to
    each (`FineTuning`, with the released margin of 0.01).
    """

    started = None
    learns = True

    def __init__(self, config: Pretraining, data: DataSet, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        backbone = build_backbone(config.model, config.data.channels)
        classifier = BaseClassifier(backbone, config.model, config.data, len(data.train.classes))
        self.module: nn.Module = classifier.to(memory_format=torch.channels_last).to(device)
        self.method = _validating(backbone, config.model)
        self.steps_per_epoch = config.training.batches_per_epoch
        self.augment = Augmentation(config.augmentation, config.data, device)
        self.images = TrainingImages(data.train, self.augment, config.training.seed, device)
        self.labels = torch.from_numpy(data.train.labels)
        grid = config.training.mixing_grid
        self.mixing = ClassMixing(data.train.labels, grid) if grid is not None else None
        self.validation = validation_task(config, data.val)
        self.bank = validation_bank(data.val, self.validation, config.training.validation_episodes)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, number: int) -> np.ndarray:
        """The order of all training images in pass `number` over them."""
        seed = derived_seed(self.config.training.seed, BATCHES, number)
        random = np.random.RandomState(np.random.SeedSequence(seed).generate_state(4))
        return random.permutation(len(self.labels))

    def indices(self, step: int) -> Tensor:
        """The training images of a step, [batch_size]."""
        size, images = self.config.training.batch_size, len(self.labels)
        places = np.arange(step * size, (step + 1) * size)
        return torch.from_numpy(np.array([self._order(place // images)[place % images] for place in places]))

    def read(self, step: int) -> StoredBatch:
        """The batch of a step; after its images come those that they are mixed with."""
        indices = self.indices(step)
        places, partners, weights = self._mixed_with(step, indices)
        return StoredBatch(
            staged(self.labels[indices], self.device),
            self.images.read(torch.cat([indices, partners]), step),
            staged(places, self.device),
            staged(weights, self.device),
        )

    def _mixed_with(self, step: int, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `ClassMixing` draws for a step."""
        if self.mixing is None:
            return indices[:0], indices[:0], torch.zeros(0, 1)
        seed = derived_seed(self.config.training.seed, MIXING, step)
        random = np.random.RandomState(np.random.SeedSequence(seed).generate_state(4))
        return self.mixing.drawn(indices.numpy(), random)

    def losses(self, step: int, batch: StoredBatch) -> Losses:
        """Cross-entropy over the base classes."""
        images, count = self.images.augmented(batch.images, step), len(batch.labels)
        if self.mixing is not None:
            places, weights = (part.to(self.device, non_blocking=True) for part in (batch.places, batch.weights))
            images = with_partners(images[:count], images[count:], places, weights)
        labels = batch.labels.to(self.device, non_blocking=True)
        with autocast(self.device, self.config.training.precision):
            logits = self.module(images, labels)
        loss = F.cross_entropy(logits, labels)
        return Losses(loss, {"classification": loss})

    def validate(self) -> float:
        """Accuracy over the validation episodes."""
        self.method.train(self.module.training)
        precision = self.config.training.precision
        return float(episode_accuracies(self.method, self.data.val, self.bank, self.augment, precision).mean())


def _validating(backbone: nn.Module, config: ClassifierConfig) -> FewShotMethod:
    """What answers validation episodes on the backbone's features."""
    if config.validated_by == "nearest_mean":
        return ClassifierBaseline(backbone)
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    return FineTuning(backbone, NovelHead(kinds[config.head], scale=5.0, margin=0.01), flattened=config.flattened)


def build(config: Pretraining, data: DataSet, device: torch.device, start: Path | None) -> PretrainingStage:
    """The stage of a pre-training, which always starts from random weights."""
    assert start is None
    return PretrainingStage(config, data, device)
