"""Compares the cells of two sources, A and B, and tests the differences together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.collect import collect
from reports.diff.match import Match, matches, origins_that_differ, seeds_told, settings_that_differ
from reports.diff.values import Change, Difference, DiffRow, DiffSection, DiffTable, Side
from reports.layouts import TableLayout
from reports.places import Place, common_seeds, on_both
from reports.statistics.cells import mean_ci95
from reports.statistics.pairs import Estimate, of_methods_alone, of_two_models, paired
from reports.statistics.verdicts import Verdict, adjust, margin_below, verdicts
from reports.tables import Column, PlannedCell, Records


@dataclass(frozen=True)
class Asked:
    """A table of a sweep, with the cells that A and B plan for it."""

    sweep: str
    layout: TableLayout
    a: tuple[PlannedCell, ...]
    b: tuple[PlannedCell, ...]


@dataclass(frozen=True)
class _Compared:
    """B minus A, before all comparisons are adjusted together."""

    estimate: Estimate
    seeds: tuple[int, ...]
    margin: float
    a: float
    b: float
    """Their accuracies over these seeds and episodes."""
    episodes: int


@dataclass
class _Found:
    """A row, and what is to be compared there."""

    row: DiffRow
    compared: _Compared | None = None
    records: tuple[tuple[str, ...], ...] = ()
    """Names of the records that are compared."""

    @property
    def key(self) -> tuple[object, ...]:
        """The comparison's identity: several tables can have the same."""
        return self.records, self.compared and self.compared.margin


def diff(asked: Sequence[Asked], a: Records, b: Records) -> tuple[DiffTable, ...]:
    """Compare every cell that both have, and name the others; stale records count.

    Differences are paired over episodes, and over seeds where there are several, with each pair's own variance. The
    p-values are adjusted for all comparisons in all tables. Raises ValueError if a record contradicts itself.
    """
    found = [_of_table(each, a, b) for each in asked]
    distinct = {
        one.key: one.compared
        for sections in found
        for rows in sections.values()
        for one in rows
        if one.compared is not None
    }
    decided = dict(zip(distinct, _decided(list(distinct.values())), strict=True))
    tables = []
    for each, sections in zip(asked, found, strict=True):
        filled = tuple(
            DiffSection(
                label=f"{column.dataset_label}, {column.task}",
                rows=tuple(one.row.replace(difference=decided[one.key]) if one.compared else one.row for one in rows),
            )
            for column, rows in sections.items()
        )
        tables.append(
            DiffTable(
                sweep=each.sweep,
                name=each.layout.name,
                title=each.layout.title,
                row_header=each.layout.row_header,
                sections=filled,
                notes=_notes(filled, len(distinct)),
            )
        )
    return tuple(tables)


def _of_table(asked: Asked, a: Records, b: Records) -> dict[Column, list[_Found]]:
    return {
        column: [_of_row(asked.layout, column, match, a, b) for match in rows]
        for column, rows in matches(asked.layout, asked.a, asked.b).items()
    }


def _of_row(layout: TableLayout, column: Column, match: Match, a: Records, b: Records) -> _Found:
    ours = Place(column, match.row, match.a, collect(match.a, a)) if match.a else None
    theirs = Place(column, match.row, match.b, collect(match.b, b)) if match.b else None
    row = DiffRow(
        label=", ".join((match.row.label, *match.row.variant)),
        backbone=match.row.backbone,
        a=_side(ours),
        b=_side(theirs),
        change=Change.NEITHER,
        differs=settings_that_differ(match.a, match.b) if match.a and match.b else (),
    )
    there = [place is not None and place.found.accuracies is not None for place in (ours, theirs)]
    if not all(there) or ours is None or theirs is None:
        change = {(True, False): Change.ONLY_A, (False, True): Change.ONLY_B}.get((there[0], there[1]), Change.NEITHER)
        return _Found(row.replace(change=change))
    return _of_both(layout, row, ours, theirs, a, b)


