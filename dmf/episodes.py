"""Episodes: which images make up a few-shot task, as a pure function of seed and index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmf.draws import drawn, random_of


@dataclass(frozen=True)
class Episode:
    """A batch of B tasks. `...` stands for the shape of an image or of its feature map."""

    support: Tensor
    """[B, N, K, ...]: K images of each of N classes."""
    query: Tensor
    """[B, Q, ...]"""
    targets: Tensor
    """[B, Q], int64: each query's class within the episode, 0..N-1."""
    labels: Tensor
    """[B, Q], int64: each query's class within the split, the target of a global classifier."""


@dataclass(frozen=True)
class EpisodeIndices:
    """The images of B tasks, as rows of a split."""

    support: Tensor
    """[B, N, K], int64"""
    query: Tensor
    """[B, Q], int64; query j has class j // (Q / N)"""
    targets: Tensor
    """[B, Q], int64"""

    def __getitem__(self, part: slice) -> EpisodeIndices:
        return EpisodeIndices(self.support[part], self.query[part], self.targets[part])

    def __len__(self) -> int:
        return len(self.support)

    @property
    def hash(self) -> str:
        """A hash of the rows, in 16 hexadecimal digits; on one data set, equal hashes mean equal episodes."""
        rows = np.concatenate([self.support.flatten(1).numpy(), self.query.numpy()], axis=1).astype("<i8")
        return hashlib.sha256(repr(tuple(self.support.shape)).encode() + rows.tobytes()).hexdigest()[:16]


class EpisodeSampler:
    """Samples N-way K-shot tasks with Q/N queries per class. Task i is a function of (labels, seed, i) alone.

    Tasks share no state, so they do not depend on the order of calls, the number of workers or an interruption.
    Classes, and images within a class, are drawn without replacement.
    """

    def __init__(
        self, labels: np.ndarray, way: int, shot: int, queries: int, seed: int, overlapping: bool = False
    ) -> None:
        """`labels` [M] are in 0..classes-1; `queries` counts per class.

        If `overlapping`, support and queries are drawn apart, so that a query may be a support image.

        Raises ValueError if there are too few classes or images.
        """
        order = np.argsort(labels, kind="stable")
        classes = np.split(order, np.cumsum(np.bincount(labels))[:-1])
        if len(classes) < way:
            raise ValueError(f"way={way} needs {way} classes, but the split has {len(classes)}")
        fewest = min(len(rows) for rows in classes)
        if fewest < (max(shot, queries) if overlapping else shot + queries):
            raise ValueError(
                f"shot={shot} and queries={queries} need {shot + queries} images per class, "
                f"but the smallest class has {fewest}"
            )
        self.classes = classes
        self.way, self.shot, self.queries, self.seed = way, shot, queries, seed
        self.overlapping = overlapping

    def __call__(self, indices: range) -> EpisodeIndices:
        """The tasks numbered `indices`."""
        tasks = np.stack([self._rows(index) for index in indices])  # [B, N, K + Q/N]
        support, query = tasks[:, :, : self.shot], tasks[:, :, self.shot :]
        targets = torch.arange(self.way).repeat_interleave(self.queries).expand(len(tasks), -1)
        return EpisodeIndices(
            torch.from_numpy(support.copy()), torch.from_numpy(query.reshape(len(tasks), -1).copy()), targets
        )

    def _rows(self, index: int) -> np.ndarray:
        random = random_of(self.seed, index)
        ways = drawn(random, len(self.classes), self.way)
        return np.stack([self.classes[way][self._drawn(random, len(self.classes[way]))] for way in ways])

    def _drawn(self, random: np.random.RandomState, images: int) -> np.ndarray:
        """Which of a class's images make up its support and queries, [K + Q/N]."""
        order = random.permutation(images)
        if not self.overlapping:
            return order[: self.shot + self.queries]
        return np.concatenate([order[: self.shot], random.permutation(images)[: self.queries]])
