"""Claims as data: what is said of a table's rows, and what follows for pairs of them.

The paper's claims are `claims.yaml`; a sweep file has its own in the same form.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import yaml
from pydantic import Field, model_validator

from dmf.values import Count, Value
from reports.layouts import TABLE_NAME, RowValue, TableLayout, is_same

SHIPPED = Path(__file__).with_name("claims.yaml")
KINDS = ("above", "best", "worst", "saturates", "falls", "gain")


class Gain(Value):
    """By how much one row is above another."""

    of: tuple[RowValue, RowValue]
    by: Annotated[float, Field(gt=-1, lt=1)]
    """An accuracy: 0.0128 for 1.28 points."""


class Claim(Value):
    """One assertion over the rows of a table, about each of its sections."""

    say: Annotated[str, Field(min_length=1, max_length=300)]
    """The claim in a sentence."""
    source: Annotated[str, Field(max_length=100)] = ""
    """Where it is made."""
    table: Annotated[str, Field(pattern=TABLE_NAME)]
    """The table whose rows it is about. Exactly one of the next six is given."""
    above: tuple[RowValue, RowValue] | None = None
    """The first row is above the second."""
    best: RowValue = None
    """This row is above all others."""
    worst: RowValue = None
    """All others are above this row."""
    saturates: int | float | None = None
    """This row is above all rows of smaller numbers, and none of a larger number is above it."""
    falls: Annotated[tuple[RowValue, ...], Field(min_length=2)] | None = None
    """Each of these rows is below the one before."""
    gain: Gain | None = None
    """`{of: [row, row], by: 0.0128}`: the first row is above the second by this accuracy."""
    shots: tuple[Count, ...] = ()
    """The shots of the test episodes that it is about; empty: any."""
    as_published: bool = False
    """Whether it is only about rows that the paper has too, such as 64 groups of 640 channels."""
    of_all: bool = False
    """Whether it is about every row that the paper has for the backbone, so that it holds only if all are planned."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [kind for kind in KINDS if kind in self.model_fields_set]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(KINDS)}; got {', '.join(given) or 'none'}")
        return self

    @functools.cached_property
    def kind(self) -> str:
        """The one of KINDS that is given."""
        return next(kind for kind in KINDS if kind in self.model_fields_set)

    @property
    def rows_named(self) -> tuple[RowValue, ...]:
        """The rows that it names."""
        if self.kind == "gain":
            assert self.gain is not None
            return self.gain.of
        named = getattr(self, self.kind)
        return named if self.kind in ("above", "falls") else (named,)


class Says(StrEnum):
    """What a relation asserts of the difference d of a row from another."""

    ABOVE = "above"
    """d > 0."""
    NOT_ABOVE = "not above"
    """d < the margin."""
    BY = "by"
    """d is the relation's `by`, within the margin."""


class Relation(NamedTuple):
    """An assertion about a pair of rows."""

    ours: RowValue
    theirs: RowValue
    says: Says = Says.ABOVE
    by: float = 0.0


def relations(claim: Claim, rows: Sequence[RowValue]) -> list[Relation]:
    """What a claim says of pairs of rows: all of it holds if the claim holds. `rows` are those that there are."""
    rows_named = claim.rows_named
    if claim.kind == "gain":
        assert claim.gain is not None
        return [Relation(*claim.gain.of, Says.BY, claim.gain.by)]
    if claim.kind in ("above", "falls"):
        return [Relation(*pair) for pair in itertools.pairwise(rows_named)]
    first: Any = rows_named[0]
    others = [row for row in rows if not is_same(row, first)]
    if claim.kind == "best":
        return [Relation(first, other) for other in others]
    if claim.kind == "worst":
        return [Relation(other, first) for other in others]
    numbers: list[Any] = [other for other in others if isinstance(other, int | float)]
    below = [Relation(first, other) for other in numbers if other < first]
    return below + [Relation(other, first, Says.NOT_ABOVE) for other in numbers if other > first]


def read_claims(path: Path = SHIPPED) -> tuple[Claim, ...]:
    """The claims in a file."""
    return tuple(Claim.from_dict(each) for each in yaml.safe_load(path.read_text(encoding="utf-8")))


def named(relation: Relation, layout: TableLayout) -> str:
    """A relation's difference in words: `alignments ODE − alignments 1`."""
    ours, theirs = (layout.name_of(layout.label_of(row)) for row in relation[:2])
    return f"{ours} − {theirs}"


CLAIMS = read_claims()
"""The paper's."""
