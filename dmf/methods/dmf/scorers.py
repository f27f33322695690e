"""Two ways to compute DMF's score map: at each position, the class weight times the aligned query map.

`FilterScorer` works for every setting: it generates the filter of each pair of class and query. `OnePassScorer` works
for dynamically sampled 1x1 filters and stores neither filters nor aligned maps.

For 1x1 filters, the score can be computed without the aligned map. With w the class weight, X the query map, f the
pair's filter and phi the growth of `Alignment`, the rectified alignment leaves X_c <= 0 unchanged and multiplies
X_c > 0 by phi(f_g), where g is the group of channel c:

    score = sum_c w_c aligned_c = sum_c w_c X_c + sum_g (phi(f_g) - 1) * sum_{c in g} w_c relu(X_c),

which is the score without alignment, plus what the alignment adds. Without the relu in the alignment, X_c replaces
relu(X_c).

Scorers hold the model's meta-filter but are not modules, so its weights appear once in the model's state dict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide
from dmf.methods.base import Table
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.meta_filter import MetaFilter
from dmf.ops.aligned_score import aligned_score

ClassWeight = Literal["normalised", "pooled"]


def class_weights(classes: Tensor, how: ClassWeight) -> Tensor:
    """Class maps [..., C, H, W] -> weights of the 1x1 meta-classifier [..., C] (paper, section 4.3).

    "pooled" is the mean over positions (paper); "normalised" first divides the map by its L2 norm over channels at each
    position (released code).
    """
    classes = F.normalize(wide(classes), dim=-3) if how == "normalised" else wide(classes)
    return classes.mean((-2, -1))


class Scorer(ABC):
    """Computes score maps [B, Q, N, H, W] of episodes, from feature maps or from the tables of an evaluation."""

    computes_classes: ClassVar[bool]
    """As in `FewShotMethod`."""

    @abstractmethod
    def score_map(self, classes: Tensor, query: Tensor) -> Tensor:
        """Class maps [B, N, C, H, W] and query maps [B, Q, C, H, W] -> score map [B, Q, N, H, W]."""

    @abstractmethod
    def image_table(self, maps: Tensor) -> Table:
        """As in `FewShotMethod`, from feature maps [P, C, H, W]."""

    @abstractmethod
    def class_table(self, images: Table, rows: Tensor) -> Table:
        """What `score_map_of_rows` needs of J classes, from the rows [J, K] of their support in an image table."""

    @abstractmethod
    def score_map_of_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        """Rows [B, N] of a class table and rows [B, Q] of an image table -> score map [B, Q, N, H, W]."""


class FilterScorer(Scorer):
    """Generates the filter of every pair; without a meta-filter, it scores the query map without alignment."""

    computes_classes = False

    def __init__(self, meta_filter: MetaFilter | None, alignment: Alignment, class_weight: ClassWeight) -> None:
        self.meta_filter, self.alignment, self.class_weight = meta_filter, alignment, class_weight

    def score_map(self, classes: Tensor, query: Tensor, filters: Tensor | None = None) -> Tensor:
        """As in `Scorer`; pass the meta-filter's `filters` for these maps if you have them already."""
        weights = class_weights(classes, self.class_weight)
        if self.meta_filter is not None and filters is None:
            filters = self.meta_filter(classes, query)
        with full_precision(query.device):
            query = wide(query)
            if filters is None:
                return torch.einsum("bqchw,bnc->bqnhw", query, weights)
            if self.alignment.kernel_size == 1:
                return self._score_by_growth(weights, query, self.alignment.growth(filters))
            return self._score_aligned(weights, query, filters)

    def _score_aligned(self, weights: Tensor, query: Tensor, filters: Tensor) -> Tensor:
        """Align each pair's map, then weight its channels: the definition, for filters that mix positions."""
        pairs = (*filters.shape[:2], query.shape[1])
        queries = query[:, None].expand(*pairs, *query.shape[2:]).flatten(0, 2)
        aligned = self.alignment(queries, filters.expand(*pairs, *filters.shape[3:]).flatten(0, 2))
        return torch.einsum("bnqchw,bnc->bqnhw", aligned.unflatten(0, pairs), weights)

    def _score_by_growth(self, weights: Tensor, query: Tensor, growth: Tensor) -> Tensor:
        """The same for 1x1 filters, from phi(f) [B, N, Q or 1, G, H, W], without aligned maps."""
        groups = growth.shape[3]
        moving = F.relu(query) if self.alignment.rectified else query
        unaligned = torch.einsum("bqchw,bnc->bqnhw", query, weights)
        if growth.shape[2] == 1:  # all queries share their class's filter: one matrix product per position
            kernels = (growth[:, :, 0] - 1)[:, :, :, None] * weights.unflatten(2, (groups, -1))[..., None, None]
            return unaligned + torch.einsum("bqchw,bnchw->bqnhw", moving, kernels.flatten(2, 3))
        products = torch.einsum(
            "bqgchw,bngc->bnqghw", moving.unflatten(2, (groups, -1)), weights.unflatten(2, (groups, -1))
        )
        return unaligned + ((growth - 1) * products).sum(3).transpose(1, 2)

    def image_table(self, maps: Tensor) -> Table:
        return {"maps": maps}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        return {"maps": images["maps"][rows]}

    def score_map_of_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        return self.score_map(wide(classes["maps"][class_rows]).mean(2), images["maps"][query_rows])