def _of_both(layout: TableLayout, row: DiffRow, ours: Place, theirs: Place, a: Records, b: Records) -> _Found:
    assert ours.planned is not None and theirs.planned is not None
    seeds = common_seeds(theirs, ours)
    tests = ours.planned.evaluation.key, theirs.planned.evaluation.key
    row = row.replace(differs=row.differs + origins_that_differ(_keys(ours, theirs, seeds), tests, a, b))
    if ours.found.bank != theirs.found.bank:
        return _Found(row.replace(change=Change.UNTESTED, obstacle="not paired: other episodes or images"))
    if not seeds:
        return _Found(row.replace(change=Change.UNTESTED, obstacle="not paired: other seeds"))
    accuracies = on_both(ours, theirs, seeds)
    if np.array_equal(*accuracies):
        told = _what_only_one_has(ours, theirs, seeds, accuracies[0].shape[1])
        change = Change.UNTESTED if told else Change.IDENTICAL
        return _Found(row.replace(change=change, obstacle=told))
    before, after = accuracies
    pair = paired(after, before)
    estimate = of_methods_alone(pair) if pair.seeds > 1 else of_two_models(pair)
    margin = margin_below(layout.margin, float(before.mean()))
    return _Found(
        row.replace(change=Change.TESTED),
        _Compared(estimate, seeds, margin, float(before.mean()), float(after.mean()), pair.episodes),
        (ours.found.records, theirs.found.records),
    )


def _keys(ours: Place, theirs: Place, seeds: tuple[int, ...]) -> list[tuple[int, str, str]]:
    """Each seed with its trainings' keys on both sides; without a common seed, each side's first one."""
    a, b = (dict(zip(place.found.seeds, place.found.training_keys, strict=True)) for place in (ours, theirs))
    if not seeds:
        return [(ours.found.seeds[0], ours.found.training_keys[0], theirs.found.training_keys[0])]
    return [(seed, a[seed], b[seed]) for seed in seeds]


def _what_only_one_has(ours: Place, theirs: Place, seeds: tuple[int, ...], episodes: int) -> str:
    """In how much two places are identical, if one has more seeds or episodes; else empty."""
    where = []
    if set(ours.found.seeds) != set(theirs.found.seeds):
        where.append(seeds_told(seeds))
    if _episodes(ours) != _episodes(theirs):
        where.append(f"the first {episodes:,} episodes")
    return f"identical in {' and '.join(where)}, the others are in one only" if where else ""


def _episodes(place: Place) -> int:
    assert place.found.accuracies is not None
    return int(place.found.accuracies.shape[1])


def _side(place: Place | None) -> Side | None:
    if place is None:
        return None
    found = place.found
    accuracy, ci95 = mean_ci95(found.accuracies.mean(axis=0)) if found.accuracies is not None else (None, None)
    return Side(
        state=found.state,
        reasons=found.reasons,
        accuracy=accuracy,
        ci95=ci95,
        episodes=None if found.accuracies is None else _episodes(place),
        seeds=found.seeds,
        records=found.records,
    )


def _decided(compared: Sequence[_Compared]) -> list[Difference]:
    """Each comparison, adjusted for all of them."""
    if not compared:
        return []
    means = np.array([float(each.estimate.mean) for each in compared])
    p_differ = np.array([_certain(each, float(each.estimate.p)) for each in compared])
    p_beyond = np.array([_certain(each, float(each.estimate.p_beyond(each.margin))) for each in compared])
    p_holm, p_same_holm = adjust(p_differ, p_beyond)
    said = verdicts(means, p_holm, p_same_holm)
    return [
        Difference(
            of="methods" if len(each.seeds) > 1 else "models",
            seeds=each.seeds,
            episodes=each.episodes,
            a=each.a,
            b=each.b,
            difference=float(each.estimate.mean),
            low=float(each.estimate.low),
            high=float(each.estimate.high),
            p=float(p),
            p_holm=float(holm),
            p_same_holm=float(same),
            margin=each.margin,
            verdict=Verdict(word),
        )
        for each, p, holm, same, word in zip(compared, p_differ, p_holm, p_same_holm, said, strict=True)
    ]


def _certain(each: _Compared, p: float) -> float:
    """Differences that are all equal say nothing about how they vary."""
    return p if float(each.estimate.error) > 0 else 1.0


def _notes(sections: Sequence[DiffSection], comparisons: int) -> tuple[str, ...]:
    rows = [row for section in sections for row in section.rows]
    notes = ["± is 1.96 std / sqrt(episodes) over the test episodes, given the trained models. Stale records count."]
    tested = [row.difference for row in rows if row.difference is not None]
    if tested:
        notes.append(
            "B − A is paired over episodes, with its 95 % interval; p and verdicts are adjusted for all comparisons "
            f"({comparisons} in all tables; Holm's method, as in tables). Seeds that both have are blocks, with the "
            "pair's own variance."
        )
    if any(difference.of == "models" for difference in tested):
        notes.append("With one seed, a verdict is about the two trained models; it decides nothing about methods.")
    return tuple(notes)
