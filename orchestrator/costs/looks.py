"""What a sweep that decides will take: the trainings that are to be expected, and the most that there can be."""

from __future__ import annotations

import numpy as np

from orchestrator.costs.preview import Preview
from orchestrator.costs.totals import told
from orchestrator.spec.plan import SweepPlan, Trial
from orchestrator.store.ledger import Ledger
from reports.deciding import decidable
from reports.fill import published_number
from reports.layouts import TableLayout
from reports.look_notes import state_lines
from reports.looks import Looks, TableRule, agreed, cells_at_most, courses, with_seeds
from reports.places import Place
from reports.spreads import ASSUMED_SD
from reports.statistics.sequential import likely_seeds
from reports.words import counted

ASSUMED_DIFFERENCE = 0.01
"""Of a row that the paper does not have: one point."""
ASSUMED_EPISODE_SD = 0.035
"""Of what a difference of two methods varies from episode to episode."""


def look_lines(planned: SweepPlan, ledger: Ledger, seen: Preview) -> list[str]:
    """How a sweep decides, where it stands, and its costs, as expected and at most."""
    assert planned.rule is not None
    looks = agreed(planned.rule, ledger.looks(planned.name))
    expected = planned.with_cells(with_seeds(planned.cells, looks, likely(planned, looks))).trials()
    most = planned.with_cells(cells_at_most(planned.cells, looks)).trials()
    found = bool(looks.taken)
    point, sd = f"{100 * ASSUMED_DIFFERENCE:g} point", f"{100 * ASSUMED_SD:g}"
    assumed = f"of the paper, {point} where it has none, and a seeds' sd of {sd}"
    differences = "found so far" if found else assumed
    return [
        *_rule_lines(looks),
        *(state_lines(looks) if found else []),
        f"expected: {counted(len(expected), 'training')} in all, with differences {differences}",
        *_costs(expected, seen),
        f"at most: {counted(len(most), 'training')} in all",
        *_costs(most, seen),
    ]


def _rule_lines(looks: Looks) -> list[str]:
    return [
        f"table {rule.table}: looks with 2 to {looks.at_most} seeds, to decide "
        f"{counted(len(rule.questions), 'row')}; levels, as long as none is decided: "
        f"{', '.join(f'{100 * level:.2g}' for level in rule.levels)} %"
        for rule in looks.rule.tables
    ]


def _costs(trials: tuple[Trial, ...], seen: Preview) -> list[str]:
    left = [seen.costs[trial.key] for trial in trials if seen.costs[trial.key].source != "done"]
    return [f"  {line.strip()}" for line in told(left, seen.at_a_time)]


def likely(planned: SweepPlan, looks: Looks) -> dict[str, int]:
    """By row, the seeds with which it probably ends."""
    return {row: seeds for rule in looks.rule.tables for row, seeds in _likely(rule, planned, looks).items()}


def _likely(rule: TableRule, planned: SweepPlan, looks: Looks) -> dict[str, int]:
    (layout,) = [each for each in planned.layouts if each.name == rule.table]
    found = courses(looks, rule.table)
    rows = {each.names[0]: each for each in decidable(layout, planned.cells)}
    seeds = {}
    for row, course in found.items():
        each = rows[row]
        assert each.place.planned is not None
        difference = _in_paper(layout, each.place, each.baseline)
        error = np.sqrt(2 * ASSUMED_SD**2 + ASSUMED_EPISODE_SD**2 / each.place.planned.evaluation.tested)
        if course.answer is not None and course.answer.difference is not None and course.answer.error is not None:
            difference, error = course.answer.difference, course.answer.error * np.sqrt(len(course.answer.seeds))
        beside = sum(other.place.column == each.place.column for other in rows.values()) + 1
        seeds[row] = course.seeds
        if course.goes_on:
            seeds[row] = likely_seeds(
                difference, error, beside, looks.at_most, len(found), rule.margin, first=course.seeds
            )
    return seeds


def _in_paper(layout: TableLayout, place: Place, base: Place) -> float:
    ours, theirs = published_number(layout, place), published_number(layout, base)
    return ours.accuracy - theirs.accuracy if ours and theirs else ASSUMED_DIFFERENCE
