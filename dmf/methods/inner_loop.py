"""What MAML and ANIL share: the classifier's initial weights and the settings of the inner loop."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.methods.base import FewShotMethod, Losses
from dmf.methods.config import InnerLoopConfig


class InnerLoopMethod(FewShotMethod):
    """A backbone, and a linear classifier of the flattened feature map, from which gradient steps start.

    As published, each class of an episode has initial weights of its own (`way` of them), so the answers depend on the
    order of the classes and other numbers of classes cannot be scored. Without `way`, all classes share one row of
    initial weights (Ye and Chao, "How to train your MAML to excel in few-shot classification", ICLR 2022).
    """

    needs_map_shape: ClassVar[bool] = True

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        way: int | None = None,
        steps: int = 5,
        steps_in_tests: int = 10,
        learning_rate: float = 0.01,
        second_order: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(features, way or 1)
        nn.init.zeros_(self.classifier.bias)
        self.way, self.learning_rate, self.second_order = way, learning_rate, second_order
        self.reads_order = way is not None
        self.steps_in_training, self.steps_in_tests = steps, steps_in_tests

    @classmethod
    def build(cls, backbone: nn.Module, config: InnerLoopConfig, base_classes: int, map_shape: tuple[int, ...]) -> Self:
        """Build the method that `config` describes, for maps [C, H, W] of that shape; `base_classes` is not used."""
        return cls(
            backbone,
            math.prod(map_shape),
            config.classifier_way,
            config.inner_steps,
            config.inner_steps_in_tests,
            config.inner_learning_rate,
            config.second_order,
        )

    @property
    def steps(self) -> int:
        """Gradient steps on a support set."""
        return self.steps_in_training if self.training else self.steps_in_tests

    def initial_classifier(self, ways: int) -> Tensor:
        """Weights [D + 1, N] of a classifier of N classes; the last row is the bias.

        Raises ValueError if there are initial weights for another number of classes.
        """
        if self.way not in (None, ways):
            raise ValueError(
                f"the classifier has initial weights for {self.way} classes, but an episode has {ways}; use "
                f"{self.way}-way episodes, or train with model.classifier_way=null"
            )
        rows = torch.cat([self.classifier.weight, self.classifier.bias[:, None]], 1)
        return rows.T.expand(-1, ways)

    def losses_of_maps(self, maps: Episode) -> Losses:
        loss = F.cross_entropy(self.score(maps.support, maps.query).flatten(0, 1), maps.targets.flatten())
        return Losses(loss, {"few_shot": loss})
