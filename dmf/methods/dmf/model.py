"""Dynamic Meta-filter (Xu et al., CVPR 2021).

For kernel_size 1 the score needs no aligned map. With w the class weight, X the query map, g the groups of channels,
f the pair's filter and phi the growth of `Alignment`, the rectified alignment leaves X_c <= 0 alone and multiplies
X_c > 0:

    score = sum_c w_c aligned_c = sum_c w_c X_c + sum_g (phi(f_g) - 1) * sum_{c in g} w_c relu(X_c),

the score without alignment and what the alignment adds. `dmf.ops.aligned_score` goes there from the class's tap maps in
one pass. Without dynamic sampling f depends on the class alone, and the score is a product of matrices per position.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses, Table
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.config import DMFConfig
from dmf.methods.dmf.meta_filter import MetaFilter
from dmf.ops.aligned_score import aligned_score


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

    @classmethod
    def build(cls, backbone: nn.Module, config: DMFConfig, base_classes: int) -> Self:
        """The model that `config` describes, on maps of `config.channels`."""
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
        """Mean of the score map over its positions, the border's zeros included (it changes no argmax)."""
        return self._mean_score(self.score_map(wide(support).mean(2), query))

    def losses_of_maps(self, maps: Episode) -> Losses:
        classes = wide(maps.support).mean(2)
        filters, global_maps = None, maps.query
        if self.global_input == "aligned" and self.meta_filter is not None:
            filters = self.meta_filter(classes, maps.query)
            global_maps = self.align_to_own_class(maps.query, filters, maps.targets)
        scores = self.score_map(classes, maps.query, filters)
        global_logits = self.global_classifier(global_maps.flatten(0, 1))
        few_shot = self.few_shot_loss(scores, maps.targets)
        global_loss = positions_cross_entropy(global_logits, maps.labels.flatten())
        total = self.few_shot_weight * few_shot + self.global_weight * global_loss
        return Losses(total, {"few_shot": few_shot, "global": global_loss})

    def class_weights(self, classes: Tensor) -> Tensor:
        """Class maps [..., C, H, W] -> weights of the 1x1 meta-classifier [..., C] (paper, eq. 9)."""
        classes = F.normalize(wide(classes), dim=-3) if self.class_weight == "normalised" else wide(classes)
        return classes.mean((-2, -1))

    def score_map(self, classes: Tensor, query: Tensor, filters: Tensor | None = None) -> Tensor:
        """<class weight, aligned query> at each position, from class maps [B, N, C, H, W] and query maps
        [B, Q, C, H, W]: [B, Q, N, H, W]. `filters`, where a caller has them already, are not made again."""
        if self.one_pass and filters is None:
            assert self.meta_filter is not None
            classes = classes.flatten(0, 1)
            tables = self._taps_and_weights(classes) | {"class_offsets": self.meta_filter.class_offsets(classes)}
            return self._aligned_score(tables | self._query_table(query.flatten(0, 1)), episodes=len(query))
        weights = self.class_weights(classes)
        if self.meta_filter is not None and filters is None:
            filters = self.meta_filter(classes, query)
        with full_precision(query.device):
            query = wide(query)
            if filters is None:
                return torch.einsum("bqchw,bnc->bqnhw", query, weights)
            if self.alignment.kernel_size != 1:
                return self._score_aligned_maps(weights, query, filters)
            return self._score_grown(weights, query, self.alignment.growth(filters))

    @property
    def computes_classes(self) -> bool:
        return self.one_pass

    def image_table(self, maps: Tensor) -> Table:
        """With `one_pass`, query numbers as `aligned_score` takes them and both parts of the offsets, which are linear:
        a class's part is the mean over its examples."""
        if not self.one_pass:
            return super().image_table(maps)
        assert self.meta_filter is not None
        return self._query_table(maps) | {"class_offsets": self.meta_filter.class_offsets(maps)}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        if not self.one_pass:
            return super().class_table(images, rows)
        examples = wide(images["query"][rows]).mean(1)  # [J, H, W, R, G]
        classes = examples.permute(0, 4, 3, 1, 2).flatten(1, 2)
        return self._taps_and_weights(classes) | {"class_offsets": wide(images["class_offsets"][rows]).mean(1)}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        if not self.one_pass:
            return super().score_rows(classes, class_rows, images, query_rows)
        tables = classes | {name: images[name] for name in ("query", "query_offsets")}
        return self._mean_score(self._aligned_score(tables, rows=(class_rows, query_rows)))

    @property
    def one_pass(self) -> bool:
        """Whether `dmf.ops.aligned_score` has the score: sampled filters, 1x1, and a growth in closed form."""
        sampled = self.meta_filter is not None and self.meta_filter.offset_conv is not None
        return sampled and self.alignment.coefficients is not None

    def _aligned_score(self, tables: Table, **rows: Any) -> Tensor:
        assert self.meta_filter is not None and self.alignment.coefficients is not None
        return aligned_score(
            taps=tables["taps"],
            class_offsets=tables["class_offsets"],
            weights=tables["weights"],
            query=tables["query"],
            query_offsets=tables["query_offsets"],
            kernel_size=self.meta_filter.filter_conv.kernel_size,
            coefficients=self.alignment.coefficients,
            rectified=self.alignment.rectified,
            **rows,
        )

    def _taps_and_weights(self, classes: Tensor) -> Table:
        """What `aligned_score` needs of class maps [J, C, H, W], but for the offsets."""
        assert self.meta_filter is not None
        return {
            "taps": self.meta_filter.filter_conv.tap_maps(classes),
            "weights": self.class_weights(classes).unflatten(-1, (self.groups, -1)).transpose(-2, -1),
        }

    def _query_table(self, query: Tensor) -> Table:
        """What `aligned_score` needs of query maps [I, C, H, W]."""
        assert self.meta_filter is not None
        return {
            "query": query.unflatten(1, (self.groups, -1)).permute(0, 3, 4, 2, 1),
            "query_offsets": self.meta_filter.query_offsets(query),
        }

    def _score_grown(self, weights: Tensor, query: Tensor, growth: Tensor) -> Tensor:
        """From growths [B, N, Q or 1, G, H, W]."""
        moving = F.relu(query) if self.alignment.rectified else query
        score = torch.einsum("bqchw,bnc->bqnhw", query, weights)
        if growth.shape[2] == 1:
            kernels = (growth[:, :, 0] - 1)[:, :, :, None] * weights.unflatten(2, (self.groups, -1))[..., None, None]
            return score + torch.einsum("bqchw,bnchw->bqnhw", moving, kernels.flatten(2, 3))
        products = torch.einsum(
            "bqgchw,bngc->bnqghw", moving.unflatten(2, (self.groups, -1)), weights.unflatten(2, (self.groups, -1))
        )
        return score + ((growth - 1) * products).sum(3).transpose(1, 2)

    def _mean_score(self, scores: Tensor) -> Tensor:
        height, width = scores.shape[-2:]
        positions = (height + 2 * self.score_border) * (width + 2 * self.score_border)
        return scores.sum((-2, -1)) / positions

    def _score_aligned_maps(self, weights: Tensor, query: Tensor, filters: Tensor) -> Tensor:
        """The definition, for filters that couple neighbours: align every pair's map, then weigh its channels."""
        pairs = (*filters.shape[:2], query.shape[1])
        queries = query[:, None].expand(*pairs, *query.shape[2:]).flatten(0, 2)
        aligned = self.alignment(queries, filters.expand(*pairs, *filters.shape[3:]).flatten(0, 2))
        return torch.einsum("bnqchw,bnc->bqnhw", aligned.unflatten(0, pairs), weights)

    def align_to_own_class(self, query: Tensor, filters: Tensor, targets: Tensor) -> Tensor:
        """Each query map aligned with the filters of its own class, as CAN's global classifier sees it."""
        filters = filters.expand(-1, -1, query.shape[1], -1, -1, -1)
        episode = torch.arange(len(query), device=query.device)[:, None]
        position = torch.arange(query.shape[1], device=query.device)[None]
        own = filters[episode, targets, position]
        aligned = self.alignment(wide(query).flatten(0, 1), own.flatten(0, 1))
        maps: Tensor = aligned.unflatten(0, query.shape[:2])
        return maps

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
