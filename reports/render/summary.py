"""What a page says first: how far each table is, what it decides, and the claims with their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.cells import Table
from reports.statistics.verdicts import Verdict
from reports.words import interval, percent
from reports.words import verdict as word_of

MOST_FINDINGS = 12
"""Decided rows of a table that the summary lists; its table has them all."""
KINDS = ("holds", "fails", "undecided", "not tested")
"""The words that a claim's verdict begins with."""


@dataclass(frozen=True)
class Claim:
    """A claim as a page shows it, and what the published numbers and ours say of it."""

    sentence: str
    source: str
    """Who claims it, and where."""
    published: str
    """The published numbers' verdict: `holds`, `fails`, `undecided ...` or `not tested`."""
    ours: str
    """Our numbers' verdict, in the same words."""
    evidence: str
    """Our numbers behind it, in words."""
    published_evidence: str
    """The published numbers behind it, in words."""


@dataclass(frozen=True)
class Finding:
    """A row that is decided."""

    kind: str
    """`better`, `worse` or `same`."""
    word: str
    text: str


def findings(table: Table) -> list[Finding]:
    """The rows of a table that are better, worse or the same, in their order."""
    found = []
    for section in table.sections:
        for cell in section.cells:
            against = cell.to_baseline
            if against is None or against.verdict in (None, Verdict.UNDECIDED) or against.difference is None:
                continue
            assert against.low is not None and against.high is not None and against.verdict is not None
            name = ", ".join((cell.name, *cell.variant))
            text = (
                f"{name}, against {against.baseline} ({section.label}): "
                f"{percent(against.difference, signed=True)} {interval(against.low, against.high)}"
            )
            found.append(Finding(against.verdict.value, word_of(against), text))
    return found


def kind_of(verdict: str) -> str:
    """The kind of a claim's verdict, for its colour: `holds`, `fails`, `undecided` or `not-tested`."""
    found = next((kind for kind in KINDS if verdict.startswith(kind)), "undecided")
    return found.replace(" ", "-")


def claims_for_page(claims: Sequence[Claim]) -> list[dict[str, object]]:
    """Each claim with both verdicts and their evidence, and whether our numbers say nothing of it."""
    return [
        {
            "sentence": claim.sentence,
            "source": claim.source,
            "untested": kind_of(claim.ours) == "not-tested",
            "sides": [
                {"who": "ours", "word": claim.ours, "kind": kind_of(claim.ours), "evidence": claim.evidence},
                {
                    "who": "published",
                    "word": claim.published,
                    "kind": kind_of(claim.published),
                    "evidence": claim.published_evidence,
                },
            ],
        }
        for claim in claims
    ]


def counted(claims: Sequence[Claim]) -> str:
    """`ours: 3 hold, 1 fails, 2 undecided`, as far as there are any."""
    words = {"holds": "hold", "fails": "fail", "undecided": "undecided", "not-tested": "not tested"}
    kinds = [kind_of(claim.ours) for claim in claims]
    parts = [
        f"{kinds.count(kind)} {kind if kinds.count(kind) == 1 and kind in ('holds', 'fails') else word}"
        for kind, word in words.items()
        if kind in kinds
    ]
    return f"By our numbers: {', '.join(parts)}."


def name_of(table: Table) -> str:
    """The table's name as part of an id."""
    return "".join(character if character.isalnum() and character.isascii() else "-" for character in table.name)
