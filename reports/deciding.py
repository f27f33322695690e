"""Takes the looks of a sweep that decides, and puts what they found into its tables."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dmf.records.staleness import Today
from reports.cells import AgainstBaseline
from reports.layouts import TableLayout
from reports.looks import Answer, Course, Look, Looks, courses, name_of
from reports.places import Place, baseline_of, common_seeds, on_both, places_of
from reports.spreads import SeedSpread, compare, spread_of, trained_elsewhere
from reports.statistics.sequential import FIRST, repeated_interval, shown_by
from reports.statistics.verdicts import Verdict, margin_below
from reports.tables import PlannedCell, Records

NO_LOOK, CHANGED = "no look yet", "its trainings have changed since the look"
TOO_FEW = f"fewer than {FIRST} seeds in common"
"""Why the looks that have been taken say nothing of a row."""
SAME_NUMBER = 1e-9
"""By which a difference may move between a look and a report of the same trainings."""


@dataclass(frozen=True)
class Decidable:
    """A row and the baseline that it is compared with; both are planned."""

    place: Place
    baseline: Place

    @property
    def names(self) -> tuple[str, str]:
        """What looks call the two."""
        assert self.place.planned is not None and self.baseline.planned is not None
        return name_of(self.place.planned), name_of(self.baseline.planned)


def decidable(layout: TableLayout, cells: Iterable[PlannedCell]) -> list[Decidable]:
    """The rows of a table that seeds can decide, in its order.

    These are rows that are compared with a baseline, with trainings of their own on both sides, all of whose other
    settings are equal.
    """
    return [
        Decidable(place, base)
        for section in places_of(layout, cells, None)
        for place in section
        if place.planned is not None and not place.row.reference and not place.row.is_baseline
        for base in [baseline_of(layout, place, section)]
        if base is not None and _can_differ(layout, place.planned, base.planned)
    ]


def _can_differ(layout: TableLayout, ours: PlannedCell, theirs: PlannedCell | None) -> bool:
    assert theirs is not None
    return (
        ours.config.seeded
        and theirs.config.seeded
        and ours.config.key != theirs.config.key
        and not layout.also_differs(ours.config, theirs.config)
    )


def take_look(
    looks: Looks,
    layouts: Iterable[TableLayout],
    cells: Sequence[PlannedCell],
    ready: Collection[tuple[str, str]],
    records: Records,
    today: Today | None = None,
) -> Look:
    """Look at the questions that are `ready`: table and row's name of those whose trainings have ended.

    `layouts` are those of the tables, and `cells` have the seeds that the looks so far ask for (`asked_now`).
    """
    answers: list[Answer] = []
    by_name = {layout.name: layout for layout in layouts}
    for rule in looks.rule.tables:
        asking = {row: course for row, course in courses(looks, rule.table).items() if (rule.table, row) in ready}
        if not asking:
            continue
        layout = by_name[rule.table]
        columns = places_of(layout, cells, records, today)
        spread = spread_of(layout, columns, functools.partial(trained_elsewhere, layout, cells, records, today))
        places = {name_of(place.planned): place for places in columns for place in places if place.planned is not None}
        for row, course in asking.items():
            ours, theirs = places[row], places[course.question.baseline]
            answers.append(_answer(rule.table, rule.margin, course, ours, theirs, spread))
    return Look(answers=tuple(answers))


def _answer(table: str, margin: float, course: Course, ours: Place, theirs: Place, spread: SeedSpread) -> Answer:
    """The answer by `margin`, or by less where the baseline is near 100 %."""
    silent = Answer(table=table, row=course.question.row, asked=course.seeds, spent=course.account.spent)
    seeds = common_seeds(ours, theirs)
    before = course.account.looks[-1][0] if course.account.looks else 1
    if len(seeds) <= before or ours.found.bank != theirs.found.bank:
        return silent
    account = course.account.looked(len(seeds))
    each, (_, level) = compare(ours, theirs, spread), account.looks[-1]
    margin = margin_below(margin, float(on_both(ours, theirs, seeds)[1].mean()))
    found = each.method
    low, high = repeated_interval(found, level)
    return silent.model_copy(
        update={
            "seeds": seeds,
            "level": level,
            "spent": account.spent,
            "difference": float(found.mean),
            "low": float(low),
            "high": float(high),
            "error": float(found.error),
            "freedom": float(found.freedom),
            "test": each.test,
            "margin": margin,
            "verdict": Verdict(str(shown_by(low, high, margin))),
        }
    )


def with_looks(
    answer: AgainstBaseline, place: Place, base: Place, courses_of_table: dict[str, Course]
) -> AgainstBaseline:
    """A comparison as the looks left it. A row that they do not decide keeps its interval, without a verdict."""
    assert place.planned is not None
    course = courses_of_table.get(name_of(place.planned))
    answer = answer.replace(p_holm=None, p_same_holm=None, verdict=None, more_seeds=None, episodes_needed=None)
    assert base.planned is not None
    if course is None or course.question.baseline != name_of(base.planned):
        return answer.replace(obstacle="not to be decided")
    kept = course.answer
    if obstacle := without_look(course, place, base):
        return without_numbers(answer, obstacle)
    assert kept is not None
    seen_all = set(kept.seeds) == set(place.found.seeds) == set(base.found.seeds)
    seen_all &= place.planned.evaluation.tested == base.planned.evaluation.tested
    own, others = on_both(place, base, kept.seeds)
    return answer.replace(
        difference=kept.difference,
        low=kept.low,
        high=kept.high,
        p=None,
        test=kept.test,
        margin=kept.margin or answer.margin,
        seeds=kept.seeds,
        accuracy=None if seen_all else float(own.mean()),
        baseline_accuracy=None if seen_all else float(others.mean()),
        verdict=kept.verdict,
        look_level=kept.level,
        goes_on=course.goes_on,
    )


def without_look(course: Course, place: Place, base: Place) -> str:
    """Why the looks at a row and its baseline say nothing of them as they are now; empty if they do."""
    kept = course.answer
    if kept is None:
        return NO_LOOK if course.goes_on else TOO_FEW
    have = set(kept.seeds) <= set(common_seeds(place, base))
    changed = not have or abs(_difference(place, base, kept.seeds) - (kept.difference or 0.0)) > SAME_NUMBER
    return CHANGED if changed else ""


def without_numbers(answer: AgainstBaseline, obstacle: str) -> AgainstBaseline:
    """A comparison of which nothing can be said."""
    return answer.replace(
        difference=None, low=None, high=None, p=None, test=None, method_low=None, method_high=None, obstacle=obstacle
    )


def _difference(place: Place, base: Place, seeds: tuple[int, ...]) -> float:
    ours, theirs = on_both(place, base, seeds)
    return float(np.mean(ours - theirs))
