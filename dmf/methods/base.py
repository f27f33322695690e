"""The interface of few-shot methods: feature maps, scores of episodes, losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmf.episodes import Episode

Table = dict[str, Tensor]
"""Tensors by name, with row i of each belonging to the same image or class."""


@dataclass(frozen=True)
class Losses:
    """The loss that a training step descends, and its parts for the curves."""

    total: Tensor
    """Scalar: the parts, weighted by the method."""
    parts: dict[str, Tensor]
    """Scalars by name, unweighted."""


class FewShotMethod(nn.Module, ABC):
    """A backbone, and a way to score queries by its feature maps.

    Letters: B episodes, N ways, K shots, Q queries, C channels, H W space, P images, J classes.
    """

    backbone: nn.Module
    adapts: ClassVar[bool] = False
    """Whether an evaluation calls `adapt` in place of `score_rows`."""
    computes_classes: bool = False
    """Whether `class_table` computes, and does not just collect rows, so that its results are worth keeping."""

    def forward(self, episode: Episode) -> Tensor:
        """Images in, logits [B, Q, N] out."""
        maps = self.features(episode)
        return self.score(maps.support, maps.query)

    def features(self, episode: Episode) -> Episode:
        """The episode with every image replaced by its map; all images of the batch pass the backbone together."""
        support, query = episode.support, episode.query
        rows = support.shape[:3].numel()
        images = torch.cat([support.flatten(0, 2), query.flatten(0, 1)])
        maps = self.maps(images)
        return Episode(
            maps[:rows].unflatten(0, support.shape[:3]),
            maps[rows:].unflatten(0, query.shape[:2]),
            episode.targets,
            episode.labels,
        )

    def maps(self, images: Tensor) -> Tensor:
        """Images [P, 1 or 3, h, w] -> feature maps [P, C, H, W].

        Channels last, the faster layout for convolution, normalisation and pooling: a training step of Conv64F at 64 px
        takes two thirds of the time on one core.
        """
        maps: Tensor = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return maps

    def image_table(self, maps: Tensor) -> Table:
        """What an evaluation keeps of images, from their maps [P, C, H, W]: tensors of P rows."""
        return {"maps": maps}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        """What `score_rows` needs of J classes, from the rows [J, K] of their examples in an image table."""
        return {"maps": images["maps"][rows]}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        """Logits [B, Q, N] of episodes given as rows [B, N] of a class table and [B, Q] of an image table."""
        return self.score(classes["maps"][class_rows], images["maps"][query_rows])

    @abstractmethod
    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """Maps [B, N, K, C, H, W] and [B, Q, C, H, W] -> logits [B, Q, N]."""

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        """Logits [B, Q, N] of a method that fits something to each episode.

        `support` [B, N, K] and `query` [B, Q] are rows of an image table; `seeds` holds one seed for each episode. The
        caller turns gradients off; a method may turn them on. NotImplementedError for a method that does not adapt.
        """
        raise NotImplementedError(f"{type(self).__name__} does not adapt to episodes")

    def losses(self, episode: Episode) -> Losses:
        """Losses of an episode's images. NotImplementedError for a method that learns nothing from episodes."""
        return self.losses_of_maps(self.features(episode))

    def losses_of_maps(self, maps: Episode) -> Losses:
        """`losses` from feature maps."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing from episodes")
