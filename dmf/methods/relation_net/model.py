"""Relation networks (Sung et al., "Learning to compare: Relation network for few-shot learning", CVPR 2018)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses, Table
from dmf.methods.heads import episode_cross_entropy
from dmf.methods.relation_net.config import RelationNetConfig

HIDDEN = 8
LEAST_UNPADDED = 10
"""Maps with smaller sides are padded before the relation head's convolutions."""


class RelationNet(FewShotMethod):
    """A small convolutional network scores each pair of a class map and a query map.

    The class map is the mean of the support maps. The pair (class map first, 2C channels) passes twice through a 3x3
    convolution, batch norm, relu and 2x2 max pooling, then through two linear layers with a relu in between. The first
    convolution is linear, so it is computed once per class and once per query, and its results are added for each pair.

    The loss is the mean squared error between sigmoid(score) and the one-hot targets, over all pairs of class and
    query, or the cross-entropy of the scores. Both are averages over the episodes of a step, which also share the
    statistics of batch norm.

    Two differences from released code. The running statistics are averages, not those of the last batch
    (`relation_momentum` 1 brings that back). And maps of one position are not pooled again, so that small images work.
    LibFewShot puts the query first and sums over the shots: a permutation and a scale of the first convolution's
    weights. It never pads, so it needs maps of at least 10x10.
    """

    needs_map_shape = True
    computes_classes = True

    def __init__(
        self,
        backbone: nn.Module,
        map_shape: tuple[int, ...],
        loss: Literal["mse", "cross_entropy"] = "mse",
        momentum: float = 0.1,
    ) -> None:
        """`map_shape` is that of a feature map, [C, H, W]."""
        super().__init__()
        self.backbone = backbone
        self.loss = loss
        channels, *sides = map_shape
        padding = 1 if max(sides) < LEAST_UNPADDED else 0
        self.conv1 = nn.Conv2d(2 * channels, channels, 3, padding=padding)
        self.norm1 = nn.BatchNorm2d(channels, momentum=momentum)
        self.pool1, sides = _pooling([side - 2 + 2 * padding for side in sides])
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=padding)
        self.norm2 = nn.BatchNorm2d(channels, momentum=momentum)
        self.pool2, sides = _pooling([side - 2 + 2 * padding for side in sides])
        self.linear1 = nn.Linear(channels * sides[0] * sides[1], HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, 1)

    @classmethod
    def build(
        cls, backbone: nn.Module, config: RelationNetConfig, base_classes: int, map_shape: tuple[int, ...]
    ) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, map_shape, config.relation_loss, config.relation_momentum)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        classes = wide(support).mean(2)
        return self.relate(
            self.class_part(classes.flatten(0, 1)).unflatten(0, classes.shape[:2]),
            self.query_part(query.flatten(0, 1)).unflatten(0, query.shape[:2]),
        )

    def class_part(self, maps: Tensor) -> Tensor:
        """The first convolution's share of class maps [J, C, H, W], with its bias, as [J, H', W', C]."""
        weight = self.conv1.weight[:, : maps.shape[1]]
        return _channels_last(F.conv2d(maps, weight, self.conv1.bias, padding=self.conv1.padding))

    def query_part(self, maps: Tensor) -> Tensor:
        """The first convolution's share of query maps [P, C, H, W], as [P, H', W', C]."""
        weight = self.conv1.weight[:, maps.shape[1] :]
        return _channels_last(F.conv2d(maps, weight, padding=self.conv1.padding))

    def relate(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Parts [B, N, H', W', C] and [B, Q, H', W', C] of the first convolution -> scores [B, Q, N]."""
        pairs = (classes[:, None] + queries[:, :, None]).flatten(0, 2).permute(0, 3, 1, 2)
        maps = F.relu(self.pool1(self.norm1(pairs)))
        maps = F.relu(self.pool2(self.norm2(self.conv2(maps))))
        with full_precision(maps.device):
            scores: Tensor = self.linear2(F.relu(self.linear1(wide(maps).flatten(1))))
        return scores.view(len(queries), queries.shape[1], classes.shape[1])

    def image_table(self, maps: Tensor) -> Table:
        return {"maps": maps, "query": self.query_part(maps)}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        return {"class": self.class_part(wide(images["maps"][rows]).mean(1))}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        """As in `FewShotMethod`, episode by episode, whose pairs fit a processor's cache: half the time of a batch."""
        parts = zip(class_rows.split(1), query_rows.split(1), strict=True)
        return torch.cat([self.relate(classes["class"][ours], images["query"][theirs]) for ours, theirs in parts])

    def losses_of_maps(self, maps: Episode) -> Losses:
        scores = self.score(maps.support, maps.query)
        if self.loss == "mse":
            loss = F.mse_loss(scores.sigmoid(), F.one_hot(maps.targets, scores.shape[-1]).to(scores.dtype))
        else:
            loss = episode_cross_entropy(scores, maps.targets)
        return Losses(loss, {"few_shot": loss})


def _pooling(sides: list[int]) -> tuple[nn.Module, list[int]]:
    """2x2 max pooling of maps with these sides, if there is something to pool, and the sides after it."""
    if min(sides) < 2:
        return nn.Identity(), sides
    return nn.MaxPool2d(2), [side // 2 for side in sides]


def _channels_last(maps: Tensor) -> Tensor:
    """[J, C, H, W] -> [J, H, W, C], in memory too; on CPUs, pooling takes an eighth of the time in this order."""
    return maps.permute(0, 2, 3, 1).contiguous()
