"""Settings that few-shot methods share. A method's own settings are in `config.py` of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dmf.backbones.config import BackboneConfig
from dmf.values import Count, Fraction, NonNegative, Positive, Value

Smoothing = Annotated[float, Field(ge=0, le=0.5)]
"""A probability that a loss takes from the right class and spreads over the others."""


class MethodConfig(Value):
    """Base class of the methods' configurations."""

    method: str  # subclasses narrow it to a Literal, which pydantic uses to tell configurations apart
    """The method, by the name in the heading of its table; `docs/methods.md` describes each."""
    learns: ClassVar[bool] = True
    """Whether the method is trained on episodes. Without it, there are no epochs and no seeds."""
    needs_start: ClassVar[bool] = False
    """Whether it needs a pre-trained backbone."""
    start_heads: ClassVar[tuple[str, ...]] = ()
    """Heads of the pre-trainings that it can go on from; empty: of any."""
    augments: ClassVar[bool] = True
    """Whether the images of training episodes are augmented; without it, only a pre-training's are."""
    stage_module: ClassVar[str] = "dmf.training.episodic"
    """The module of the stage that trains it (`dmf.training.stage`)."""
    reads_base: ClassVar[bool] = False
    """Whether its tests read images of the base classes, and adapt a copy of the network in every episode."""

    @property
    def unread(self) -> dict[str, str]:
        """Settings that have no effect in this configuration, each with the setting that is the reason."""
        return {}

    @property
    def backbone_name(self) -> str:
        """The backbone's name; empty if the method has no backbone."""
        return ""

    def check_image_size(self, size: int) -> None:
        """Raise ValueError if images of `size` pixels a side are too small for the method."""

    @property
    def read_of_base_classes(self) -> tuple[int, ...]:
        """The settings that `check_base_classes` reads."""
        return ()

    def check_base_classes(self, sizes: Sequence[int]) -> None:
        """Raise ValueError if the base classes, with that many images each, are too few or too small for the method."""

    @property
    def earlier(self) -> Any:
        """Settings of the method in the training that this one goes on from, with all its weights; None: of none."""
        return None

    def identity(self) -> dict[str, dict[str, Any]]:
        """The method's part of a training's identity, by section, without defaults and unread fields."""
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.unread) | {"method"})
        return {"model": {"method": self.method, **fields}}


class EmbeddingMethodConfig(BackboneConfig, MethodConfig):
    """A method that works on a backbone's feature maps."""

    weights: Annotated[str, Field(min_length=1)] | None = None
    """A file with weights that the backbone starts from, in place of a pre-training: safetensors (such as a training's
    `best.safetensors`) or a PyTorch checkpoint of tensors, with the names of our backbones or of the codes in
    `dmf.backbones.elsewhere`. Every machine that trains needs it. Its place is not part of a training's identity, and
    its content is."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """The SHA-256 of that file. None: of the file as it is when the sweep or the command is read."""

    def identity(self) -> dict[str, dict[str, Any]]:
        sections = super().identity()
        sections["model"].pop("weights", None)
        return sections

    @property
    def backbone_name(self) -> str:
        return self.backbone


class FittedHeadConfig(EmbeddingMethodConfig):
    """A method that fits a head to each episode's support by SGD, on frozen features."""

    learns: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
    fit_passes: Count = 100
    """Passes over the support."""
    fit_batch: Annotated[int, Field(ge=1)] = 4
    """Support images per SGD step."""
    fit_learning_rate: Positive = 0.01
    fit_momentum: Fraction = 0.9
    fit_dampening: Fraction = 0.9
    fit_weight_decay: NonNegative = 1e-3


class NovelHeadConfig(EmbeddingMethodConfig):
    """A method that fits a head to each episode's support by full-batch Adam, on the features of a pre-training.

    With the settings of Associative Alignment's tests.
    """

    learns: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
    novel_head: Literal["linear", "cosine", "arc"] = "arc"
    """The head that is fitted: `linear` (softMax), `cosine` (cosMax) or `arc` (arcMax)."""
    novel_scale: Positive = 5.0
    """Factor of the cosines in the fit."""
    novel_margin: Annotated[float, Field(ge=-1, le=1)] = 0.001
    """Margin of the `arc` head, in radians."""
    novel_steps: Count = 200
    """Adam steps of the fit."""
    novel_learning_rate: Positive = 1e-3
    flattened: bool = False
    """Whether an embedding is the flattened feature map (released, with Conv4), instead of its mean over positions; as
    `start.flattened` says for the pre-training."""
    first_stage: Literal["pretraining", "proto_net", "matching_net", "relation_net"] = "pretraining"
    """What trains the network: a `pretraining` (`start.*`), or a method on episodes (`episodes.*`, `training.*`), which
    may start from one."""

    @property
    def earlier(self) -> dict[str, Any] | None:
        """With another first stage, that method with the same backbone."""
        if self.first_stage == "pretraining":
            return None
        backbone = {name: getattr(self, name) for name in BackboneConfig.model_fields}
        return {"method": self.first_stage, **backbone}

    @property
    def unread(self) -> dict[str, str]:
        of_others = {"linear": ("novel_scale", "novel_margin"), "cosine": ("novel_margin",), "arc": ()}
        return super().unread | dict.fromkeys(of_others[self.novel_head], f"novel_head={self.novel_head}")


class AlignmentConfig(NovelHeadConfig):
    """A method that then aligns copies of network and head to base images that resemble the episode's classes."""

    reads_base: ClassVar[bool] = True
    related_classes: Count = 10
    """Base classes for each class of an episode; no two share one."""
    related_images: Count = 50
    """Most of their images for each class in an iteration."""
    alignment_iterations: Count = 150
    """Iterations of three updates: alignment, head on base images, network and head on the support."""
    alignment_learning_rate: Positive = 1e-3
    aligned_scale: Positive = 15.0
    """Factor of the cosines after the fit."""

    @property
    def unread(self) -> dict[str, str]:
        found = super().unread
        return found | ({"aligned_scale": "novel_head=linear"} if self.novel_head == "linear" else {})


def check_base_classes(ways: int, classes: int, there: int) -> None:
    """Raise ValueError unless each of `ways` ways can take `classes` base classes of its own out of `there`."""
    if ways * classes > there:
        raise ValueError(
            f"way={ways} with related_classes={classes} takes {ways * classes} base classes, but there are {there}; "
            "lower model.related_classes or evaluation.way"
        )


class InnerLoopConfig(EmbeddingMethodConfig):
    """A method that takes gradient steps on each episode's support, from initial weights that it learns."""

    inner_steps: Count = 5
    """Steps in training."""
    inner_steps_in_tests: Count = 10
    """Steps in validation and tests."""
    inner_learning_rate: Positive = 0.01
    second_order: bool = True
    """Whether the loss's gradient passes through the steps' gradients; False: they count as constants."""
    classifier_way: Annotated[int, Field(ge=2)] | None = None
    """None: all classes start from the same weights, so that any number of them, in any order, is treated alike.
    A number N: each of N classes has initial weights of its own, as published; episodes are then N-way only."""
