"""What the figures show: sampled places and aligned maps of a query and the class map of its own class.

Letters: C channels, H W positions of a map, G groups, T = 9 taps.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from dmf.machine.precision import wide
from dmf.methods.dmf.meta_filter import SAMPLING_TAPS, MetaFilter
from dmf.methods.dmf.model import DMF

Steps = Literal[0, 1, 2, "ode"]
STEPS: tuple[Steps, ...] = (0, 1, 2, "ode")
"""The numbers of alignments in Figure 4."""


def sampled_places(meta_filter: MetaFilter, class_map: Tensor, query_map: Tensor) -> Tensor:
    """The places of the class map that each query position samples: maps [C, H, W] -> (y, x) [T, H, W, 2].

    In positions of the map, from 0; a place can be outside. Tap t = 3 i + j reads (y - 1 + i, x - 1 + j) plus its
    offset. Without dynamic sampling, offsets are 0.
    """
    height, width = class_map.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    taps = torch.arange(SAMPLING_TAPS)
    displaced = torch.stack([taps // 3 - 1, taps % 3 - 1], dim=-1)[:, None, None]
    regular = torch.stack([y, x], dim=-1) + displaced
    if meta_filter.offset_conv is None:
        return regular.to(class_map.dtype)
    offsets = meta_filter.class_offsets(class_map[None]) + meta_filter.query_offsets(query_map[None])
    by_tap: Tensor = offsets[0].unflatten(0, (SAMPLING_TAPS, 2)).permute(0, 2, 3, 1)
    return regular + by_tap


def aligned_maps(method: DMF, class_map: Tensor, query_map: Tensor) -> dict[Steps, Tensor]:
    """The query map [C, H, W] after each of STEPS alignments with the filters of one class, by the number of steps.

    The filters are those of the trained model, whatever number of alignments it was trained with.
    """
    assert method.meta_filter is not None
    filters = method.meta_filter(class_map[None, None], query_map[None, None])[0, 0]
    query = wide(query_map[None])
    return {steps: dataclasses.replace(method.alignment, steps=steps)(query, filters)[0] for steps in STEPS}


def best_position(method: DMF, class_map: Tensor, query_map: Tensor) -> tuple[int, int]:
    """The position (y, x) of the query map that speaks most for the class: the highest value of the score map."""
    scores = method.score_map(class_map[None, None], query_map[None, None])[0, 0, 0]
    y, x = divmod(int(scores.argmax()), scores.shape[-1])
    return y, x


def strength(maps: Tensor) -> Tensor:
    """Length of the feature vector at each position: [C, H, W] -> [H, W]."""
    lengths: Tensor = torch.linalg.vector_norm(maps, dim=0)
    return lengths


def by_group(maps: Tensor, groups: int) -> Tensor:
    """Mean over each group's channels: [C, H, W] -> [G, H, W]; channel c belongs to group c // (C / G)."""
    means: Tensor = maps.unflatten(0, (groups, -1)).mean(1)
    return means


def most_changed(before: Tensor, after: Tensor, count: int) -> list[int]:
    """The `count` groups whose maps [G, H, W] differ most on average, in order; all, if there are fewer."""
    change = (after - before).abs().mean((1, 2))
    return [int(group) for group in change.argsort(descending=True, stable=True)[:count]]
