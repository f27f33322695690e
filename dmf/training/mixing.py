"""Mixes images of a batch with others of their class, cell by cell of a grid: the first stage of IDeMe-Net."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmf.methods.ideme_net.fusion import mixed

ONE_IN = 3
"""One image in so many stays as it is."""


class ClassMixing:
    """Draws, for two images in three, a partner of the same class and a weight in [0, 1] for each cell."""

    def __init__(self, labels: np.ndarray, grid: int) -> None:
        """`labels` [M] are those of the images that partners are drawn from."""
        self.labels, self.grid = labels, grid
        self.members = [np.flatnonzero(labels == each) for each in range(labels.max() + 1)]

    def drawn(self, rows: np.ndarray, random: np.random.RandomState) -> tuple[Tensor, Tensor, Tensor]:
        """For images `rows` [n]: places [m] of those that are mixed, partners [m], and weights [m, grid^2] in float32.

        Numbers are drawn image by image, in the released code's order.
        """
        places, partners, weights = [], [], []
        for place, row in enumerate(rows):
            if random.randint(0, ONE_IN) == ONE_IN - 1:
                continue
            places.append(place)
            of_class = self.members[self.labels[row]]
            partners.append(of_class[random.randint(0, len(of_class))])
            weights.append(random.uniform(0, 1, self.grid**2))
        found = torch.from_numpy(np.array(weights, np.float32).reshape(-1, self.grid**2))
        return torch.tensor(places, dtype=torch.int64), torch.tensor(np.array(partners, np.int64)), found


def with_partners(images: Tensor, partners: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Images [n, C, S, S], those at `places` [m] mixed with `partners` [m, C, S, S] by weights [m, cells]."""
    places, weights = places.to(images.device), weights.to(images)
    return images.index_copy(0, places, mixed(images[places], partners, weights))
