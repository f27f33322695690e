"""How much the training seed moves a row's accuracy, pooled over rows.

Means come as [..., K, S]: the accuracy, averaged over episodes, of K rows trained with S seeds; NaN where a training is
missing, in the same places all along the leading dimensions. Such a matrix is a section: its rows were tested on the
same episodes.

Seeds are blocks. With one seed, all rows draw the backbone's initial weights first and see training episodes in the
same order, so a lucky seed may lift all rows; that part cancels in their differences. What is left, the residual of
accuracy = row + seed, is what makes a difference between two rows move from seed to seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc  # scipy.stats' F distribution is this, and takes a second to import

from reports.statistics.cells import Samples

ODD_LEVEL = 0.01
"""Of the test whether any row spreads more over seeds than the others, shared by the rows."""
ENOUGH = 6
"""Degrees of freedom from which on a section's own rows do, or a table's."""
NO_SPREAD = 1e-18
"""Squares of accuracies below which nothing but rounding moves."""


@dataclass(frozen=True)
class Spread:
    """Sums of squares with their degrees of freedom; sums and variances may be arrays [...], one per sample."""

    squares: Samples
    freedom: int

    @property
    def variance(self) -> Samples:
        """Per training; NaN without degrees of freedom."""
        return self.squares / self.freedom if self.freedom else np.full_like(self.squares, np.nan)


def residual_spread(means: Samples) -> Spread:
    """Of the residuals of accuracy = row + seed, by least squares, over [..., K, S].

    The freedom is N - K - S + number of connected blocks, of N trainings in K rows and S seeds that have any; with none
    missing (K - 1)(S - 1). Blocks are connected by a row or seed in common: only within one can rows be compared.
    """
    there = _there(means)
    rows, seeds = there.any(axis=1), there.any(axis=0)
    if not rows.any():
        return Spread(np.zeros(means.shape[:-2]), 0)
    there = there[rows][:, seeds]
    values = np.nan_to_num(means[..., rows, :][..., seeds])
    weights = there / there.sum(axis=0)  # [K, S]: a row's weight in the mean of a seed

    def centred(of_rows: Samples) -> Samples:
        """Minus each seed's mean over the rows that have it; 0 where nothing is."""
        return np.where(there, of_rows - (weights * of_rows).sum(axis=-2, keepdims=True), 0)

    # The least-squares row effects solve L a = b. L is the Laplacian of rows joined by common seeds, whose rank is the
    # number of rows less that of blocks; b are the sums of what a row has beyond its seeds' means.
    within = centred(values)
    laplacian = np.diag(there.sum(axis=1)) - weights @ there.T
    effects = within.sum(axis=-1) @ np.linalg.pinv(laplacian, hermitian=True)
    residuals = centred(values - effects[..., None])
    rank = int(np.linalg.matrix_rank(laplacian, hermitian=True))
    return Spread((residuals**2).sum(axis=(-2, -1)), int(there.sum()) - there.shape[1] - rank)


def _there(means: Samples) -> NDArray[np.bool_]:
    """[K, S]: which trainings there are."""
    there: NDArray[np.bool_] = ~np.isnan(means[(0,) * (means.ndim - 2)])
    return there


def pooled(sections: Sequence[Samples]) -> Spread:
    """The residual spread of several sections [..., K, S] together."""
    spreads = [residual_spread(means) for means in sections]
    total = sum((spread.squares for spread in spreads), np.zeros(()))
    return Spread(np.asarray(total), sum(spread.freedom for spread in spreads))


def section_spreads(sections: Sequence[Samples], together: Spread) -> list[Spread]:
    """For each section the spread of its own rows where they have `ENOUGH` degrees of freedom, else that of all.

    Sections are of other shots or data, whose seeds may matter more or less.
    """
    own = [residual_spread(means) for means in sections]
    return [spread if spread.freedom >= ENOUGH else together for spread in own]


def excess_p(sections: Sequence[Samples]) -> list[Samples]:
    """Per section [..., K]: one-sided p of the hypothesis that a row spreads over seeds no more than all the others do.

    Without the row, squares and freedom get less by its own. If all rows spread alike, the ratio of its variance to the
    others' has an F distribution. Adjusted after Bonferroni for all rows of the sections; 1 where there is nothing to
    compare.
    """
    parts = [residual_spread(means) for means in sections]
    squares, freedom = sum(part.squares for part in parts), sum(part.freedom for part in parts)
    rows = sum(means.shape[-2] for means in sections)
    found = []
    for means, part in zip(sections, parts, strict=True):
        p_values = np.ones(means.shape[:-1])
        for row in range(means.shape[-2]):
            rest = residual_spread(np.delete(means, row, axis=-2))
            own_freedom = part.freedom - rest.freedom
            others_freedom = freedom - own_freedom
            if own_freedom and others_freedom:
                own = np.maximum(part.squares - rest.squares, 0)
                others = np.maximum(squares - own, NO_SPREAD)
                ratio = own / own_freedom / (others / others_freedom)
                p_values[..., row] = np.minimum(fdtrc(own_freedom, others_freedom, ratio) * rows, 1)
        found.append(p_values)
    return found


def without_odd_rows(sections: Sequence[Samples]) -> tuple[list[Samples], list[set[int]]]:
    """Sections [K, S] with NaN for rows that spread more than the others, and per section which these are.

    The row that exceeds the others most is left out as long as the test at `ODD_LEVEL` finds one. A row that spreads
    less than the others stays: with the pooled variance its intervals are wider than they need be, which is cautious.
    """
    left, odd = [np.array(means) for means in sections], [set[int]() for _ in sections]
    while True:
        p_values = excess_p(left)
        least = [float(p.min()) if p.size else 1.0 for p in p_values]
        if not least or min(least) >= ODD_LEVEL:
            return left, odd
        section = int(np.argmin(least))
        row = int(np.argmin(p_values[section]))
        left[section][row] = np.nan
        odd[section].add(row)


def cell_spread(sections: Sequence[Samples]) -> tuple[Samples, Samples]:
    """Variance over seeds of a cell's accuracy, pooled over cells, and its degrees of freedom.

    A seed that lifts all rows of a section moves their cells together, so that K cells say less than K times as much as
    one. The sum of squares within cells is that of the seeds' common part and that of the residuals; Satterthwaite's
    freedom counts each with its own. NaN and 0 where no row has two seeds.
    """
    squares, freedom, uncertainty = np.zeros(()), 0, np.zeros(())
    for means in sections:
        counts = _there(means).sum(axis=-1)
        own = means[..., counts > 0, :]
        within = np.asarray(np.nansum((own - np.nanmean(own, axis=-1, keepdims=True)) ** 2, axis=(-2, -1)))
        residual = residual_spread(means)
        cells_freedom = int((counts[counts > 0] - 1).sum())
        common, common_freedom = within - residual.squares, cells_freedom - residual.freedom
        squares, freedom = squares + within, freedom + cells_freedom
        for part, its_freedom in ((residual.squares, residual.freedom), (common, common_freedom)):
            uncertainty = uncertainty + (part**2 / its_freedom if its_freedom else 0)
    if not freedom:
        return np.full(np.shape(squares), np.nan), np.zeros(np.shape(squares))
    return squares / freedom, np.divide(
        squares**2, uncertainty, out=np.full(np.shape(squares), float(freedom)), where=uncertainty > 0
    )
