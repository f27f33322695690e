"""What `seeds: {decide: ...}` names in a sweep file: the rows to decide, and the rule by which looks decide them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.spec.cells import cells_of
from orchestrator.spec.model import ALL, Decide, SweepSpec
from reports.claims import CLAIMS, Claim, relations
from reports.deciding import Decidable, decidable
from reports.layouts import RowValue, in_order, is_same
from reports.looks import Question, Rule, TableRule
from reports.places import Place
from reports.statistics.sequential import levels
from reports.tables import PlannedCell


@dataclass(frozen=True)
class _Candidates:
    """The rows of a sweep that can be decided, by table."""

    by_table: dict[str, list[Decidable]]
    claims: tuple[Claim, ...]
    """The paper's and the file's."""

    @classmethod
    def of(cls, spec: SweepSpec, cells: Sequence[PlannedCell]) -> _Candidates:
        names = in_order([cell.table for cell in cells])
        return cls({name: decidable(spec.layouts[name], cells) for name in names}, (*spec.claims, *CLAIMS))

    def named(self, name: str) -> list[tuple[str, Decidable]]:
        """The rows that one entry of `decide` names, each with its table. Raises ValueError if there are none.

        An entry is a table, one of its rows, or the sentence of a claim that is about rows and their baseline.
        """
        for claim in self.claims:
            if claim.say.strip(" .") == name.strip(" ."):
                return self._of_claim(claim, name)
        table, colon, label = (part.strip() for part in name.partition(":"))
        if table not in self.by_table:
            raise ValueError(f"{name!r}: {table!r} is not a table of this sweep; there are {_listed(self.by_table)}")
        rows = self.by_table[table]
        if not rows:
            raise ValueError(f"{name!r}: no row of table {table} is compared with a baseline that differs in it alone")
        if not colon:
            return [(table, row) for row in rows]
        found = [row for row in rows if label in _names(row.place)]
        if found:
            return [(table, row) for row in found]
        known = list(dict.fromkeys(row.place.row.label for row in rows))
        if any(label in _names(row.baseline) for row in rows):
            raise ValueError(f"{name!r}: that is the baseline, which other rows are compared with: {_listed(known)}")
        close = difflib.get_close_matches(label, [name for row in rows for name in _names(row.place)], 1)
        hint = f"did you mean {table}: {close[0]}? " if close else ""
        raise ValueError(f"{name!r}: no row of table {table} that can be decided; {hint}there are {_listed(known)}")

    def _of_claim(self, claim: Claim, name: str) -> list[tuple[str, Decidable]]:
        """The rows that a claim compares with their baseline. Raises ValueError if it compares others."""
        rows = self.by_table.get(claim.table, [])
        found = []
        for ours, theirs in _values(claim, rows):
            pairs = [
                row
                for row in rows
                for value, other in ((ours, theirs), (theirs, ours))
                if is_same(row.place.row.value, value) and is_same(row.baseline.row.value, other)
            ]
            if not pairs:
                raise ValueError(
                    f"{name!r}: the claim compares {ours} with {theirs}, but looks compare rows of table {claim.table} "
                    "with their baseline only; name rows, or describe the table with another baseline"
                )
            found += [(claim.table, row) for row in pairs]
        if not found:
            raise ValueError(f"{name!r}: no row of table {claim.table} that the claim is about can be decided")
        return found


def _values(claim: Claim, rows: Sequence[Decidable]) -> list[tuple[RowValue, RowValue]]:
    """The pairs of rows that a claim compares."""
    there = [row.place.row.value for row in rows] + [row.baseline.row.value for row in rows]
    distinct = [value for number, value in enumerate(there) if not any(is_same(value, v) for v in there[:number])]
    return [(relation.ours, relation.theirs) for relation in relations(claim, distinct)]


def _names(place: Place) -> tuple[str, str, str]:
    """What a row may be called: as its table prints it, that with its meaning, and the value of what rows vary."""
    return place.row.label, place.row.name, str(place.row.value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def undecidable(spec: SweepSpec, deciding: Decide) -> list[str]:
    """One line for each entry of `decide` that names nothing that can be decided."""
    candidates = _Candidates.of(spec, cells_of(spec))
    if deciding.decide == ALL:
        some = any(candidates.by_table.values())
        return [] if some else ["seeds.decide: no row of this sweep is compared with a baseline; write seeds: [0, 1]"]
    told = []
    for number, name in enumerate(deciding.decide):
        try:
            candidates.named(name)
        except ValueError as error:
            told.append(f"seeds.decide.{number}: {error}")
    return told


def rule_of(spec: SweepSpec, cells: Sequence[PlannedCell]) -> Rule:
    """The rule for the rows that a sweep's `decide` names; raises ValueError for a name of nothing."""
    deciding = spec.deciding
    assert deciding is not None
    candidates = _Candidates.of(spec, cells)
    everything = [table for table, rows in candidates.by_table.items() if rows]
    wanted = everything if deciding.decide == ALL else deciding.decide
    chosen: dict[str, dict[str, Question]] = {}
    for name in wanted:
        for table, row in candidates.named(name):
            question = _question(row)
            chosen.setdefault(table, {})[question.row] = question
    return Rule(
        at_most=deciding.at_most,
        tables=tuple(
            TableRule(
                table=table,
                margin=spec.layouts[table].margin,
                questions=tuple(chosen[table].values()),
                levels=levels(deciding.at_most, len(chosen[table])),
            )
            for table in candidates.by_table
            if table in chosen
        ),
    )


def _question(row: Decidable) -> Question:
    place = row.place
    ours, theirs = row.names
    shown = ", ".join((place.row.name, *place.row.variant, place.column.dataset_label, place.column.task))
    return Question(row=ours, baseline=theirs, said=shown)
