"""Episodes: which images make a few-shot task, as a pure function of seed and index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def derived_seed(*numbers: int) -> int:
    """A seed in [0, 2^63) from several numbers below 2^32 (NumPy's SeedSequence).

    As many other numbers give an unrelated seed; fewer stand for ones with zeros behind them.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Episode:
    """A batch of B tasks, as images or as their feature maps (`...`)."""

    support: Tensor
    """[B, N, K, ...]: K examples of each of N classes."""
    query: Tensor
    """[B, Q, ...]"""
    targets: Tensor
    """[B, Q]: which of the N classes, int64."""
    labels: Tensor
    """[B, Q]: which class of the whole split, int64; what a global classifier learns."""


@dataclass(frozen=True)
class EpisodeIndices:
    """Rows of a split that make B tasks."""

    support: Tensor
    """[B, N, K], int64"""
    query: Tensor
    """[B, Q], int64, query j is of class j // (Q / N)"""
    targets: Tensor
    """[B, Q], int64"""

    def __getitem__(self, part: slice) -> EpisodeIndices:
        return EpisodeIndices(self.support[part], self.query[part], self.targets[part])

    def __len__(self) -> int:
        return len(self.support)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits over the rows: for one data set, equal hashes are equal episodes."""
        rows = np.concatenate([self.support.flatten(1).numpy(), self.query.numpy()], axis=1).astype("<i8")
        return hashlib.sha256(repr(tuple(self.support.shape)).encode() + rows.tobytes()).hexdigest()[:16]


class EpisodeSampler:
    """N-way K-shot tasks with Q/N queries per class. Task i is a function of (labels, seed, i) alone.

    No state passes from one task to the next, so the order of asking, the number of workers and an interruption
    change nothing. Classes, and images within a class, are drawn without replacement.
    """

    def __init__(self, labels: np.ndarray, way: int, shot: int, queries: int, seed: int) -> None:
        """`labels` [M], 0..classes-1; `queries` per class.

        Raises ValueError when the labels do not hold enough classes or images.
        """
        order = np.argsort(labels, kind="stable")
        classes = np.split(order, np.cumsum(np.bincount(labels))[:-1])
        if len(classes) < way:
            raise ValueError(f"way={way} needs as many classes, the split has {len(classes)}")
        fewest = min(len(rows) for rows in classes)
        if fewest < shot + queries:
            raise ValueError(
                f"shot={shot} and queries={queries} need {shot + queries} images per class, "
                f"the smallest class has {fewest}"
            )
        self.classes = classes
        self.way, self.shot, self.queries, self.seed = way, shot, queries, seed

    def __call__(self, indices: range) -> EpisodeIndices:
        """The tasks numbered `indices`."""
        tasks = np.stack([self._rows(index) for index in indices])  # [B, N, K + Q/N]
        support, query = tasks[:, :, : self.shot], tasks[:, :, self.shot :]
        targets = torch.arange(self.way).repeat_interleave(self.queries).expand(len(tasks), -1)
        return EpisodeIndices(
            torch.from_numpy(support.copy()), torch.from_numpy(query.reshape(len(tasks), -1).copy()), targets
        )

    def _rows(self, index: int) -> np.ndarray:
        random = _random(self.seed, index)
        ways = _ways(random, len(self.classes), self.way)
        size = self.shot + self.queries
        return np.stack([self.classes[way][random.permutation(len(self.classes[way]))[:size]] for way in ways])


def drawn_ways(seed: int, index: int, classes: int, way: int) -> np.ndarray:
    """The classes that `EpisodeSampler` draws for task `index`, int64 [way]: they do not depend on the images."""
    return _ways(_random(seed, index), classes, way)


def _random(seed: int, index: int) -> np.random.RandomState:
    # RandomState's stream is frozen by NumPy's policy: episodes stay the same across versions.
    return np.random.RandomState(np.random.SeedSequence((seed, index)).generate_state(4))


def _ways(random: np.random.RandomState, classes: int, way: int) -> np.ndarray:
    return random.permutation(classes)[:way]