class OnePassScorer(Scorer):
    """Computes scores from tap maps in one call of `dmf.ops.aligned_score`; its tables are the call's arguments.

    Each argument depends on a class alone or on a query alone, so an evaluation computes it once, not for every pair.
    """

    computes_classes = True

    def __init__(self, meta_filter: MetaFilter, alignment: Alignment, groups: int, class_weight: ClassWeight) -> None:
        assert self.serves(meta_filter, alignment)
        self.meta_filter, self.alignment = meta_filter, alignment
        self.groups, self.class_weight = groups, class_weight

    @staticmethod
    def serves(meta_filter: MetaFilter, alignment: Alignment) -> bool:
        """Whether the filters are dynamically sampled and 1x1, and their growth has a closed form."""
        return meta_filter.offset_conv is not None and alignment.coefficients is not None

    def score_map(self, classes: Tensor, query: Tensor) -> Tensor:
        episodes = len(query)
        classes, query = classes.flatten(0, 1), query.flatten(0, 1)
        tables = self._taps_and_weights(classes) | {"class_offsets": self.meta_filter.class_offsets(classes)}
        return self._score(tables | self._query_table(query), episodes=episodes)

    def image_table(self, maps: Tensor) -> Table:
        """Holds both parts of the offsets, because an image can be a query or in the support."""
        return self._query_table(maps) | {"class_offsets": self.meta_filter.class_offsets(maps)}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        """The offsets are linear in the map, so a class's part is the mean over its support, like the class map."""
        class_maps = wide(images["query"][rows]).mean(1)  # [J, H, W, R, G]
        class_maps = class_maps.permute(0, 4, 3, 1, 2).flatten(1, 2)  # [J, C, H, W]
        offsets = wide(images["class_offsets"][rows]).mean(1)
        return self._taps_and_weights(class_maps) | {"class_offsets": offsets}

    def score_map_of_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        tables = classes | {name: images[name] for name in ("query", "query_offsets")}
        return self._score(tables, rows=(class_rows, query_rows))

    def _taps_and_weights(self, classes: Tensor) -> Table:
        """Tables of class maps [J, C, H, W]."""
        return {
            "taps": self.meta_filter.filter_conv.tap_maps(classes),
            "weights": class_weights(classes, self.class_weight).unflatten(-1, (self.groups, -1)).transpose(-2, -1),
        }

    def _query_table(self, query: Tensor) -> Table:
        """Tables of query maps [I, C, H, W]."""
        return {
            "query": query.unflatten(1, (self.groups, -1)).permute(0, 3, 4, 2, 1),
            "query_offsets": self.meta_filter.query_offsets(query),
        }

    def _score(self, tables: Table, rows: tuple[Tensor, Tensor] | None = None, episodes: int = 1) -> Tensor:
        assert self.alignment.coefficients is not None
        return aligned_score(
            **tables,
            kernel_size=self.meta_filter.filter_conv.kernel_size,
            coefficients=self.alignment.coefficients,
            rectified=self.alignment.rectified,
            rows=rows,
            episodes=episodes,
        )
