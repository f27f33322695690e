"""Training on episodes."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dmf.backbones.drop_block import count_forwards, reset_forwards
from dmf.config import ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, ImageSplit
from dmf.draws import derived_seed
from dmf.episodes import Episode, EpisodeIndices, EpisodeSampler
from dmf.evaluation.bank import validation_bank
from dmf.evaluation.evaluate import episode_accuracies
from dmf.evaluation.tasks import check_episodes, validation_task
from dmf.machine.device import staged
from dmf.machine.precision import autocast
from dmf.methods import build_method
from dmf.methods.base import Losses
from dmf.records.checkpoints import load_weights, read_checkpoint_of, under, weights_checksum
from dmf.records.records import Kept, Started
from dmf.training.images import Drawn, TrainingImages
from dmf.training.streams import BATCHES

WEIGHTS = "dmf.weights"
"""The module that reads weights to start from; imported by name, so that other trainings' code does not include it."""


@dataclass(frozen=True)
class StoredEpisodes:
    """The episodes of a step as they are read: `targets` and `labels` [B, Q] as in `Episode`, on the CPU."""

    indices: EpisodeIndices
    images: Drawn
    targets: Tensor
    labels: Tensor


class EpisodicStage:
    """A method and its training episodes. Implements `dmf.training.stage.Stage`."""

    def __init__(self, config: ExperimentConfig, data: DataSet, device: torch.device, start: Path | None) -> None:
        self.config, self.data, self.device = config, data, device
        settings = config.training
        self.method = build_method(config.model, config.data, len(data.train.classes))
        self.module: nn.Module = self.method
        self.learns = config.model.learns
        self.steps_per_epoch = settings.episodes_per_epoch // settings.episodes_per_step
        self.started = self._start_from(start) if config.stage is not None else None
        if config.stage is None and config.weights != (None, None):
            importlib.import_module(WEIGHTS).start_from(self.method.backbone, *config.weights)
        self.method.to(device)
        self.augment = Augmentation(config.augmentation, config.data, device)
        self.images = TrainingImages(data.train, self.augment, settings.seed, device)
        self.sampler = self._sampler() if self.learns else None
        self.labels = torch.from_numpy(data.train.labels)
        self.selecting = self._selecting()
        self.validation = validation_task(config, self.selecting) if self.learns else None
        self.bank = (
            validation_bank(self.selecting, self.validation, settings.validation_episodes) if self.validation else None
        )

    def _selecting(self) -> ImageSplit:
        """The split whose episodes select the epoch."""
        return self.data.val

    def _sampler(self, overlapping: bool = False) -> EpisodeSampler:
        episodes, labels = self.config.episodes, self.data.train.labels
        check_episodes(self.config, self.data.train)
        seed = derived_seed(self.config.training.seed, BATCHES)
        return EpisodeSampler(labels, episodes.way, episodes.shot, episodes.queries, seed, overlapping)

    def _start_from(self, start: Path | None) -> Started:
        """Load the weights that the training starts from, and reset the backbone's count of forward passes.

        These are the backbone's, or, from an earlier training of the same method, all.
        """
        stage = self.config.stage
        assert stage is not None
        called = f"{stage.as_start} {stage.key}"
        if start is None or not start.is_file():
            raise ValueError(
                f"training {self.config.key} starts from {called}, but its weights are not at {start}; run the "
                f"{stage.as_start} first"
            )
        tensors, kept = read_checkpoint_of(Kept, start)
        if kept.key != stage.key or kept.data != self.data.fingerprint:
            raise ValueError(f"{start} holds training {kept.key}, or was trained on other images; expected {called}")
        if stage.kind == "experiment" and stage.model.method == self.config.model.method:
            load_weights(self.method, under("model.", tensors), str(start))
        else:
            self._take(tensors, str(start))
        reset_forwards(self.method.backbone)
        return Started(key=stage.key, weights=weights_checksum(start))

    def _take(self, tensors: dict[str, Tensor], where: str) -> None:
        """Load what the method needs of another training's weights."""
        load_weights(self.method.backbone, under("model.backbone.", tensors), where)

    def read(self, step: int) -> StoredEpisodes:
        """The episodes of a step and their stored images."""
        assert self.sampler is not None
        size = self.config.training.episodes_per_step
        indices = self.sampler(range(step * size, (step + 1) * size))
        return StoredEpisodes(
            indices,
            self.images.read(torch.cat([indices.support.flatten(), indices.query.flatten()]), step),
            staged(indices.targets, self.device),
            staged(self.labels[indices.query], self.device),
        )

    def episode(self, step: int, batch: StoredEpisodes) -> Episode:
        """The episodes of a step, from the batch that `read` returned: augmented, and on the device."""
        support, query = batch.indices.support, batch.indices.query
        images = self.images.augmented(batch.images, step)
        return Episode(
            images[: support.numel()].unflatten(0, support.shape),
            images[support.numel() :].unflatten(0, query.shape),
            batch.targets.to(self.device, non_blocking=True),
            batch.labels.to(self.device, non_blocking=True),
        )

    def losses(self, step: int, batch: StoredEpisodes) -> Losses:
        """The method's losses, in the training's precision."""
        with autocast(self.device, self.config.training.precision):
            return self.method.losses(self.episode(step, batch))

    def validate(self) -> float:
        """Accuracy over the validation episodes; with `drop_block_counts_validation`, DropBlock's ramp advances."""
        settings, model = self.config.training, self.config.model
        assert self.bank is not None
        accuracies = episode_accuracies(self.method, self.selecting, self.bank, self.augment, settings.precision)
        if getattr(model, "drop_block_counts_validation", False):
            count_forwards(self.method, math.ceil(settings.validation_episodes / settings.episodes_per_step))
        return float(accuracies.mean())


build = EpisodicStage
