"""What `seeds: {decide: ...}` names in a sweep file: the rows to decide, and the rule by which looks decide them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.spec.cells import cells_of
from orchestrator.spec.model import ALL, Decide, SweepSpec
from reports.deciding import Decidable, decidable
from reports.looks import Question, Rule, TableRule
from reports.places import Place
from reports.statistics.sequential import levels
from reports.tables import TABLES, PlannedCell


@dataclass(frozen=True)
class _Candidates:
    """The rows of a sweep that can be decided, by table."""

    by_table: dict[str, list[Decidable]]
    cells: Sequence[PlannedCell]

    @classmethod
    def of(cls, cells: Sequence[PlannedCell]) -> _Candidates:
        planned = {cell.table for cell in cells}
        return cls({name: decidable(TABLES[name], cells) for name in TABLES if name in planned}, cells)

    def named(self, name: str) -> list[tuple[str, Decidable]]:
        """The rows that one entry of `decide` names, each with its table. Raises ValueError if there are none.

        An entry is a table or one of its rows; names of claims, once there are any, are looked up here too.
        """
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


def _names(place: Place) -> tuple[str, str, str]:
    """What a row may be called: as its table prints it, that with its meaning, and the value of what rows vary."""
    return place.row.label, place.row.name, str(place.row.value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def undecidable(spec: SweepSpec, deciding: Decide) -> list[str]:
    """One line for each entry of `decide` that names nothing that can be decided."""
    candidates = _Candidates.of(cells_of(spec))
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


def rule_of(deciding: Decide, cells: Sequence[PlannedCell]) -> Rule:
    """The rule for the rows that `decide` names; raises ValueError for a name of nothing."""
    candidates = _Candidates.of(cells)
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
                margin=TABLES[table].margin,
                questions=tuple(chosen[table].values()),
                levels=levels(deciding.at_most, len(chosen[table])),
            )
            for table in TABLES
            if table in chosen
        ),
    )


def _question(row: Decidable) -> Question:
    place = row.place
    ours, theirs = row.names
    shown = ", ".join((place.row.name, *place.row.variant, place.column.dataset_label, place.column.task))
    return Question(row=ours, baseline=theirs, said=shown)
