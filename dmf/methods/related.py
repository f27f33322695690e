"""Images of base classes that resemble the classes of an episode (Associative Alignment, ECCV 2020).

Letters: M base images, J base classes, N ways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmf.methods.config import check_base_classes


@dataclass(frozen=True)
class BaseImages:
    """The images of the base classes, which a method that aligns to them reads in its tests."""

    labels: Tensor
    """int64 [M]: the base class of each, from 0."""
    features: Tensor
    """[M, D]: by the trained network in evaluation mode (`FewShotMethod.base_features`)."""
    images: Callable[[Tensor], Tensor]
    """Rows [n] -> images [n, C, h, w] as test images are: normalised, not augmented, and on the method's device."""


@dataclass(frozen=True)
class Related:
    """Base images for the ways of one episode."""

    rows: tuple[Tensor, ...]
    """For each way, int64: rows of the base images that are taken as examples of it."""
    chosen: Tensor
    """int64 [N, n]: the base classes that they come from."""
    empty: int
    """Ways of whose base classes no image is predicted as the way. All images of their classes are taken."""

    def sample(self, most: int, generator: torch.Generator) -> Tensor:
        """Draw the same number of rows for each way, without replacement, way by way: int64 [N * n].

        The number is `most`, or less if a way has fewer.
        """
        each = min(most, *(len(rows) for rows in self.rows))
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)[:each]] for rows in self.rows])


def related(labels: Tensor, predicted: Tensor, ways: int, classes: int) -> Related:
    """Base images [M] of classes `labels` whose ways a head has `predicted`: which stand for which of `ways` ways.

    The ways choose in order: each takes the `classes` base classes with the largest fractions of images predicted as
    it, of those that no way before has taken; of equal ones, the class that comes first. It keeps their images that are
    predicted as it.

    Raises ValueError if there are too few base classes.
    """
    sizes = torch.bincount(labels)
    check_base_classes(ways, classes, len(sizes))
    counts = torch.bincount(labels * ways + predicted, minlength=len(sizes) * ways).view(-1, ways)
    fractions = counts.double() / sizes[:, None]
    free = torch.ones(len(sizes), dtype=torch.bool)
    chosen, rows, empty = [], [], 0
    for way in range(ways):
        order = fractions[:, way].sort(descending=True, stable=True).indices
        taken = order[free[order]][:classes]
        free[taken] = False
        among = torch.isin(labels, taken)
        kept = (among & (predicted == way)).nonzero()[:, 0]
        if not len(kept):
            kept, empty = among.nonzero()[:, 0], empty + 1
        chosen.append(taken)
        rows.append(kept)
    return Related(tuple(rows), torch.stack(chosen), empty)
