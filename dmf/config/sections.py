"""The sections of every experiment's configuration: data, augmentation, episodes, optimisation, evaluation.

Defaults are the released code's for miniImageNet. The paper gives the learning rates, the weight decay, the cosine
schedule and the episodes; only the released code gives the momentum, the number of epochs and the warm-up.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from dmf.values import NO_BOOL, Count, Fraction, NonNegative, Positive, Seed, Value, digest

if TYPE_CHECKING:
    from dmf.config.experiment import ExperimentConfig

Episodes = Annotated[int, Field(ge=2, le=1_000_000)]
"""Number of episodes in a bank, which is held in memory."""
Way = Annotated[int, Field(ge=2)]


DataName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Root = Annotated[str, Field(min_length=1)]


class DataConfig(Value):
    """Which images to use, and how to resize them to a square of `image_size` pixels."""

    name: DataName = "mini_imagenet"
    """A known data set (`dmf.data.known.DATASETS`), or any other name for your own images."""
    root: Root | None = None
    """Folder or archive with the images; None only for `glyphs`, which are embedded. Not part of a training's
    identity."""
    image_size: Annotated[int, Field(ge=8, le=2048)] = 84
    """Side of the square images, in pixels."""
    channels: Annotated[Literal[1, 3], NO_BOOL] = 3
    """1: grey; 3: red, green and blue."""
    resize: Literal["square", "center_crop"] = "square"
    """`square` scales both sides to `image_size`; `center_crop` scales both to 92/84 of it, then crops the centre (the
    released code for tieredImageNet)."""
    background: Literal["white", "black"] = "white"
    """What shows through pixels that are transparent in part; a transparency that is the same everywhere is dropped."""
    orientation: Literal["stored", "exif"] = "stored"
    """`stored` reads images as they are in the file, as published code does; `exif` turns them as their EXIF
    orientation says, for your own photographs (Pillow turns TIFF files in any case)."""
    rotations_as_classes: bool = False
    """Rotate every class by 0, 90, 180 and 270 degrees to make four classes of it (usual for Omniglot)."""
    normalisation: Literal["imagenet", "cifar", "half", "mini_imagenet"] = "imagenet"
    """Mean and standard deviation per channel (`dmf.data.augment.NORMALISATIONS`)."""


class AugmentationConfig(Value):
    """Augmentation of training images, in this order: crop, colour jitter, flip, normalisation, erasing."""

    crop: Literal["none", "padded", "resized"] = "padded"
    """`padded`: RandomCrop after padding each side with `crop_padding` zeros; `resized`: RandomResizedCrop of the image
    at full size."""
    crop_padding: Annotated[int, Field(ge=0)] = 8
    """In pixels."""
    color_jitter: Fraction = 0.4
    """j: brightness, contrast and saturation factors are drawn from [1 - j, 1 + j]."""
    flip: bool = True
    """Mirror half of the images."""
    erasing: Fraction = 0.5
    """Probability of erasing a rectangle of 2-40 % of the area, after normalisation."""


class EpisodeConfig(Value):
    """The training episodes."""

    way: Way = 5
    """Classes per episode."""
    shot: Count = 1
    """Support images per class."""
    queries: Count = 6
    """Queries per class."""


USUAL_WAY, USUAL_SHOT, USUAL_QUERIES = 5, 1, 15
"""Defaults for validation episodes, used where neither `validation` nor the training's episodes set a value."""


TABLE_BYTES = 6 * 2**30
"""Memory that an evaluation on a CPU can use for its tables. If the image table needs more, it goes to temporary
memory-mapped files. The class table of single examples gets the memory that is left; if that is too little, classes are
computed again for each batch of episodes."""


class Task(Value):
    """N-way K-shot episodes with `queries` queries per class."""

    way: Way
    shot: Count
    queries: Count


class ValidationConfig(Value):
    """The episodes that select a training's best epoch.

    None: the way and shot of the training, and 15 queries per class, each reduced to what the validation split allows.
    The record holds the task that was used.
    """

    way: Way | None = None
    shot: Count | None = None
    queries: Count | None = None
    """Queries per class."""


Milestone = Annotated[tuple[Count, Positive], Field(strict=False)]
"""An epoch, and the multiplier of the learning rate after it. Not strict, so that a list in a file counts as a tuple;
its two numbers are strict."""
OF_SGD = ("momentum", "nesterov")
"""Settings that only `sgd` reads."""


