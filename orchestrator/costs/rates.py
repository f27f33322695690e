"""Rates of trainings on a machine, per episode and image: from records, from a calibration, or scaled by FLOPs.

Trainings of one cost class do the same work per episode: all settings that cost time or memory are equal.
"""

from __future__ import annotations

import functools
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from dmf.backbones import build_backbone, image_flops, map_shape
from dmf.backbones.config import BackboneConfig
from dmf.config import (
    AnyMethod,
    AnyTraining,
    ClassifierConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Task,
    Training,
)
from dmf.config.sections import USUAL_QUERIES, USUAL_SHOT, USUAL_WAY
from dmf.methods import build_method
from dmf.methods.config import AlignmentConfig
from dmf.records.records import EvaluationRecord, TrainingRecord
from dmf.values import Checked, Damaged, Value

log = logging.getLogger("dmf.estimates")

COSTS_NOTHING = frozenset(
    "data.normalisation data.resize data.background data.orientation augmentation.crop_padding augmentation.flip "
    "augmentation.erasing model.drop_rate model.drop_block_size model.drop_block_ramp "
    "model.drop_block_counts_validation model.few_shot_weight model.novel_scale model.novel_margin "
    "model.novel_learning_rate model.aligned_scale model.alignment_learning_rate model.critic_learning_rate "
    "model.global_weight training.seed training.epochs training.learning_rate training.learning_rate_floor "
    "training.warmup_epochs training.momentum training.nesterov training.weight_decay training.schedule "
    "training.milestones training.head_rate_factor "
    "training.validation_episodes training.validate_every training.validate_all_from validation.way "
    "validation.shot validation.queries start".split()
)
"""Parameters and sections that affect neither an episode's time nor the memory."""

BASE_CLASSES = 1_200
"""For classifiers: more than the training classes of any known data set."""
Images = dict[str, int]
"""The number of images in each split, by name, if known."""


class Rates(Value):
    """The measured rates of one cost class on one device."""

    cost_class: str
    device: str
    threads: int
    config: Training
    """One training of the class."""
    episode_seconds: tuple[float, ...]
    """Per training episode, one value for every epoch or timed stretch; empty if nothing is learnt."""
    image_seconds: float
    """In an evaluation, per forward pass of an image (`images_forwarded`)."""
    test_episode_seconds: float
    """In an evaluation, per episode on top of its images."""
    start_seconds: float
    """On top of epochs and evaluations."""
    peak_bytes: int | None = None
    image_bytes: int = 0
    """On top of the peak, per image that an evaluation keeps; 0 if the peak covers whole evaluations."""
    parameters: int | None = None
    images: Images = Field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, int]:
        """Class, device and threads, which identify the rates."""
        return self.cost_class, self.device, self.threads

    def scaled(self, config: AnyTraining) -> Rates:
        """The rates for a training of another class, scaled by the FLOPs of the two backbones; memory is unknown."""
        image = flops_per_image(config) / flops_per_image(self.config)
        episode = image * config.images_per_batch / self.config.images_per_batch
        return Rates(
            cost_class=cost_class(config),
            device=self.device,
            threads=self.threads,
            config=config,
            episode_seconds=tuple(episode * seconds for seconds in self.episode_seconds) if learns(config) else (),
            image_seconds=image * self.image_seconds,
            test_episode_seconds=image * self.test_episode_seconds,
            start_seconds=self.start_seconds,
        )


def learns(config: AnyTraining) -> bool:
    """Whether a training has epochs."""
    return config.kind == "pretraining" or config.model.learns


class Calibration(Checked):
    """The rates that `orchestrator.costs.calibrate` has measured for a store."""

    measured: tuple[Rates, ...] = ()

    @classmethod
    def of(cls, store: Path) -> Self:
        """A store's calibration, empty if nothing was measured or, with a warning, if its file is damaged."""
        path = calibration_path(store)
        try:
            return cls.read(path) if path.is_file() else cls()
        except Damaged as error:
            log.warning("no calibration is used, measure again: %s", " ".join(str(error).split())[:300])
            return cls()

    def images_of(self, data: DataConfig) -> Images:
        """Sizes of a data set's splits, if it was opened for a measurement."""
        opened = (rates.images for rates in self.measured if _same_images(rates.config.data, data))
        return next((images for images in opened if images), {})


