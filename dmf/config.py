"""Every hyper-parameter, once: its name, its default (the released code's), its range and its meaning.

Where the paper and its released code differ, both are values of one field here, and `RECIPES` picks them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dmf.values import Value, digest

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Larger ones would be the streams of smaller ones (`dmf.episodes.derived_seed`)."""
Episodes = Annotated[int, Field(ge=2, le=1_000_000)]
"""Episodes of a bank, which is held in memory."""
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        said = str(value).lower()
        raise ValueError(f"got {said}, which is no number (YAML reads on, yes and true so); write 0, 1, ...")
    return value


NO_BOOL = BeforeValidator(_no_bool)
"""For a Literal of numbers, which would take true for 1."""

BACKBONE_CHANNELS = {"resnet12": 640, "conv64f": 64}
"""Channels of the feature map that each backbone makes."""


class DataConfig(Value):
    """Which images, and how they come to a square of `image_size` pixels."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)] = "mini_imagenet"
    """A known data set (`dmf.data.sets.DATASETS`) or, for images of one's own, any other name."""
    root: Annotated[str, Field(min_length=1)] | None = None
    """Folder or archive with the images; None: embedded ones for `glyphs`. Not part of a run's identity."""
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

    way: Annotated[int, Field(ge=2)] = 5
    shot: Count = 1
    queries: Count = 6
    """Queries per class."""


class ModelConfig(Value):
    """Backbone and method. Fields from `groups` on are DMF's, other methods leave them alone."""

    method: Literal["dmf", "proto_net", "raw_pixels"] = "dmf"
    backbone: Literal["resnet12", "conv64f"] = "resnet12"
    last_pooling: bool = False
    """Pool after the fourth block (Table 2b)."""
    drop_rate: Fraction = 0.1
    """Dropout after blocks 1-2 and DropBlock after blocks 3-4 of ResNet-12."""
    drop_block_ramp: Count = 40_000
    """Training forwards until DropBlock drops `drop_rate`."""
    groups: Count = 64
    """Filters per position; must divide the backbone's channels (Table 2c)."""
    kernel_size: Annotated[Literal[1, 3], NO_BOOL] = 1
    """Side of the meta-filter."""
    dynamic_sampling: bool = True
    """Deformable neighbourhoods; off: the ordinary 3x3 one (Table 2a)."""
    alignment: Annotated[Literal[0, 1, 2, 3, "ode"], NO_BOOL] = "ode"
    """Number of alignments, or the neural ODE (Table 2d)."""
    solver: Literal["rk4", "dopri5", "exact"] = "rk4"
    """For "ode": one 3/8-rule step (released), adaptive Dormand-Prince (paper), the closed form (kernel_size 1)."""
    rectified: bool = True
    """dX/dt = relu(filter * X) (released); False: without the relu (paper, eq. 7)."""
    score_border: Annotated[Literal[0, 1], NO_BOOL] = 1
    """Zero border of the score map in the loss: 1 (released, a padded 1x1 convolution), 0 (paper)."""
    class_weight: Literal["normalised", "pooled"] = "normalised"
    """Support map to class weight: L2 over channels at each position, then the mean (released); the mean (paper)."""
    global_input: Literal["query", "aligned"] = "query"
    """The global classifier sees the query map (released) or the query aligned to its own class (paper)."""

    @property
    def channels(self) -> int:
        """Channels of the backbone's feature map."""
        return BACKBONE_CHANNELS[self.backbone]

    @property
    def unread(self) -> frozenset[str]:
        """Fields that this model does not read: DMF's for another method, the filter's where nothing is aligned."""
        if self.method != "dmf":
            names = list(type(self).model_fields)
            return frozenset(names[names.index("groups") :])
        if self.alignment == 0:
            return frozenset({"groups", "kernel_size", "dynamic_sampling", "solver", "rectified", "global_input"})
        return frozenset() if self.alignment == "ode" else frozenset({"solver"})

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if self.channels % self.groups:
            divisors = [g for g in range(1, self.channels + 1) if self.channels % g == 0]
            raise ValueError(
                f"groups={self.groups} does not divide the {self.channels} channels of {self.backbone}; "
                f"try one of {', '.join(map(str, divisors))}"
            )
        if self.solver == "exact" and self.kernel_size != 1:
            raise ValueError("solver='exact' is a closed form for kernel_size=1 only; take 'rk4' or 'dopri5'")
        return self


TABLE_BYTES = 6 * 2**30
"""What an evaluation on a CPU keeps in memory. Where images need more, theirs lies in temporary memory-mapped files;
what is kept of single examples as classes has what images leave, or is made again for each batch of episodes."""


