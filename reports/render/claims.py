"""Renders judged claims as terminal text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from pydantic import TypeAdapter
from rich.console import Group
from rich.text import Text

from reports.judge import Judged, Outcome
from reports.render.markdown import escaped
from reports.render.summary import Claim
from reports.render.wrapping import harmless

TITLE = "Claims"
NOTE = (
    "Holds: shown by tests over episodes and seeds. Fails: shown to miss what is claimed, or to reach it by less "
    "than the table's margin. p is adjusted for all claims, apart from the tables' verdicts. One seed decides nothing."
)
STYLES = {Outcome.HOLDS: "bold green", Outcome.FAILS: "bold red", Outcome.UNDECIDED: "bold", Outcome.NOT_TESTED: "dim"}


def outcome(judged: Judged) -> str:
    """What becomes of a claim in our numbers: `undecided, about 3 more seeds`."""
    if judged.more_seeds is None:
        return judged.ours.value
    return f"{judged.ours}, about {judged.more_seeds} more seed{'s' if judged.more_seeds > 1 else ''}"


def to_terminal(claims: Sequence[Judged]) -> Group:
    """A paragraph per claim that is tested, and a line per claim that cannot be; the others are counted."""
    lines = [Text(TITLE, style="bold")]
    tested = [each for each in claims if each.ours is not Outcome.NOT_TESTED]
    for each in tested:
        lines.append(Text.assemble(harmless(f"- {each.sentence} ({each.where}) "), (outcome(each), STYLES[each.ours])))
        lines.append(Text(harmless(f"    ours: {each.evidence}")))
        if each.published is not Outcome.NOT_TESTED:
            lines.append(Text(harmless(f"    paper: {each.published}, {each.published_evidence}")))
    hindered = [each for each in claims if each.hindrance]
    for each in hindered:
        said = (harmless(f"- {each.sentence} ({each.where}) "), (outcome(each), STYLES[each.ours]))
        lines.append(Text.assemble(*said, harmless(f": {each.hindrance}")))
    if left := len(claims) - len(tested) - len(hindered):
        lines.append(Text(f"- {left} {'more ' if tested or hindered else ''}not tested, for want of results"))
    return Group(*lines, Text(NOTE), Text(""))


def to_markdown(claims: Sequence[Judged]) -> str:
    """One row per claim and section."""
    lines = [
        f"## {TITLE}",
        "",
        "| claim | where | paper | ours | evidence | in the paper |",
        "|:--|:--|:--|:--|:--|:--|",
    ]
    for each in claims:
        source = f"{each.sentence} ({each.source})" if each.source else each.sentence
        cells = (source, each.where or "–", each.published, outcome(each), each.evidence, each.published_evidence)
        lines.append(f"| {' | '.join(escaped(cell) for cell in cells)} |")
    return "\n".join([*lines, "", f"- {NOTE}"]) + "\n"


def to_csv(claims: Sequence[Judged]) -> str:
    """One line per claim and section, with every field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Judged.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(each.model_dump(mode="json") for each in claims)
    return text.getvalue()


def to_json(claims: Sequence[Judged]) -> str:
    """Every field, unrounded."""
    return TypeAdapter(list[Judged]).dump_json(list(claims), indent=1).decode() + "\n"


def for_page(claims: Sequence[Judged]) -> list[Claim]:
    """Each claim with its section in the sentence, and what an undecided one would take in its verdict."""
    return [
        Claim(
            sentence=f"{each.sentence} ({each.where})" if each.where else each.sentence,
            source=each.source,
            published=each.published,
            ours=outcome(each),
            evidence=each.evidence,
            published_evidence=each.published_evidence,
        )
        for each in claims
    ]
