"""Which rows are not shown to be below the best: Hsu's comparison with the best, by Dunnett's constant."""

from __future__ import annotations

import functools

import numpy as np
from scipy.special import gammaln, ndtr

from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL, Estimate

NODES, FACTORS = 48, 240
"""Of the quadratures over z and s; the constant is right to four digits."""


@functools.cache
def dunnett(others: int, freedom: float, one_variance: bool = True) -> float:
    """One-sided constant d: the largest of `others` Student's t with a row in common is below it in 95 %.

    The t of k rows against one row share that row's mean z. With one variance for all, as Dunnett has it, they share
    the standard error's factor s too: P(all < d) is the mean over z and s of Phi(z + sqrt(2) d s)^k. If each has a
    variance of its own, the mean over s comes before the power, which makes d a little larger.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    factors, shares = _chi_factors(freedom)
    low, high = 0.0, 1e4
    while high - low > 1e-6 * max(1.0, low):
        middle = (low + high) / 2
        each = ndtr(nodes[:, None] + np.sqrt(2) * middle * factors)
        below = each**others @ shares if one_variance else (each @ shares) ** others
        low, high = (middle, high) if weights @ below < 1 - LEVEL else (low, middle)
    return high


def _chi_factors(freedom: float) -> tuple[Samples, Samples]:
    """Values of s = sqrt(chi-squared / freedom) and their probabilities, over log s from far below to far above 1."""
    if np.isinf(freedom):
        return np.ones(1), np.ones(1)
    log_s = np.linspace(-14.0 / np.sqrt(freedom) - 1, 8.0 / np.sqrt(freedom) + 0.1, FACTORS)
    s = np.exp(log_s)
    half = freedom / 2
    log_density = half * np.log(half) + np.log(2) - gammaln(half) + freedom * log_s - half * s**2
    density = np.exp(log_density)
    return s, density / density.sum()


def shown_below(best_less_row: Estimate, rows: int) -> bool:
    """Whether a row is below the best of a section of `rows`, given the best's mean less its own.

    A pair's variance is mostly its own (`reports.statistics.pairs.of_methods`).
    """
    if rows < 2:
        return False
    freedom = float(best_less_row.freedom)
    whole = float(np.floor(freedom)) if freedom > 1 else freedom  # to be looked up again
    constant = dunnett(rows - 1, whole, one_variance=False)
    return bool(best_less_row.mean > constant * best_less_row.error)
