"""Dynamic Meta-filter (Xu et al., CVPR 2021).

From images to logits: the backbone computes feature maps, and the mean of a class's support maps is its class map. For
each pair of a class map and a query map, the meta-filter generates a filter (`meta_filter`), which aligns the query map
with the class (`alignment`). The class weight times the aligned query map is the score map (`scorers`), whose mean over
positions is the logit.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from torch import Tensor, nn

from dmf.episodes import Episode
from dmf.machine.precision import wide
from dmf.methods.base import FewShotMethod, Losses, Table
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.config import DMFConfig
from dmf.methods.dmf.meta_filter import MetaFilter
from dmf.methods.dmf.scorers import ClassWeight, FilterScorer, OnePassScorer, Scorer
from dmf.methods.heads import positions_cross_entropy


class DMF(FewShotMethod):
    """A backbone, a meta-filter, the alignment, and two classifiers.

    One is made of the class weights of the episode's classes, the other is a global classifier of the base classes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        base_classes: int,
        groups: int = 64,
        alignment: Alignment = Alignment(),
        dynamic_sampling: bool = True,
        class_weight: ClassWeight = "normalised",
        score_border: Literal[0, 1] = 1,
        global_input: Literal["query", "aligned"] = "query",
        few_shot_weight: float = 0.5,
        global_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.groups = groups
        self.alignment = alignment
        self.class_weight, self.score_border, self.global_input = class_weight, score_border, global_input
        self.few_shot_weight, self.global_weight = few_shot_weight, global_weight
        self.meta_filter = (
            MetaFilter(channels, groups, alignment.kernel_size, dynamic_sampling) if alignment.steps != 0 else None
        )
        self.global_classifier = nn.Conv2d(channels, base_classes, 1)
        self.filter_scorer = FilterScorer(self.meta_filter, alignment, class_weight)
        self.scorer: Scorer = self.filter_scorer
        if self.meta_filter is not None and OnePassScorer.serves(self.meta_filter, alignment):
            self.scorer = OnePassScorer(self.meta_filter, alignment, groups, class_weight)
        self.computes_classes = self.scorer.computes_classes

    @classmethod
    def build(cls, backbone: nn.Module, config: DMFConfig, base_classes: int) -> Self:
        """Build the model that `config` describes; `backbone` returns maps of `config.channels` channels."""
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
            few_shot_weight=config.few_shot_weight,
            global_weight=config.global_weight,
        )

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        return self._mean_score(self.score_map(wide(support).mean(2), query))

    def score_map(self, classes: Tensor, query: Tensor) -> Tensor:
        """Class maps [B, N, C, H, W] and query maps [B, Q, C, H, W] -> score map [B, Q, N, H, W]."""
        return self.scorer.score_map(classes, query)

    def image_table(self, maps: Tensor) -> Table:
        return self.scorer.image_table(maps)

    def class_table(self, images: Table, rows: Tensor) -> Table:
        return self.scorer.class_table(images, rows)

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        return self._mean_score(self.scorer.score_map_of_rows(classes, class_rows, images, query_rows))

    def _mean_score(self, scores: Tensor) -> Tensor:
        """Score map [B, Q, N, H, W] -> mean over positions [B, Q, N].

        The mean includes the zero border, which changes no argmax.
        """
        height, width = scores.shape[-2:]
        positions = (height + 2 * self.score_border) * (width + 2 * self.score_border)
        return scores.sum((-2, -1)) / positions

    def losses_of_maps(self, maps: Episode) -> Losses:
        """The total loss is global_weight * global loss + few_shot_weight * few-shot loss (paper, eq. 10)."""
        classes = wide(maps.support).mean(2)
        if self.global_input == "aligned" and self.meta_filter is not None:
            # The global classifier needs the filters, so the score reuses them.
            filters = self.meta_filter(classes, maps.query)
            global_maps = self.align_to_own_class(maps.query, filters, maps.targets)
            scores = self.filter_scorer.score_map(classes, maps.query, filters)
        else:
            global_maps = maps.query
            scores = self.score_map(classes, maps.query)
        global_logits = self.global_classifier(global_maps.flatten(0, 1))
        few_shot = self.few_shot_loss(scores, maps.targets)
        global_loss = positions_cross_entropy(global_logits, maps.labels.flatten())
        total = self.few_shot_weight * few_shot + self.global_weight * global_loss
        return Losses(total, {"few_shot": few_shot, "global": global_loss})

    def align_to_own_class(self, query: Tensor, filters: Tensor, targets: Tensor) -> Tensor:
        """Align each query map [B, Q, C, H, W] with the filter of its own class (as in CAN) -> [B, Q, C, H, W].

        `filters` [B, N, Q or 1, G*k*k, H, W] hold all pairs of class and query; `targets` [B, Q] are the queries'
        classes.
        """
        filters = filters.expand(-1, -1, query.shape[1], -1, -1, -1)
        episodes = torch.arange(len(query), device=query.device)[:, None]
        queries = torch.arange(query.shape[1], device=query.device)[None]
        own = filters[episodes, targets, queries]
        aligned = self.alignment(wide(query).flatten(0, 1), own.flatten(0, 1))
        maps: Tensor = aligned.unflatten(0, query.shape[:2])
        return maps

    def few_shot_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy between `scores` [B, Q, N, H, W] and `targets` [B, Q], averaged over queries and positions.

        This is eq. 12 of the paper, read as a cross-entropy. The released code's score map has a border of zeros, where
        the cross-entropy is the constant log N.
        """
        ways, height, width = scores.shape[2:]
        inside = positions_cross_entropy(scores.flatten(0, 1), targets.flatten())
        share = height * width / ((height + 2 * self.score_border) * (width + 2 * self.score_border))
        return inside * share + math.log(ways) * (1 - share)
