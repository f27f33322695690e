"""One cell: its mean, and the two uncertainties of it, over episodes and over seeds.

Accuracies come as [S, E]: S training seeds, each tested on the same E episodes. The interval over episodes covers the
choice of episodes, given the trained models; it covers neither the training seed nor the choice of test classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Samples = NDArray[np.float64]


def mean_ci95(accuracies: ArrayLike) -> tuple[float, float]:
    """Mean and half-width 1.96 * std / sqrt(E) of [E] accuracies, with the std's divisor E, as few-shot papers do."""
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"an interval needs accuracies [E] with E >= 1, got shape {list(values.shape)}")
    return float(values.mean()), float(1.96 * values.std(ddof=0) / np.sqrt(values.size))


def means_ci95(accuracies: Samples) -> tuple[Samples, Samples]:
    """`mean_ci95` of each row of [S, E], as [S] and [S]."""
    return accuracies.mean(axis=1), 1.96 * accuracies.std(axis=1, ddof=0) / np.sqrt(accuracies.shape[1])


def seed_sd(accuracies: Samples) -> float | None:
    """Standard deviation (divisor S - 1) of the S seeds' means of [S, E]; None for one seed."""
    return float(accuracies.mean(axis=1).std(ddof=1)) if len(accuracies) > 1 else None
