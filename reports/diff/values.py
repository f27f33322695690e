"""A difference of two sources, A and B: tables of rows, each with both numbers and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from dmf.values import Value
from reports.collect import State
from reports.statistics.verdicts import Verdict


class Change(StrEnum):
    """What became of a cell; the value is what is printed."""

    IDENTICAL = "identical"
    """The same seeds, with the same results in every episode."""
    TESTED = "tested"
    """Both have a number on the same episodes and seeds."""
    UNTESTED = "not comparable"
    """Both have a number, on other episodes or seeds, or with the same results in those that both have."""
    ONLY_A = "only in A"
    ONLY_B = "only in B"
    NEITHER = "no number"


class Side(Value):
    """What one of the two has of a cell. Accuracies are fractions in [0, 1]."""

    state: State
    reasons: tuple[str, ...] = ()
    """Why there is no number, or which seeds are absent and why."""
    accuracy: float | None = None
    """Mean over seeds and episodes."""
    ci95: float | None = None
    """Half-width over episodes."""
    episodes: int | None = None
    """How many it is tested on."""
    seeds: tuple[int, ...] = ()
    records: tuple[str, ...] = ()
    """`training key/evaluation key`."""


class Difference(Value):
    """B minus A over the seeds and the episodes that both have."""

    of: Literal["methods", "models"]
    """`models`: there is one seed, so it is about the two trained models."""
    seeds: tuple[int, ...]
    episodes: int
    a: float
    b: float
    """Accuracies over these seeds and episodes."""
    difference: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    p: float
    """Of no difference."""
    p_holm: float
    """The same, adjusted for all comparisons."""
    p_same_holm: float
    """Of a difference of at least `margin`, adjusted likewise."""
    margin: float
    verdict: Verdict
    """Of B against A."""


class DiffRow(Value):
    """A cell of the one, of the other, or of both."""

    label: str
    backbone: str
    a: Side | None = None
    """None: it is not planned there."""
    b: Side | None = None
    change: Change
    difference: Difference | None = None
    obstacle: str = ""
    """Why it is not tested."""
    differs: tuple[str, ...] = ()
    """`path: value in A -> value in B` of settings, code and images."""


class DiffSection(Value):
    """The rows for one data set, way and shot."""

    label: str
    rows: tuple[DiffRow, ...]


class DiffTable(Value):
    """One table of one sweep."""

    sweep: str
    name: str
    title: str
    row_header: str
    sections: tuple[DiffSection, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> list[DiffRow]:
        """Of all sections."""
        return [row for section in self.sections for row in section.rows]
