"""The rounds of IDeMe-Net, which train its deformation and its embedding in turn."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dmf.config import ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, ImageSplit
from dmf.episodes import EpisodeIndices, EpisodeSampler
from dmf.evaluation.tables import IMAGES_PER_BATCH
from dmf.machine.precision import autocast
from dmf.machine.watchdog import alive
from dmf.methods.base import Losses
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.methods.ideme_net.gallery import gallery_rows
from dmf.methods.ideme_net.model import IDeMeNet
from dmf.records.checkpoints import load_weights, under
from dmf.training.episodic import EpisodicStage

Batch = tuple[EpisodeIndices, Tensor, Tensor]
"""Episodes, and the pixels of their support and, where they are needed, of their queries, uint8 [n, S, S, C]."""


def fill_gallery(method: IDeMeNet, base: ImageSplit, augment: Augmentation) -> None:
    """Give a method its gallery, images of the training split, normalised as `augment` does."""
    rows = gallery_rows(base.labels, method.gallery.pixels.shape[1])
    method.gallery.fill(base.pixels(rows.flatten()), augment.mean, augment.std)


class RoundStage(EpisodicStage):
    """One round and its episodes, of images as in tests. Implements `dmf.training.stage.Stage`.

    The first round starts with the backbone and the classifier of its pre-training, each other one with all weights of
    the round before. Rounds of one training have the same episodes.
    """

    method: IDeMeNet

    def __init__(self, config: ExperimentConfig, data: DataSet, device: torch.device, start: Path | None) -> None:
        assert isinstance(config.model, IDeMeNetConfig)
        self.model = config.model
        super().__init__(config, data, device, start)
        fill_gallery(self.method, data.train, self.augment)
        self._table: Tensor | None = None
        if self.method.released:
            with autocast(device, config.training.precision):
                self.method.keep_gallery_features()

    def _selecting(self) -> ImageSplit:
        return self.data.test if self.model.protocol == "released" else self.data.val

    def _sampler(self, overlapping: bool = False) -> EpisodeSampler:
        return super()._sampler(overlapping=self.model.protocol == "released")

    def _take(self, tensors: dict[str, Tensor], where: str) -> None:
        super()._take(tensors, where)
        load_weights(self.method.classifier, under("model.head.", tensors), where)

    def read(self, step: int) -> Batch:  # type: ignore[override]  # of other images
        """The episodes of a step, and the pixels that it needs."""
        assert self.sampler is not None
        size = self.config.training.episodes_per_step
        indices = self.sampler(range(step * size, (step + 1) * size))
        needs_queries = self.model.trains_embedding and self.method.released
        query = indices.query.flatten() if needs_queries else indices.query.new_zeros(0)
        return indices, self.data.train.pixels(indices.support.flatten()), self.data.train.pixels(query)

    def losses(self, step: int, batch: Batch) -> Losses:  # type: ignore[override]
        """The losses of the round, in the training's precision."""
        indices, support, query = batch
        images = self._ready(support).unflatten(0, indices.support.shape)
        targets = indices.targets.to(self.device)
        with autocast(self.device, self.config.training.precision):
            if not self.model.trains_embedding:
                table = self._embeddings()
                support, query = (table[each].to(self.device) for each in (indices.support, indices.query))
                return self.method.deformation_losses(images, support, query, targets)
            classes = self.labels[indices.support[..., 0]].to(self.device)
            if not self.method.released:
                return self.method.embedding_losses(images, classes)
            queries = self.method.embed_all(self._ready(query).unflatten(0, indices.query.shape))
            return self.method.embedding_losses(images, classes, queries, targets)

    def _ready(self, pixels: Tensor) -> Tensor:
        return self.augment.evaluate(pixels.to(self.device, non_blocking=True))

    def _embeddings(self) -> Tensor:
        """Embeddings [M, D] of all training images, which do not change in an odd round."""
        if self._table is None:
            parts = []
            for rows in torch.arange(len(self.data.train)).split(IMAGES_PER_BATCH):
                parts.append(self.method.embed_all(self._ready(self.data.train.pixels(rows))).cpu())
                alive()
            self._table = torch.cat(parts)
        return self._table


build = RoundStage
