"""What is drawn from seeds without any images, and without PyTorch: seeds of parts, and an episode's classes."""

from __future__ import annotations

import numpy as np


def derived_seed(*numbers: int) -> int:
    """A seed in [0, 2^63) derived from several numbers below 2^32 (by NumPy's SeedSequence).

    Different numbers give unrelated seeds, except that a shorter list counts as one padded with zeros.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def bank_seed(seed: int, split: str) -> int:
    """The seed of a bank's episodes, which differs between splits."""
    return derived_seed(seed, *split.encode())


def random_of(seed: int, index: int) -> np.random.RandomState:
    """The random state of task `index`, from which its classes are drawn first and then their images."""
    # NumPy's policy freezes RandomState's stream, so episodes stay the same across versions.
    return np.random.RandomState(np.random.SeedSequence((seed, index)).generate_state(4))


def drawn(random: np.random.RandomState, classes: int, way: int) -> np.ndarray:
    """The classes of a task, int64 [way], of `classes`."""
    return random.permutation(classes)[:way]


def drawn_ways(seed: int, index: int, classes: int, way: int) -> np.ndarray:
    """The classes that `EpisodeSampler` draws for task `index`, int64 [way]. They do not depend on the images."""
    return drawn(random_of(seed, index), classes, way)
