"""From tests to words: p adjusted for a whole table, and the verdict on each row."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL

MARGIN = 0.005
"""A difference smaller than half a point counts as none, unless a table says otherwise."""


def margin_below(margin: float, accuracy: float) -> float:
    """The margin for rows near `accuracy`: at most a tenth of its errors, in steps of 0.01 points.

    Half a point is nothing at 65 %, but half of all errors at 99 %.
    """
    return min(margin, float(np.floor((1 - accuracy) * 1000 + 1e-9) / 10_000))


class Verdict(StrEnum):
    """A method against its baseline; the value is what tables print first."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    """The difference is smaller than the margin."""
    UNDECIDED = "undecided"


def adjust(p_differ: Samples, p_beyond: Samples) -> tuple[Samples, Samples]:
    """Both p-values of each of m rows [..., m], adjusted so that a table has a false verdict in 5 % of cases at most.

    A row has two hypotheses, that there is no difference and that it is at least the margin. At most one is true, so
    at most m of the table's 2m are. The closed test with Bonferroni's bound, as Holm's, takes k rows at a time, of
    each other row the hypothesis that is harder to reject: the adjusted p is the largest, over k, of k times the least
    p among a row's own and the k - 1 largest of the others'.
    """
    harder = np.maximum(p_differ, p_beyond)
    rows = harder.shape[-1]
    adjusted = np.empty((2, *harder.shape))
    for row in range(rows):
        others = np.sort(np.delete(harder, row, axis=-1), axis=-1)[..., ::-1]
        for which, p_values in enumerate((p_differ, p_beyond)):
            least = np.minimum(p_values[..., row, None], others)
            steps = least * np.arange(2, rows + 1)
            adjusted[which, ..., row] = np.maximum(p_values[..., row], steps.max(axis=-1, initial=0))
    return np.minimum(adjusted[0], 1), np.minimum(adjusted[1], 1)


def verdicts(means: Samples, p_differ: Samples, p_beyond: Samples) -> NDArray[np.str_]:
    """Verdicts, of the shape of their mean differences and adjusted p-values."""
    found = np.where(means > 0, Verdict.BETTER, Verdict.WORSE)
    found = np.where(p_differ < LEVEL, found, Verdict.UNDECIDED)
    return np.where(p_beyond < LEVEL, Verdict.SAME, found)
