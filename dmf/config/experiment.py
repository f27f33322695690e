"""The full configuration of one training: an episodic experiment, or a pre-training that several experiments share.

Two trainings with equal `key` are the same training.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from dmf.backbones.config import FOUR_POOLINGS, BackboneConfig
from dmf.config.methods import METHODS, ModelConfig
from dmf.config.old import is_of_format_1, of_format_1
from dmf.config.sections import (
    AugmentationConfig,
    BatchOptimisationConfig,
    BatchTrainingConfig,
    DataConfig,
    EpisodeConfig,
    RuntimeConfig,
    TrainingConfig,
    ValidationConfig,
)
from dmf.machine.files import sha256_of
from dmf.methods.config import EmbeddingMethodConfig
from dmf.methods.dmf.config import DMFConfig
from dmf.values import Positive, Seed, Value, digest, tag_by

NOT_IDENTITY: dict[str, frozenset[str]] = {"data": frozenset({"root"}), "training": frozenset({"threads", "device"})}
"""Fields that say where a training runs, not what it trains."""
Head = Literal["linear", "cosine", "weight_norm", "shifted", "arc"]
"""How a classifier's logits depend on its features and weights (`dmf.training.classifier.BaseHead`)."""
Margin = Annotated[float, Field(ge=-1, le=1)]
UNREAD_BY_HEAD = {"linear": ("head_scale", "head_margin"), "weight_norm": ("head_margin",)}
READ_WITHOUT_LEARNING = frozenset({"episodes.shot", "training.precision"})
"""Fields, besides the data, that a method which learns nothing from episodes still reads: they are defaults for its
evaluation."""


class HeadConfig(Value):
    """The classifier of a pre-training, on the backbone's feature map."""

    head: Head = "linear"
    """The head of the pre-trained classifier. A sweep file that does not set it has no pre-training."""
    head_scale: Positive = 10.0
    """Factor of the logits of every head but `linear`."""
    head_margin: Margin = 0.0
    """What the `cosine` and the `shifted` head subtract from the score of an image's own class in training, and what
    the `arc` head adds to its angle, in radians."""
    flattened: bool = False
    """Whether the head reads the flattened feature map instead of its mean over positions."""
    validated_by: Literal["nearest_mean", "fitted_head"] = "nearest_mean"
    """What answers validation episodes: the nearest class mean by cosine, or a head of this kind (`linear`, `cosine` or
    `arc`) fitted to each, as Associative Alignment's code does."""

    @property
    def unread_by_head(self) -> dict[str, str]:
        """Settings that the head ignores, each with the setting that makes it do so."""
        return dict.fromkeys(UNREAD_BY_HEAD.get(self.head, ()), f"head={self.head}")


class ClassifierConfig(HeadConfig, BackboneConfig):
    """A backbone, and a classifier of the base classes on its feature map."""


class StartConfig(HeadConfig):
    """The pre-training that an experiment starts from.

    It uses the experiment's images, backbone and precision and, unless it has its own, augmentation.
    """

    training: BatchOptimisationConfig = BatchOptimisationConfig()
    validation: ValidationConfig = ValidationConfig()
    seed: Seed | None = None
    """None: the experiment's seed, so each seed of an experiment has its own pre-training."""
    augmentation: AugmentationConfig | None = None
    """None: the experiment's; else a mapping such as `{crop: resized, color_jitter: 0.4}`."""


NOVEL_HEADS = ("linear", "cosine", "arc")
"""Heads that can be fitted to an episode (`dmf.methods.novel_head`)."""