def calibration_path(store: Path) -> Path:
    """The file with a store's calibration."""
    return store / "calibration.json"


def _same_images(one: DataConfig, other: DataConfig) -> bool:
    return (one.name, one.rotations_as_classes) == (other.name, other.rotations_as_classes)


def cost_class(config: AnyTraining) -> str:
    """A digest of everything in a configuration that costs time or memory, except device and threads."""
    return representative(config).key


def representative(config: AnyTraining) -> AnyTraining:
    """The one training that represents all of a cost class."""
    plain = type(config)().flat() | _defaults_of(config.model)
    there = config.flat()
    values = {path: plain[path] for path in there if path in COSTS_NOTHING and path in plain}
    values["augmentation.color_jitter"] = (
        plain["augmentation.color_jitter"] if config.augmentation.color_jitter else 0.0
    )
    if isinstance(config, ExperimentConfig):
        values["training.episodes_per_epoch"] = config.training.episodes_per_step
        if not config.model.needs_start:
            values["start"] = None
            if config.weights != (None, None):
                values |= {"model.weights": None, "model.weights_sha256": None}
    else:
        values["training.batches_per_epoch"] = 1
    return config.with_paths(values)


def _defaults_of(model: Value) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in type(model)().flat().items()}


def distinct_images(evaluation: EvaluationConfig, images: Images) -> float:
    """The images that an evaluation forwards, each once: n draws from M are expected to find M (1 - e^(-n/M))."""
    assert evaluation.shot is not None
    drawn = evaluation.tested * evaluation.way * (evaluation.shot + evaluation.queries)
    held = images.get(evaluation.split)
    return drawn if held is None else held * -math.expm1(-drawn / held)


def aligned_images(config: AnyTraining, evaluation: EvaluationConfig, images: Images) -> float:
    """The forward passes of an image that aligning to base images adds to an evaluation; 0 without that.

    A backward pass counts as two. Every base image passes once, and in every iteration of an episode the related ones
    forward and backward, then forward, and the support forward and backward, twice.
    """
    if not isinstance(config.model, AlignmentConfig):
        return 0.0
    assert evaluation.shot is not None
    iteration = evaluation.way * (4 * config.model.related_images + 6 * evaluation.shot)
    return images.get("train", 0) + evaluation.tested * config.model.alignment_iterations * iteration


def images_forwarded(config: AnyTraining, evaluation: EvaluationConfig, images: Images) -> float:
    """The forward passes of an image in an evaluation of a training."""
    return distinct_images(evaluation, images) + aligned_images(config, evaluation, images)


def validation_of(config: AnyTraining, task: Task | None = None) -> EvaluationConfig:
    """The evaluation that selects a training's epoch.

    It uses the `task` in the training's record, or else what is known without the images.
    """
    asked, way, shot = config.validation, USUAL_WAY, USUAL_SHOT
    if isinstance(config, ExperimentConfig):
        way, shot = config.episodes.way, config.episodes.shot
    task = task or Task(way=asked.way or way, shot=asked.shot or shot, queries=asked.queries or USUAL_QUERIES)
    episodes = config.training.validation_episodes
    return EvaluationConfig(split="val", episodes=episodes, way=task.way, shot=task.shot, queries=task.queries)