class TrainingConfig(Value):
    """Optimisation and model selection."""

    seed: Seed = 0
    epochs: Count = 95
    """All epochs, the `warmup_epochs` included."""
    episodes_per_epoch: Count = 1200
    episodes_per_step: Count = 4
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.35
    learning_rate_floor: Fraction = 1e-5
    """Smallest learning rate, as a fraction of `learning_rate`."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 5
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    few_shot_weight: NonNegative = 0.5
    global_weight: NonNegative = 1.0
    """The loss is global_weight * global + few_shot_weight * few-shot (released 1, 0.5; paper eq. 10: 0.5, 1)."""
    validation_episodes: Episodes = 2000
    validate_every: Count = 10
    """Validate at epochs 1, `validate_every`, 2 * `validate_every`, ..., from `validate_all_from` on at every one, and
    at the last."""
    validate_all_from: Count = 60
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Of convolutions and matrix products, in training and in testing: float32, or bfloat16 with sums, weights and
    optimiser in float32. `auto` becomes bf16 where the device computes with it, before the training has an identity: on
    the machine that reads the sweep or the command."""
    threads: Count = 1
    """CPU threads; recorded and restored, since one more changes the last bits. Not part of a run's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU where there is one. Not part of a run's identity."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} leaves nothing of epochs={self.epochs}")
        if self.episodes_per_epoch % self.episodes_per_step:
            raise ValueError(
                f"episodes_per_epoch={self.episodes_per_epoch} is no multiple of episodes_per_step="
                f"{self.episodes_per_step}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum above 0")
        if self.few_shot_weight == 0 and self.global_weight == 0:
            raise ValueError("few_shot_weight and global_weight are both 0, nothing would be learnt")
        return self

    def validates(self, epoch: int) -> bool:
        """Whether the model is validated after `epoch` (1 is the first)."""
        return epoch in (1, self.epochs) or epoch % self.validate_every == 0 or epoch >= self.validate_all_from


class ExperimentConfig(Value):
    """One training, whole. Two trainings with equal `key` are the same training."""

    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    episodes: EpisodeConfig = EpisodeConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _leaves_a_map(self) -> Self:
        if self.model.backbone == "conv64f" and self.model.last_pooling and self.data.image_size < 16:
            raise ValueError(
                f"data.image_size={self.data.image_size} is pooled away by conv64f's four poolings; take 16 or "
                "more, or model.last_pooling=false"
            )
        padding = self.augmentation.crop_padding
        if self.augmentation.crop == "padded" and padding > self.data.image_size:
            raise ValueError(
                f"augmentation.crop_padding={padding} is more than data.image_size={self.data.image_size}, crops would "
                "miss the image; take about a tenth of it"
            )
        return self

    @functools.cached_property
    def key(self) -> str:
        """The training's identity: 16 hexadecimal digits over every value that is not a default.

        Defaults stay out, so a field added later leaves old keys valid (and a default, once published, never
        changes: tests/test_config.py holds them); where and with what it runs stays out too, and so do fields that the
        model does not read. ValueError while `training.precision` is "auto".
        """
        return digest(self._identity())

    def _identity(self) -> dict[str, dict[str, Any]]:
        if self.training.precision == "auto":
            raise ValueError("training.precision='auto' is no precision yet; `dmf.machine.device.resolved` chooses one")
        exclude = NOT_IDENTITY | {"model": self.model.unread}
        sections = self.model_dump(mode="json", exclude_defaults=True, exclude=exclude)
        return {name: section for name, section in sections.items() if section}

    def keys(self, seeds: Iterable[int]) -> tuple[str, ...]:
        """`key` of this training with each of `seeds` in place of its own."""
        identity = self._identity()
        others = {name: value for name, value in identity.pop("training", {}).items() if name != "seed"}
        trainings = (others | ({"seed": seed} if seed else {}) for seed in seeds)
        return tuple(digest(identity | ({"training": training} if training else {})) for training in trainings)

    def with_seeds(self, seeds: Sequence[int]) -> tuple[ExperimentConfig, ...]:
        """This training with each of `seeds` (whole numbers from 0) in place of its own, their keys known.

        `with_paths` would validate each again, which for thousands takes longer than all else that is done with them.
        """
        found = []
        for seed, key in zip(seeds, self.keys(seeds), strict=True):
            config = self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})
            config.__dict__["key"] = key  # where `functools.cached_property` keeps it; a copy has its original's
            found.append(config)
        return tuple(found)


NOT_IDENTITY: Any = {"data": {"root"}, "training": {"threads", "device"}}


class EvaluationConfig(Value):
    """What a trained model is tested on. It has an identity of its own: more episodes never retrain."""

    split: Literal["val", "test"] = "test"
    episodes: Episodes = 2000
    way: Annotated[int, Field(ge=2)] = 5
    shot: Count | None = None
    """Shots per class; None: as many as in training."""
    queries: Count = 15
    """Queries per class."""
    seed: Seed = 112
    """Seed of the episode bank."""

    def resolve(self, experiment: ExperimentConfig) -> EvaluationConfig:
        """With the shot that `experiment` was trained for, where none is given."""
        return self if self.shot is not None else self.replace(shot=experiment.episodes.shot)

    @functools.cached_property
    def key(self) -> str:
        """The evaluation's identity, to be joined with a training's."""
        return digest(self.model_dump(mode="json", exclude_defaults=True))


RECIPES: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": {
        "model.solver": "dopri5",
        "model.rectified": False,
        "model.score_border": 0,
        "model.class_weight": "pooled",
        "model.global_input": "aligned",
        "training.few_shot_weight": 1.0,
        "training.global_weight": 0.5,
        "training.nesterov": False,
        "training.warmup_epochs": 0,
        "training.epochs": 90,
    },
    "released_tiered": {
        "data.name": "tiered_imagenet",
        "data.resize": "center_crop",
        "augmentation.crop": "resized",
        "training.learning_rate": 0.05,
        "training.epochs": 85,
        "training.episodes_per_epoch": 13_980,
    },
}
"""Named starting points: dotted paths that differ from the defaults, which are the released code's on miniImageNet."""


@functools.cache
def recipe(name: str) -> ExperimentConfig:
    """The configuration of a named recipe."""
    if name not in RECIPES:
        raise ValueError(f"base={name!r} is no recipe; there are {', '.join(RECIPES)}")
    return ExperimentConfig().with_paths(RECIPES[name])
