"""Dynamic Meta-filter (Xu et al., CVPR 2021).

For kernel_size 1 the score needs no aligned map. With w the class weight, X the query map, g(c) the group of channel
c and phi the growth of `dmf.alignment`, the rectified alignment leaves X_c <= 0 alone and multiplies X_c > 0:

    score = sum_c w_c aligned_c
          = sum_g phi(f_g) * sum_{c in g} w_c relu(X_c)  +  sum_c w_c (X_c - relu(X_c)),

so that each pair of a query and a class costs G numbers per position in place of C. (X - relu(X), not min(X, 0):
their gradients differ at exact zeros, and the released code has the former's.)
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.alignment import Alignment
from dmf.config import ModelConfig
from dmf.episodes import Episode
from dmf.meta_filter import MetaFilter
from dmf.methods.base import FewShotMethod


class DMF(FewShotMethod):
    """Backbone, meta-filter, alignment, and two classifiers: the class weights, and a global one over base classes."""

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        base_classes: int,
        groups: int = 64,
        alignment: Alignment = Alignment(),
        dynamic_sampling: bool = True,
        class_weight: str = "normalised",
        score_border: int = 1,
        global_input: str = "query",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.groups = groups
        self.alignment = alignment
        self.class_weight, self.score_border, self.global_input = class_weight, score_border, global_input
        self.meta_filter = (
            MetaFilter(channels, groups, alignment.kernel_size, dynamic_sampling) if alignment.steps != 0 else None
        )
        self.global_classifier = nn.Conv2d(channels, base_classes, 1)

    @classmethod
    def build(cls, backbone: nn.Module, config: ModelConfig, base_classes: int) -> Self:
        """From the fields of `config` that are DMF's."""
        return cls(
            backbone,
            config.channels,
            base_classes,
            groups=config.groups,
            alignment=Alignment(config.alignment, config.solver, config.kernel_size, config.rectified),
            dynamic_sampling=config.dynamic_sampling,
            class_weight=config.class_weight,
            score_border=config.score_border,
            global_input=config.global_input,
        )

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """Mean of the score map over its positions, the border's zeros included (it changes no argmax)."""
        classes = support.mean(2)
        scores = self.score_map(classes, query, self.filters(classes, query))
        height, width = scores.shape[-2:]
        positions = (height + 2 * self.score_border) * (width + 2 * self.score_border)
        return scores.sum((-2, -1)) / positions

    def losses(self, episode: Episode) -> dict[str, Tensor]:
        maps = self.features(episode)
        classes = maps.support.mean(2)
        filters = self.filters(classes, maps.query)
        scores = self.score_map(classes, maps.query, filters)
        global_maps = maps.query
        if self.global_input == "aligned":
            global_maps = self.align_to_own_class(maps.query, filters, maps.targets)
        global_logits = self.global_classifier(global_maps.flatten(0, 1))
        return {
            "few_shot": self.few_shot_loss(scores, maps.targets),
            "global": positions_cross_entropy(global_logits, maps.labels.flatten()),
        }

    def filters(self, classes: Tensor, query: Tensor) -> Tensor | None:
        """[B, N, Q or 1, G*k*k, H, W]; None where nothing is aligned."""
        return None if self.meta_filter is None else self.meta_filter(classes, query)

    def class_weights(self, classes: Tensor) -> Tensor:
        """Class maps [B, N, C, H, W] -> weights of the 1x1 meta-classifier [B, N, C] (paper, eq. 9)."""
        if self.class_weight == "normalised":
            classes = F.normalize(classes, dim=2)
        return classes.mean((-2, -1))

    def score_map(self, classes: Tensor, query: Tensor, filters: Tensor | None) -> Tensor:
        """<class weight, aligned query> at each position: [B, Q, N, H, W]."""
        weights = self.class_weights(classes)
        if filters is None:
            return torch.einsum("bqchw,bnc->bqnhw", query, weights)
        if self.alignment.kernel_size != 1:
            return self._score_aligned_maps(weights, query, filters)
        growth = self.alignment.growth(filters)
        moving = F.relu(query) if self.alignment.rectified else query
        per_group = torch.einsum(
            "bqgchw,bngc->bnqghw", moving.unflatten(2, (self.groups, -1)), weights.unflatten(2, (self.groups, -1))
        )
        scores = (growth * per_group).sum(3).transpose(1, 2)
        if self.alignment.rectified:
            scores = scores + torch.einsum("bqchw,bnc->bqnhw", query - moving, weights)
        return scores

    def _score_aligned_maps(self, weights: Tensor, query: Tensor, filters: Tensor) -> Tensor:
        """The definition, for filters that couple neighbours: align every pair's map, then weigh its channels."""
        pairs = (*filters.shape[:2], query.shape[1])
        queries = query[:, None].expand(*pairs, *query.shape[2:]).flatten(0, 2)
        aligned = self.alignment(queries, filters.expand(*pairs, *filters.shape[3:]).flatten(0, 2))
        return torch.einsum("bnqchw,bnc->bqnhw", aligned.unflatten(0, pairs), weights)

    def align_to_own_class(self, query: Tensor, filters: Tensor | None, targets: Tensor) -> Tensor:
        """Each query map aligned with the filters of its own class, as CAN's global classifier sees it."""
        if filters is None:
            return query
        filters = filters.expand(-1, -1, query.shape[1], -1, -1, -1)
        episode = torch.arange(len(query), device=query.device)[:, None]
        position = torch.arange(query.shape[1], device=query.device)[None]
        own = filters[episode, targets, position]
        return self.alignment(query.flatten(0, 1), own.flatten(0, 1)).unflatten(0, query.shape[:2])

    def few_shot_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of `scores` [B, Q, N, H, W] per position, averaged (paper, eq. 12 read as cross-entropy).

        The released code's score map has a border of zeros, where the cross-entropy is the constant log N.
        """
        ways, height, width = scores.shape[2:]
        inside = positions_cross_entropy(scores.flatten(0, 1), targets.flatten())
        share = height * width / ((height + 2 * self.score_border) * (width + 2 * self.score_border))
        return inside * share + math.log(ways) * (1 - share)


def positions_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of maps of logits [P, classes, H, W] with one target per map [P], mean over maps and positions."""
    return F.cross_entropy(logits, targets[:, None, None].expand(-1, *logits.shape[2:]))