class OptimisationConfig(Value):
    """The optimiser, the schedule of its learning rate, and when to validate.

    After a linear warm-up, the learning rate is `learning_rate` times a multiplier that follows the schedule.
    """

    epochs: Count = 95
    """All epochs, including `warmup_epochs`."""
    learning_rate: Positive = 0.35
    learning_rate_floor: Fraction = 1e-5
    """Smallest learning rate of `half_cosine`, as a fraction of `learning_rate`."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    """Times each parameter, added to its gradient, with either optimiser."""
    validation_episodes: Episodes = 2000
    validate_every: Count = 10
    """Validate after epochs 1, `validate_every`, 2 * `validate_every`, ..., after every epoch from `validate_all_from`
    on, and after the last."""
    validate_all_from: Count = 60
    optimiser: Literal["sgd", "adam"] = "sgd"
    """`sgd` reads `momentum` and `nesterov`; `adam` has betas 0.9 and 0.999."""
    schedule: Literal["half_cosine", "constant", "steps"] = "half_cosine"
    """The multiplier: `half_cosine` falls from 1 to `learning_rate_floor` by the last epoch, `constant` is 1, `steps`
    reads `milestones`."""
    milestones: Annotated[tuple[Milestone, ...], Field(strict=False)] = ()
    """Pairs of an epoch and the multiplier after it, such as `[[20, 0.06], [40, 0.012]]`; epochs rise."""
    head_rate_factor: Positive = 1.0
    """Factor of the learning rate of all parameters outside the backbone."""

    @property
    def unread(self) -> dict[str, str]:
        """Settings that have no effect in this configuration, each with the setting that is the reason."""
        names = {name: f"optimiser={self.optimiser}" for name in OF_SGD if self.optimiser != "sgd"}
        for name, schedule in (("learning_rate_floor", "half_cosine"), ("milestones", "steps")):
            if self.schedule != schedule:
                names[name] = f"schedule={self.schedule}"
        return names

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} has to be less than epochs={self.epochs}")
        if self.nesterov and self.momentum == 0 and self.optimiser == "sgd":
            raise ValueError("nesterov=true needs momentum above 0")
        after = [epoch for epoch, _ in self.milestones]
        if after != sorted(set(after)):
            raise ValueError(f"the epochs of milestones have to rise, got {', '.join(map(str, after))}")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("schedule=steps needs milestones, such as [[20, 0.1], [40, 0.01]]")
        return self


class RuntimeConfig(Value):
    """The seed of a training, and the precision, threads and device that it uses."""

    seed: Seed = 0
    precision: Literal["fp32", "tf32", "bf16", "auto"] = "fp32"
    """Precision of convolutions and matrix products, in training and evaluation. `fp32` is IEEE float32 everywhere;
    `tf32`, which needs a GPU that has it, multiplies in TF32 in convolutions, as PyTorch does by default; `bf16` is
    bfloat16 with sums, offsets, weights and optimiser in float32. `auto` means bf16 if the device supports it, else
    fp32; the machine that reads the sweep or the command decides, before the training's identity is computed."""
    threads: Count = 1
    """CPU threads. A resumed training keeps its number, because another one changes the last bits. Not part of a
    training's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU if there is one. Not part of a training's identity."""


class TrainingConfig(OptimisationConfig, RuntimeConfig):
    """Optimisation of an episodic training."""

    episodes_per_epoch: Count = 1200
    episodes_per_step: Count = 4

    @model_validator(mode="after")
    def _has_whole_steps(self) -> Self:
        if self.episodes_per_epoch % self.episodes_per_step:
            raise ValueError(
                f"episodes_per_epoch={self.episodes_per_epoch} is not a multiple of episodes_per_step="
                f"{self.episodes_per_step}"
            )
        return self


class BatchOptimisationConfig(OptimisationConfig):
    """Optimisation of a pre-training on ordinary batches of images of the base classes."""

    epochs: Count = 100
    batches_per_epoch: Count = 300
    """300 batches of 128 images are one pass over miniImageNet's training split."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    mixing_grid: Annotated[Literal[3, 5, 7], NO_BOOL] | None = None
    """Cells per side of a grid: two images in three are mixed with another of their class, each cell with a random
    weight (the first stage of IDeMe-Net). None: none are."""


class BatchTrainingConfig(BatchOptimisationConfig, RuntimeConfig):
    """Optimisation of a pre-training, with its seed, precision, threads and device."""


class OtherDataConfig(Value):
    """Images other than the training's to test on, prepared as the training's are; `name` and `root` as there."""

    name: DataName
    root: Root | None = None
    orientation: Literal["stored", "exif"] = "stored"


class EvaluationConfig(Value):
    """What a trained model is tested on. It has its own identity, so asking for more episodes never retrains."""

    split: Literal["val", "test"] = "test"
    """Whose classes the episodes are drawn from."""
    episodes: Episodes = 2000
    """Number of test episodes."""
    adapted_episodes: Episodes | None = None
    """How many of them, the first ones, test a method that aligns a copy of its network to base images in each, which
    takes seconds an episode (Associative Alignment); None: all. Its rows are compared with others on these episodes."""
    way: Way = 5
    """Classes per episode."""
    shot: Count | None = None
    """Support images per class; None: as many as in training."""
    queries: Count = 15
    """Queries per class."""
    seed: Seed = 112
    """Seed of the episode bank."""
    data: OtherDataConfig | None = None
    """Another data set to test on; None: the training's own. Where its images are is not part of the identity."""

    @functools.cached_property
    def key(self) -> str:
        """The evaluation's identity; with a training's key, it names an evaluation record."""
        return digest(self.model_dump(mode="json", exclude_defaults=True, exclude={"data": {"root"}}))

    def data_of(self, experiment: ExperimentConfig) -> DataConfig:
        """The images that a model trained as in `experiment` is tested on."""
        if self.data is None:
            return experiment.data
        other = {"rotations_as_classes": False, **dict(self.data)}
        return experiment.data.replace(**other)

    @property
    def tested(self) -> int:
        """Episodes that are tested, the first ones of the bank."""
        return min(self.episodes, self.adapted_episodes or self.episodes)

    def resolve(self, experiment: ExperimentConfig) -> Self:
        """A copy with the shot that `experiment` was trained for, if none is given, and without unread settings.

        `adapted_episodes` is for methods that read base images.
        """
        few = self.adapted_episodes if experiment.model.reads_base and self.tested < self.episodes else None
        shot = self.shot if self.shot is not None else experiment.episodes.shot
        return (
            self if (shot, few) == (self.shot, self.adapted_episodes) else self.replace(shot=shot, adapted_episodes=few)
        )