def of_record(record: TrainingRecord, tests: Iterable[EvaluationRecord], images: Images) -> Rates | None:
    """The rates of a training, from its epochs' seconds; None if the record is of no use, for example after a failure.

    A validation takes as long as epochs with one exceed epochs without. If all epochs have one, its share is that of
    forward passes, given that an image forward and backward takes three times as long as forward. How an evaluation's
    time divides between images and episodes is not recorded; half is assumed for each, and all of it for the images
    where episodes are aligned to base images.
    """
    config, validation, tests = record.config, validation_of(record.config, record.validation), list(tests)
    if record.outcome == "failed" or record.provenance is None or not (record.history if learns(config) else tests):
        return None
    batches = config.batches_per_epoch
    plain = [epoch.seconds for epoch in record.history if epoch.validation_accuracy is None]
    validated = [epoch.seconds for epoch in record.history if epoch.validation_accuracy is not None]
    selecting = 0.0
    if plain and validated:
        selecting = max(0.0, statistics.median(validated) - statistics.median(plain))
    elif validated:
        forwards = distinct_images(validation, images)
        share = forwards / (forwards + 3 * batches * config.images_per_batch)
        selecting = share * statistics.median(validated)
    seen = [(validation, selecting)] if selecting else []
    seen += [(test.config, test.seconds) for test in tests]
    of_images = 1.0 if isinstance(config.model, AlignmentConfig) else 0.5
    return Rates(
        cost_class=cost_class(config),
        device=record.provenance.device,
        threads=record.provenance.threads,
        config=config,
        episode_seconds=tuple(max(0.0, s) / batches for s in [*plain, *(s - selecting for s in validated)]),
        image_seconds=_median(of_images * seconds / images_forwarded(config, test, images) for test, seconds in seen),
        test_episode_seconds=_median((1 - of_images) * seconds / test.tested for test, seconds in seen),
        start_seconds=max(0.0, record.seconds - sum(epoch.seconds for epoch in record.history)),
        peak_bytes=record.peak_bytes,
        parameters=record.parameters,
    )


def merged(rates: Sequence[Rates]) -> Rates:
    """Merge rates of one class, device and number of threads: medians, all epochs, the highest peak."""

    def median(of: Callable[[Rates], float]) -> float:
        return statistics.median(map(of, rates))

    return Rates(
        cost_class=rates[0].cost_class,
        device=rates[0].device,
        threads=rates[0].threads,
        config=rates[0].config,
        episode_seconds=tuple(seconds for one in rates for seconds in one.episode_seconds),
        image_seconds=median(lambda one: one.image_seconds),
        test_episode_seconds=median(lambda one: one.test_episode_seconds),
        start_seconds=median(lambda one: one.start_seconds),
        peak_bytes=max((one.peak_bytes for one in rates if one.peak_bytes), default=None),
        parameters=next((one.parameters for one in rates if one.parameters is not None), None),
    )


def _median(values: Iterable[float]) -> float:
    values = list(values)
    return statistics.median(values) if values else 0.0


def flops_per_image(config: AnyTraining) -> int:
    """FLOPs of the backbone's convolutions for one image, forward, two per multiply-add; 0 for raw pixels."""
    model = config.model
    if not isinstance(model, BackboneConfig):
        return 0
    backbone = BackboneConfig(**{name: getattr(model, name) for name in ("backbone", "last_pooling", "wrn_variant")})
    return _backbone_flops(backbone, config.data.channels, config.data.image_size)


@functools.cache
def _backbone_flops(config: BackboneConfig, channels: int, side: int) -> int:
    return image_flops(config, channels, side)


def parameters(config: AnyTraining, base_classes: int = BASE_CLASSES) -> int:
    """The number of learnt parameters, counted on a model without storage; classifiers have `base_classes` classes."""
    return _counted(config.model, config.data.channels, config.data.image_size, base_classes)[0]


def buffer_bytes(config: AnyTraining, base_classes: int = BASE_CLASSES) -> int:
    """What weights hold besides parameters, in bytes: statistics, and images of the base classes (IDeMe-Net)."""
    return _counted(config.model, config.data.channels, config.data.image_size, base_classes)[1]


@functools.cache
def _counted(model: AnyMethod | ClassifierConfig, channels: int, side: int, base_classes: int) -> tuple[int, int]:
    from dmf.machine.device import shapes_only

    head = 0
    with shapes_only():
        if isinstance(model, ClassifierConfig):
            length = math.prod(map_shape(model, channels, side)) if model.flattened else model.channels
            built, head = build_backbone(model, channels), (length + 1) * base_classes
        else:
            built = build_method(model, DataConfig().replace(channels=channels, image_size=side), base_classes)
        learnt = sum(parameter.numel() for parameter in built.parameters())
        return learnt + head, sum(buffer.numel() * buffer.element_size() for buffer in built.buffers())
