"""The interface of few-shot methods: feature maps, scores and losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmf.episodes import Episode
from dmf.methods.related import BaseImages

Table = dict[str, Tensor]
"""Tensors by name; row i of each belongs to the same image or class."""


@dataclass(frozen=True)
class Losses:
    """The loss that a training step minimises, and its parts for the training curves."""

    total: Tensor
    """Scalar: the weighted sum of the parts; the method sets the weights."""
    parts: dict[str, Tensor]
    """Unweighted scalars by name."""


@dataclass(frozen=True)
class Adaptation:
    """What a method that adapts answers in one episode."""

    logits: Tensor
    """[Q, N]"""
    counts: dict[str, int] = field(default_factory=dict)
    """What it counts beside its answers, by name; a record holds the sums over all episodes."""


class FewShotMethod(nn.Module, ABC):
    """A backbone, and a way to score queries from its feature maps.

    Letters: B episodes, N ways, K shots, Q queries, C channels, H W space, P images, J classes.
    """

    backbone: nn.Module
    adapts: ClassVar[bool] = False
    """Whether an evaluation calls `adapt_each` instead of `score_rows`."""
    reads_base: ClassVar[bool] = False
    """Whether it adapts to images of the base classes too. It then has `adapt_each` only: not `score`, not `adapt`."""
    computes_classes: bool = False
    """Whether `class_table` computes something rather than collects rows, so that its results are worth caching."""
    needs_map_shape: ClassVar[bool] = False
    """Whether `build` also takes the shape [C, H, W] of the backbone's feature maps."""
    needs_image_shape: ClassVar[bool] = False
    """Whether `build` also takes the shape [C, S, S] of the images."""
    reads_order: bool = False
    """Whether scores depend on the order of the support set: that of its classes, or of the images of a class."""
    transductive: ClassVar[bool] = False
    """Whether a query's scores depend on the other queries of its episode."""

    def forward(self, episode: Episode) -> Tensor:
        """Logits [B, Q, N] of an episode of images."""
        maps = self.features(episode)
        return self.score(maps.support, maps.query)

    def features(self, episode: Episode) -> Episode:
        """Replace every image of the episode by its feature map, in one forward pass of the backbone."""
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

        Images are in channels-last layout, which is faster for convolution, normalisation and pooling: on one core, a
        training step of Conv64F at 64 px takes two thirds of the time.
        """
        maps: Tensor = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return maps

    def image_table(self, maps: Tensor) -> Table:
        """What an evaluation caches per image: tensors of P rows, from feature maps [P, C, H, W]."""
        return {"maps": maps}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        """What `score_rows` needs of J classes, from the rows [J, K] of their support in an image table."""
        return {"maps": images["maps"][rows]}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        """Logits [B, Q, N] of episodes given as rows [B, N] of a class table and rows [B, Q] of an image table."""
        return self.score(classes["maps"][class_rows], images["maps"][query_rows])

    @abstractmethod
    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """Maps [B, N, K, C, H, W] and [B, Q, C, H, W] -> logits [B, Q, N]."""

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        """Adapt to each episode and return logits [B, Q, N].

        `support` [B, N, K] and `query` [B, Q] are rows of an image table; `seeds` holds one seed per episode. The
        caller disables gradients; a method can enable them. Raises NotImplementedError unless the method adapts.
        """
        raise NotImplementedError(f"{type(self).__name__} does not adapt to episodes")

    def adapt_each(
        self,
        images: Table,
        support: Tensor,
        query: Tensor,
        seeds: Sequence[int],
        base: BaseImages | None = None,
        first: int = 0,
    ) -> Iterator[Adaptation]:
        """As `adapt`, one episode after the other, from number `first` on.

        What the episodes share is computed for all of them whatever `first` is, so that an evaluation which goes on
        within a batch has the same bits. `base` is for a method that reads base images.
        """
        for logits in self.adapt(images, support, query, seeds)[first:]:
            yield Adaptation(logits)

    def base_features(self, images: Tensor) -> Tensor:
        """Base images [P, 1 or 3, h, w] -> what `BaseImages` keeps of them, [P, D]."""
        raise NotImplementedError(f"{type(self).__name__} reads no base images")

    def losses(self, episode: Episode) -> Losses:
        """Losses from an episode of images. Raises NotImplementedError if the method learns nothing from episodes."""
        return self.losses_of_maps(self.features(episode))

    def losses_of_maps(self, maps: Episode) -> Losses:
        """Losses from an episode of feature maps."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing from episodes")