class _Training(Value):
    """Base class of experiments and pre-trainings."""

    if TYPE_CHECKING:  # each subclass declares these in its own order
        data: DataConfig
        augmentation: AugmentationConfig
        model: Any
        training: Any

        @property
        def stage(self) -> AnyTraining | None:
            """The training that this one starts from."""

    @property
    def unread(self) -> dict[str, str]:
        """Dotted paths of settings that this training ignores, each with the setting that makes it do so."""
        found = {f"model.{name}": f"model.{why}" for name, why in self.model.unread.items()}
        found |= {f"training.{name}": f"training.{why}" for name, why in self.training.unread.items()}
        if self.augmentation.crop != "padded":
            found["augmentation.crop_padding"] = f"augmentation.crop={self.augmentation.crop}"
        return found

    @model_validator(mode="after")
    def _leaves_a_map(self) -> Self:
        size, model = self.data.image_size, self.model
        pools = isinstance(model, BackboneConfig) and model.backbone in FOUR_POOLINGS and model.last_pooling
        if pools and size < 16:
            raise ValueError(
                f"data.image_size={size} is too small for {model.backbone}'s four poolings; use 16 or more, or set "
                "model.last_pooling=false"
            )
        padding = self.augmentation.crop_padding
        if self.augmentation.crop == "padded" and padding > size:
            raise ValueError(
                f"augmentation.crop_padding={padding} is more than data.image_size={size}, so crops could miss the "
                "image; use about a tenth of the image size"
            )
        return self

    @property
    def stages(self) -> tuple[AnyTraining, ...]:
        """The trainings that this one starts from, the first of them first."""
        stage: AnyTraining | None = self.stage
        return (*stage.stages, stage) if stage is not None else ()

    @functools.cached_property
    def key(self) -> str:
        """The training's identity: a hash, in 16 hexadecimal digits, of every value that differs from its default.

        Leaving defaults out means that a new field does not change old keys; in return, a published default never
        changes (tests/test_config.py holds them). The hash also leaves out where the training runs and the fields that
        it ignores. Raises ValueError while `training.precision` is "auto".
        """
        return digest(self._identity())

    def _identity(self) -> dict[str, Any]:
        if self.training.precision == "auto":
            raise ValueError("training.precision='auto' has to be resolved first; call `resolved`")
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, Value) and name not in ("model", "start"):
                found[name] = section.model_dump(mode="json", exclude_defaults=True, exclude=self._aside(name))
        return found

    def _aside(self, section: str) -> set[str]:
        """Fields of a section that the identity leaves out."""
        paths = (path.partition(".") for path in self.unread)
        return set(NOT_IDENTITY.get(section, ())) | {rest for first, _, rest in paths if first == section}

    def compact(self) -> dict[str, Any]:
        """Plain data without defaults, from which `Training` can be rebuilt."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        if isinstance(self, Pretraining):
            return data | {"kind": self.kind}
        return data | {"model": {**data.get("model", {}), "method": self.model.method}}

    def resolved(self) -> Self:
        """A copy with what this machine decides: precision="auto" becomes bf16 if the device supports it, else fp32.

        The checksum of `model.weights` is filled in; raises ValueError if the file cannot be read or has another one.
        """
        if self.training.precision != "auto":
            return self
        from dmf.machine.device import device_of, has_bf16  # torch takes seconds to import

        bf16 = has_bf16(device_of(self.training.device))
        return self.replace(training__precision="bf16" if bf16 else "fp32")


class Pretraining(_Training):
    """A classifier of the base classes, trained on ordinary batches; method, way and shot play no part in it."""

    kind: Literal["pretraining"] = "pretraining"
    as_start: ClassVar[str] = "pre-training"
    """What it is to a training that starts from it."""
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ClassifierConfig = ClassifierConfig()
    training: BatchTrainingConfig = BatchTrainingConfig()
    validation: ValidationConfig = ValidationConfig()

    @property
    def unread(self) -> dict[str, str]:
        return super().unread | {f"model.{name}": f"model.{why}" for name, why in self.model.unread_by_head.items()}

    def _identity(self) -> dict[str, Any]:
        model = self.model.model_dump(mode="json", exclude_defaults=True, exclude=self._aside("model"))
        sections = {**super()._identity(), "model": model}
        return {"kind": self.kind, **{name: section for name, section in sections.items() if section}}

    @property
    def stage(self) -> None:
        """None: a pre-training starts from random weights."""
        return None

    @property
    def batches_per_epoch(self) -> int:
        """Units of work in an epoch, here batches of images."""
        return self.training.batches_per_epoch

    @property
    def images_per_batch(self) -> int:
        """Images in one such unit."""
        return self.training.batch_size


class ExperimentConfig(_Training):
    """A method trained on episodes, from random weights, from a pre-training or from an earlier training."""

    kind: ClassVar[Literal["experiment"]] = "experiment"
    as_start: ClassVar[str] = "earlier training"
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    episodes: EpisodeConfig = EpisodeConfig()
    model: ModelConfig = DMFConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    start: StartConfig | None = None
    """None: start from random weights."""

    @model_validator(mode="before")
    @classmethod
    def _of_any_format(cls, data: Any) -> Any:
        return of_format_1(data) if is_of_format_1(data) else data

    @model_validator(mode="after")
    def _starts_from_what_it_needs(self) -> Self:
        method = self.model.method
        if self.start is not None and self.start.validated_by == "fitted_head" and self.start.head not in NOVEL_HEADS:
            raise ValueError(
                f"start.head={self.start.head} cannot be fitted to validation episodes; use {', '.join(NOVEL_HEADS)} "
                "or start.validated_by=nearest_mean"
            )
        given = isinstance(self.model, EmbeddingMethodConfig) and (self.model.weights or self.model.weights_sha256)
        if self.model.needs_start and self.start is None and self.model.earlier is None and not given:
            raise ValueError(
                f"model.method={method} needs pre-trained features; set start.head to linear or cosine, or "
                "model.weights to a file that has them"
            )
        if self.start is not None and given:
            raise ValueError("start.* and model.weights are two ways to begin; leave out one of them")
        if self.start is not None and not isinstance(self.model, BackboneConfig):
            raise ValueError(f"model.method={method} has no backbone to pre-train; leave out start.*")
        if self.start is not None and self.model.start_heads and self.start.head not in self.model.start_heads:
            raise ValueError(
                f"model.method={method} goes on with the classifier of its pre-training; got start.head="
                f"{self.start.head}, use {' or '.join(self.model.start_heads)}"
            )
        if self.start is not None and self.model.start_heads and self.start.flattened:
            raise ValueError(
                f"model.method={method} goes on with the classifier of its pre-training, which reads the mean of a "
                "feature map; got start.flattened=true, leave it out"
            )
        self.model.check_image_size(self.data.image_size)
        return self

    @functools.cached_property
    def stage(self) -> AnyTraining | None:
        """The training that this one starts from, if any: an earlier one of its method, or a pre-training."""
        if self.model.earlier is not None:
            return self.with_paths({"model": self.model.earlier})
        if self.start is None:
            return None
        assert isinstance(self.model, BackboneConfig)
        backbone = {name: getattr(self.model, name) for name in BackboneConfig.model_fields}
        runtime = {name: getattr(self.training, name) for name in RuntimeConfig.model_fields}
        if self.start.seed is not None:
            runtime["seed"] = self.start.seed
        return Pretraining(
            data=self.data,
            augmentation=self.augmentation if self.start.augmentation is None else self.start.augmentation,
            model=ClassifierConfig(**backbone, **{name: getattr(self.start, name) for name in HeadConfig.model_fields}),
            training=BatchTrainingConfig(**dict(self.start.training) | runtime),
            validation=self.start.validation,
        )

    @property
    def unread(self) -> dict[str, str]:
        found = super().unread
        if self.start is not None:
            found |= {f"start.{name}": f"start.{why}" for name, why in self.start.unread_by_head.items()}
            training = self.start.training.unread
            found |= {f"start.training.{name}": f"start.training.{why}" for name, why in training.items()}
            crop = self.start.augmentation.crop if self.start.augmentation is not None else "padded"
            if crop != "padded":
                found["start.augmentation.crop_padding"] = f"start.augmentation.crop={crop}"
            if not self.model.augments and self.start.augmentation is not None:
                fields = AugmentationConfig.model_fields
                found |= {f"augmentation.{name}": f"model.method={self.model.method}" for name in fields}
        if not self.model.learns and self.model.earlier is None:
            sections = ("episodes", "training", "validation", *(("augmentation",) if self.start is None else ()))
            paths = (f"{name}.{field}" for name in sections for field in type(getattr(self, name)).model_fields)
            found |= {path: f"model.method={self.model.method}" for path in paths if path not in READ_WITHOUT_LEARNING}
            for path in ("training.threads", "training.device", *(("training.seed",) if self.seeded else ())):
                found.pop(path, None)
        return found

    @property
    def seeded(self) -> bool:
        """Whether the seed makes a difference to the training."""
        if isinstance(self.stage, ExperimentConfig):
            return self.model.learns or self.stage.seeded
        return self.model.learns or (self.start is not None and self.start.seed is None)

    @property
    def weights(self) -> tuple[str | None, str | None]:
        """The file that the backbone's weights start from, and its SHA-256; None where it is not known."""
        if not isinstance(self.model, EmbeddingMethodConfig):
            return None, None
        return self.model.weights, self.model.weights_sha256

    def resolved(self) -> Self:
        path, known = self.weights
        found = super().resolved()
        if path is None:
            return found
        now = sha256_of(path, "model.weights")
        if known not in (None, now):
            raise ValueError(
                f"model.weights={path!r} has the SHA-256 {now}, but model.weights_sha256 says {known}; give the file "
                "that the training was planned with, or leave out model.weights_sha256"
            )
        return found if known else found.replace(model__weights_sha256=now)

    def _identity(self) -> dict[str, Any]:
        if self.weights[0] and not self.weights[1]:
            raise ValueError("model.weights has to be resolved first; call `resolved`")
        sections = super()._identity()
        if not self.model.learns:
            sections["episodes"].pop("shot", None)  # affects evaluation only
            sections["training"].pop("seed", None)
        if self.stage is not None:  # its key covers everything but the method
            augments = self.model.learns and self.model.augments
            sections["augmentation"] = sections["augmentation"] if augments else {}
            sections["start"] = self.stage.key
        for name, fields in self.model.identity().items():
            sections[name] = {**sections.get(name, {}), **fields}
        return {name: section for name, section in sections.items() if section}

    def keys(self, seeds: Iterable[int]) -> tuple[str, ...]:
        """`key` of this training with each of `seeds` in place of its own."""
        if self.stage is not None or not self.seeded:
            return tuple(self.replace(training__seed=seed).key for seed in seeds)
        identity = self._identity()
        others = {name: value for name, value in identity.pop("training", {}).items() if name != "seed"}
        trainings = (others | ({"seed": seed} if seed else {}) for seed in seeds)
        return tuple(digest(identity | ({"training": training} if training else {})) for training in trainings)

    def with_seeds(self, seeds: Sequence[int]) -> tuple[ExperimentConfig, ...]:
        """This training with each of `seeds` (whole numbers from 0) in place of its own, keys already computed.

        `with_paths` would validate every copy again, which dominates the time for thousands of seeds.
        """
        found = []
        for seed, key in zip(seeds, self.keys(seeds), strict=True):
            config = self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})
            config.__dict__.pop("stage", None)  # model_copy also copies what `functools.cached_property` has cached
            config.__dict__["key"] = key
            found.append(config)
        return tuple(found)

    def with_paths(self, values: dict[str, Any]) -> Self:
        """A copy with `values` (dotted path -> value) replaced, validated again.

        If `model.method` changes, the copy keeps the settings that both methods share. `start.head` adds a
        pre-training if there is none.

        Raises:
            ValueError: a value is refused, or `values` has a setting of a pre-training that nothing asks for.
        """
        if values.get("model.weights", self.weights[0]) != self.weights[0]:  # another file, not yet looked at
            values = values | {"model.weights_sha256": values.get("model.weights_sha256")}
        config = self._started(values)
        method = values.get("model.method", self.model.method)
        if method == self.model.method or method not in METHODS:
            return super(ExperimentConfig, config).with_paths(values)
        data = config.model_dump(mode="json")
        model = METHODS[method]().model_dump(mode="json")
        shared = {name: value for name, value in data["model"].items() if name in model}
        return config._with_plain(values, data | {"model": model | shared})

    def _started(self, values: dict[str, Any]) -> Self:
        below = [path for path in values if path.startswith("start.")]
        if self.start is not None or not below:
            return self
        if "start.head" not in values:
            raise ValueError(f"{below[0]} is set, but there is no pre-training; set start.head to linear or cosine")
        return self.model_copy(update={"start": StartConfig()})

    @property
    def batches_per_epoch(self) -> int:
        """Units of work in an epoch, here episodes."""
        return self.training.episodes_per_epoch

    @property
    def images_per_batch(self) -> int:
        """Images in one such unit, here in an episode."""
        return self.episodes.way * (self.episodes.shot + self.episodes.queries)


AnyTraining = ExperimentConfig | Pretraining
Training = Annotated[
    Annotated[ExperimentConfig, Tag("<experiment>")] | Annotated[Pretraining, Tag("<pretraining>")],
    Discriminator(tag_by("kind", "experiment")),
]
"""An experiment or a pre-training; in files, a pre-training has `kind: pretraining`."""
