"""The sections that every experiment has: data, augmentation, episodes, optimisation, evaluation.

Defaults are the released code's on miniImageNet. The paper gives learning rates, weight decay, the cosine schedule and
the episodes; momentum, the number of epochs and the warm-up are the released code's alone.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from dmf.values import NO_BOOL, Count, Fraction, NonNegative, Positive, Seed, Value, digest

if TYPE_CHECKING:
    from dmf.config.experiment import ExperimentConfig

Episodes = Annotated[int, Field(ge=2, le=1_000_000)]
"""Episodes of a bank, which is held in memory."""
Way = Annotated[int, Field(ge=2)]


class DataConfig(Value):
    """Which images, and how they come to a square of `image_size` pixels."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)] = "mini_imagenet"
    """A known data set (`dmf.data.sets.DATASETS`) or, for images of one's own, any other name."""
    root: Annotated[str, Field(min_length=1)] | None = None
    """Folder or archive with the images; None: embedded ones for `glyphs`. Not part of a training's identity."""
    image_size: Annotated[int, Field(ge=8, le=2048)] = 84
    channels: Annotated[Literal[1, 3], NO_BOOL] = 3
    resize: Literal["square", "center_crop"] = "square"
    """Larger images: both sides to `image_size`; or both to 92/84 of it, then the centre (released tieredImageNet)."""
    rotations_as_classes: bool = False
    """Every class four times, turned by 0, 90, 180 and 270 degrees (usual for Omniglot)."""
    normalisation: Literal["imagenet", "cifar", "half"] = "imagenet"
    """Channel mean and deviation (`dmf.data.augment.NORMALISATIONS`)."""


class AugmentationConfig(Value):
    """Training images, in this order: crop, colour jitter, flip, normalisation, erasing."""

    crop: Literal["none", "padded", "resized"] = "padded"
    """`padded`: RandomCrop after `crop_padding` zeros on each side; `resized`: RandomResizedCrop from full size."""
    crop_padding: Annotated[int, Field(ge=0)] = 8
    color_jitter: Fraction = 0.4
    """Brightness, contrast and saturation factors from [1 - j, 1 + j]."""
    flip: bool = True
    erasing: Fraction = 0.5
    """Probability of a rectangle of 2-40 % of the area, filled after normalisation."""


class EpisodeConfig(Value):
    """Training episodes."""

    way: Way = 5
    shot: Count = 1
    queries: Count = 6
    """Queries per class."""


USUAL_WAY, USUAL_SHOT, USUAL_QUERIES = 5, 1, 15
"""Of validation episodes where neither the configuration nor the training's episodes say otherwise."""


TABLE_BYTES = 6 * 2**30
"""What an evaluation on a CPU keeps in memory. Where images need more, theirs lies in temporary memory-mapped files;
what is kept of single examples as classes has what images leave, or is made again for each batch of episodes."""


class Task(Value):
    """N-way K-shot episodes with `queries` queries per class."""

    way: Way
    shot: Count
    queries: Count


class ValidationConfig(Value):
    """The episodes that select a training's best epoch.

    None: as in training, with 15 queries per class, or as many as the validation split allows; the record holds the
    task that was used.
    """

    way: Way | None = None
    shot: Count | None = None
    queries: Count | None = None
    """Queries per class."""


class OptimisationConfig(Value):
    """SGD with a linear warm-up and half a cosine, and when to validate."""

    epochs: Count = 95
    """All epochs, the `warmup_epochs` included."""
    learning_rate: Positive = 0.35
    learning_rate_floor: Fraction = 1e-5
    """Smallest learning rate, as a fraction of `learning_rate`."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    validation_episodes: Episodes = 2000
    validate_every: Count = 10
    """Validate at epochs 1, `validate_every`, 2 * `validate_every`, ..., from `validate_all_from` on at every one, and
    at the last."""
    validate_all_from: Count = 60

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} leaves nothing of epochs={self.epochs}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum above 0")
        return self


class RuntimeConfig(Value):
    """The seed, and where and how a training computes."""

    seed: Seed = 0
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Of convolutions and matrix products, in training and in testing: float32, or bfloat16 with sums, weights and
    optimiser in float32. `auto` becomes bf16 where the device computes with it, before the training has an identity: on
    the machine that reads the sweep or the command."""
    threads: Count = 1
    """CPU threads; recorded and restored, since one more changes the last bits. Not part of a training's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU where there is one. Not part of a training's identity."""


class TrainingConfig(OptimisationConfig, RuntimeConfig):
    """Optimisation of an episodic training."""

    episodes_per_epoch: Count = 1200
    episodes_per_step: Count = 4

    @model_validator(mode="after")
    def _has_whole_steps(self) -> Self:
        if self.episodes_per_epoch % self.episodes_per_step:
            raise ValueError(
                f"episodes_per_epoch={self.episodes_per_epoch} is no multiple of episodes_per_step="
                f"{self.episodes_per_step}"
            )
        return self


class BatchOptimisationConfig(OptimisationConfig):
    """Optimisation of a pre-training on ordinary batches of images of the base classes."""

    epochs: Count = 100
    batches_per_epoch: Count = 300
    """With batches of 128, an epoch is one pass over miniImageNet."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0


class BatchTrainingConfig(BatchOptimisationConfig, RuntimeConfig):
    """The same, with its seed and where it computes."""


class EvaluationConfig(Value):
    """What a trained model is tested on. It has an identity of its own: more episodes never retrain."""

    split: Literal["val", "test"] = "test"
    episodes: Episodes = 2000
    way: Way = 5
    shot: Count | None = None
    """Shots per class; None: as many as in training."""
    queries: Count = 15
    """Queries per class."""
    seed: Seed = 112
    """Seed of the episode bank."""

    @functools.cached_property
    def key(self) -> str:
        """The evaluation's identity, to be joined with a training's."""
        return digest(self.model_dump(mode="json", exclude_defaults=True))

    def resolve(self, experiment: ExperimentConfig) -> Self:
        """With the shot that `experiment` was trained for, where none is given."""
        return self if self.shot is not None else self.replace(shot=experiment.episodes.shot)
