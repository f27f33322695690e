"""Judges claims by the published numbers, and by ours.

By ours a claim holds if each of its relations is shown to hold, and fails if one of them is shown not to. The first is
an intersection-union test, whose p is the largest of its relations'; the second has the smallest p times their number.
At most one of the two hypotheses that are tested is true, so all claims together are adjusted like the rows of a table.
Where a sweep adds seeds until rows are decided, claims are judged by the intervals of its looks instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from dmf.values import Value
from reports import published
from reports.claims import Claim, Relation, Says, named, relations
from reports.collect import State
from reports.comparisons import margin_of, needed_for, obstacle
from reports.deciding import without_look
from reports.fill import Gathered
from reports.layouts import TABLES, RowValue, TableLayout, is_same
from reports.looks import Course, courses, name_of
from reports.places import Place, nearest
from reports.published import ABLATED, DATASETS
from reports.spreads import Compared, compare
from reports.statistics.pairs import LEVEL, Estimate, Numbers, of_two_models
from reports.statistics.verdicts import adjust
from reports.words import interval, percent, points


class Outcome(StrEnum):
    """What becomes of a claim; the value is what is printed."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    NOT_TESTED = "not tested"


class Judged(Value):
    """A claim about one section, by the published numbers and by ours."""

    sentence: str
    source: str
    table: str
    where: str
    """Our section, with the backbone; empty if there is none."""
    published: Outcome
    published_evidence: str
    """The differences between the published numbers, or why there are none."""
    ours: Outcome
    evidence: str
    """Ours, with 95 % intervals, or why there are none."""
    hindrance: str = ""
    """Why it is not tested, where that is not for want of results."""
    more_seeds: int | None = None
    """How many more seeds would probably decide an undecided claim."""
    p_holds: float | None = None
    p_fails: float | None = None
    """Of the hypotheses that it does not hold, and that it does not fail, adjusted for all claims."""


@dataclass(frozen=True)
class _Looked:
    """A difference as the last look at it found it, over the seeds that there were."""

    mean: float
    low: float
    high: float
    goes_on: bool
    """Whether the sweep will look again, with more seeds."""

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def reversed(self) -> _Looked:
        """The difference the other way round."""
        return _Looked(-self.mean, -self.high, -self.low, self.goes_on)


@dataclass(frozen=True)
class _Tried:
    """A relation of two of our rows."""

    relation: Relation
    names: str
    """`row − other row`."""
    compared: Compared
    margin: float
    looked: _Looked | None = None
    """What the sweep's looks say, if they compare the two rows: their interval is right at every look."""

    @property
    def from_bound(self) -> Compared:
        """The difference, from the number that it must be told from to decide the relation.

        That is `by` where the relation has it. Else it is 0 and, for a row that is below the other, the margin.
        """
        below = self.margin if self.compared.pair.mean < 0 else 0.0
        bound = self.relation.by if self.relation.says is Says.BY else below
        return replace(self.compared, pair=replace(self.compared.pair, mean=self.compared.pair.mean - bound))

    @property
    def p_holds(self) -> float:
        """Of the hypothesis that it does not hold; 0 or 1 where looks decide."""
        if self.looked:
            return 0.0 if _within(self.relation, self.looked.interval, self.margin) else 1.0
        return _p_holds(self.relation, self.compared.method, self.margin) if self.compared.seeds > 1 else 1.0

    @property
    def p_fails(self) -> float:
        """Of the hypothesis that it holds; 0 or 1 where looks decide."""
        if self.looked:
            return 0.0 if _outside(self.relation, self.looked.interval, self.margin) else 1.0
        return _p_fails(self.relation, self.compared.method, self.margin) if self.compared.seeds > 1 else 1.0


@dataclass(frozen=True)
class _Case:
    """A claim about the rows with one backbone in one section."""

    claim: Claim
    gathered: Gathered
    section: Sequence[Place]
    backbone: str
    tried: tuple[_Tried, ...]
    obstacles: tuple[str, ...]
    """Why some of its relations are not tried."""
    hindrances: tuple[str, ...]
    """Those of them that further results do not remove."""

    @property
    def of_methods(self) -> bool:
        """Whether some relation has two seeds, so that something is said of methods."""
        return any(each.compared.seeds > 1 for each in self.tried)

    @property
    def p_holds(self) -> float:
        """Of the hypothesis that some relation does not hold."""
        return 1.0 if self.obstacles else max((each.p_holds for each in self.tried), default=1.0)

    @property
    def p_fails(self) -> float:
        """Of the hypothesis that all hold."""
        return min(1.0, len(self.tried) * min((each.p_fails for each in self.tried), default=1.0))

    @property
    def where(self) -> str:
        """The section and the backbone in words."""
        column = self.section[0].column
        backbone = published.BACKBONES.get(self.backbone, self.backbone)
        return ", ".join(part for part in (column.dataset_label, column.task, backbone) if part)


def _case(claim: Claim, gathered: Gathered, section: Sequence[Place], backbone: str) -> _Case:
    """Tries a claim's relations; one of rows in several variants is tried for each."""
    layout = gathered.layout
    rows = [place for place in section if _counts(place, claim, backbone)]
    values = [place.row.value for place in rows]
    distinct = [value for number, value in enumerate(values) if not any(is_same(value, v) for v in values[:number])]
    tried, obstacles, hindrances = [], [], []
    asserted = relations(claim, [*distinct, *_absent(claim, layout, backbone, distinct)])
    by_looks = courses(gathered.looks, layout.name) if gathered.looks else {}
    for relation in asserted:
        ours, theirs = ([place for place in rows if is_same(place.row.value, value)] for value in relation[:2])
        missing = [value for value, found in zip(relation[:2], (ours, theirs), strict=True) if not found]
        obstacles += [f"{layout.name_of(layout.label_of(value))}: {State.NOT_PLANNED}" for value in missing]
        for place, other in _pairs(layout, ours, theirs):
            names = f"{_name(place)} − {_name(other)}" if other else _name(place)
            why = obstacle(layout, place, other) if other else "no row to compare it with"
            looked = None
            if other and by_looks and not why:
                looked, why = _looked(by_looks, place, other)
            if other is None or why:
                obstacles.append(f"{names}: {why}")
                if not (other and why in (place.found.state, f"other row {other.found.state}")):
                    hindrances.append(obstacles[-1])
            else:
                each = compare(place, other, gathered.spread)
                tried.append(_Tried(relation, names, each, margin_of(layout, place, other), looked))
    if not asserted:
        obstacles.append("its rows are not planned")
    if claim.kind == "saturates" and not any(each.says is Says.NOT_ABOVE for each in asserted):
        obstacles.append(f"no row above {layout.name_of(layout.label_of(claim.saturates))}: {State.NOT_PLANNED}")
    why_not = tuple(dict.fromkeys(obstacles)), tuple(dict.fromkeys(hindrances))
    return _Case(claim, gathered, section, backbone, tuple(tried), *why_not)


def _absent(claim: Claim, layout: TableLayout, backbone: str, planned: Sequence[RowValue]) -> list[RowValue]:
    """The rows that a claim about all the paper's rows needs, and that are not planned."""
    if not claim.of_all or layout.other_channels(backbone):
        return []
    needed = [row.value for row in layout.values if row.published]
    return [value for value in needed if not any(is_same(value, there) for there in planned)]


def _pairs(layout: TableLayout, ours: Sequence[Place], theirs: Sequence[Place]) -> Iterator[tuple[Place, Place | None]]:
    """Every variant of two rows, each with the variant of the other row that is most like it; each is in some pair."""
    paired: list[Place] = []
    alone: list[Place] = []
    for place in ours if theirs else ():
        if other := nearest(layout, place, theirs):
            paired.append(other)
            yield place, other
        else:
            alone.append(place)
    for left in theirs if ours else ():
        alike = None if left in paired else nearest(layout, left, ours)
        if alike:
            alone = [place for place in alone if place is not alike]
            yield alike, left
    yield from ((place, None) for place in alone)


def _looked(by_looks: dict[str, Course], place: Place, other: Place) -> tuple[_Looked | None, str]:
    """A row less another by the last look at them, or why there is none."""
    for row, baseline, sign in ((place, other, 1), (other, place, -1)):
        assert row.planned is not None and baseline.planned is not None
        course = by_looks.get(name_of(row.planned))
        if course is None or course.question.baseline != name_of(baseline.planned):
            continue
        if why := without_look(course, row, baseline):
            return None, why
        answer = course.answer
        assert answer is not None and answer.difference is not None
        assert answer.low is not None and answer.high is not None
        looked = _Looked(answer.difference, answer.low, answer.high, course.goes_on)
        return looked if sign > 0 else looked.reversed, ""
    return None, "the looks do not compare them"


def _within(relation: Relation, interval: tuple[float, float], margin: float) -> bool:
    """Whether every difference in an interval agrees with a relation."""
    low, high = interval
    if relation.says is Says.ABOVE:
        return low > 0
    if relation.says is Says.NOT_ABOVE:
        return high < margin
    return relation.by - margin < low and high < relation.by + margin


def _outside(relation: Relation, interval: tuple[float, float], margin: float) -> bool:
    """Whether none does, by the margin where a relation says "above"."""
    low, high = interval
    if relation.says is Says.ABOVE:
        return high < margin
    if relation.says is Says.NOT_ABOVE:
        return low > 0
    return not low <= relation.by <= high


def _counts(place: Place, claim: Claim, backbone: str) -> bool:
    """Whether a row is among those that a claim is about."""
    if place.planned is None or place.row.reference or place.row.backbone not in (backbone, ""):
        return False
    return place.row.published is not None or not claim.as_published


def _name(place: Place) -> str:
    return ", ".join((place.row.name, *place.row.variant))


def _p_holds(relation: Relation, method: Estimate, margin: float) -> float:
    """Of the hypothesis that a relation does not hold."""
    if not method.error > 0:
        return 1.0
    if relation.says is Says.BY:
        return _doubled(max(method.p_at_most(relation.by - margin), method.p_at_least(relation.by + margin)))
    return _doubled(method.p_at_most(0.0) if relation.says is Says.ABOVE else method.p_at_least(margin))


def _p_fails(relation: Relation, method: Estimate, margin: float) -> float:
    """Of the hypothesis that it holds, by the margin if it says "above"."""
    if not method.error > 0:
        return 1.0
    if relation.says is Says.BY:
        return _doubled(min(method.p_at_most(relation.by), method.p_at_least(relation.by)))
    return _doubled(method.p_at_least(margin) if relation.says is Says.ABOVE else method.p_at_most(0.0))


def _doubled(p: Numbers) -> float:
    """A one-sided p for half the level: what it rejects is then outside the 95 % interval that is printed beside it."""
    return min(1.0, 2 * float(p))


def judge(claims: Iterable[Claim], tables: Sequence[Gathered]) -> tuple[Judged, ...]:
    """Each claim about each section and backbone that it is about; one that no section is about is not tested."""
    found: list[tuple[Claim, list[_Case]]] = [(claim, _cases(claim, tables)) for claim in claims]
    every = [case for _, cases in found for case in cases]
    tested = [case for case in every if case.of_methods]
    # Those of one seed will be adjusted with the others once they have the seeds that they are told to take.
    comparisons = sum(bool(case.tried) for case in every)
    p_values: dict[int, tuple[float, float]] = {}
    if tested:
        holds, fails = adjust(np.array([c.p_holds for c in tested]), np.array([c.p_fails for c in tested]))
        p_values = {id(c): (float(p), float(q)) for c, p, q in zip(tested, holds, fails, strict=True)}
    layouts = {**TABLES, **{gathered.layout.name: gathered.layout for gathered in tables}}
    return tuple(
        judged
        for claim, cases in found
        for judged in (
            [_judged(case, p_values.get(id(case)), comparisons) for case in cases]
            or [_untested(claim, layouts[claim.table])]
        )
    )


def _cases(claim: Claim, tables: Sequence[Gathered]) -> list[_Case]:
    return [
        _case(claim, gathered, section, backbone)
        for gathered in tables
        if gathered.layout.name == claim.table
        for section in gathered.sections
        if not claim.shots or section[0].column.shot in claim.shots
        for backbone in _backbones(section)
    ]


def _backbones(section: Sequence[Place]) -> list[str]:
    found = [place.row.backbone for place in section if place.planned and not place.row.reference]
    return sorted({name for name in found if name})


def _judged(case: _Case, p_values: tuple[float, float] | None, comparisons: int) -> Judged:
    claim, layout, column = case.claim, case.gathered.layout, case.section[0].column
    said, published_evidence = by_paper(claim, layout, column.dataset, case.backbone, column.way, (column.shot,))
    outcome = _outcome(case, p_values)
    return Judged(
        sentence=claim.say,
        source=claim.source,
        table=claim.table,
        where=case.where,
        published=said,
        published_evidence=published_evidence,
        ours=outcome,
        evidence="; ".join([*map(_shown, case.tried), *case.obstacles]),
        hindrance="; ".join(case.hindrances) if outcome is Outcome.NOT_TESTED else "",
        more_seeds=_more_seeds(case, comparisons) if outcome is Outcome.UNDECIDED else None,
        p_holds=p_values[0] if p_values else None,
        p_fails=p_values[1] if p_values else None,
    )


def _outcome(case: _Case, p_values: tuple[float, float] | None) -> Outcome:
    if p_values is not None and p_values[0] < LEVEL:
        return Outcome.HOLDS
    if p_values is not None and p_values[1] < LEVEL:
        return Outcome.FAILS
    return Outcome.NOT_TESTED if case.obstacles or not case.tried else Outcome.UNDECIDED


def _untested(claim: Claim, layout: TableLayout) -> Judged:
    said, evidence = by_paper(claim, layout, "", "", 5, claim.shots or (1, 5))
    return Judged(
        sentence=claim.say,
        source=claim.source,
        table=claim.table,
        where="",
        published=said,
        published_evidence=evidence,
        ours=Outcome.NOT_TESTED,
        evidence=f"no section of table {claim.table} is planned for it",
    )


def _shown(tried: _Tried) -> str:
    """`alignments ODE − alignments 0: +1.20 [+0.40, +2.00]`, and what is claimed if it is not that this is above 0."""
    several = tried.compared.seeds > 1
    shown = tried.compared.method if several else of_two_models(tried.compared.pair)
    looked = tried.looked
    low, high = looked.interval if looked else (float(shown.low), float(shown.high))
    mean = looked.mean if looked else float(shown.mean)
    text = f"{tried.names}: {percent(mean, signed=True)} {interval(low, high)}"
    if looked and looked.goes_on:
        text += ", goes on"
    if tried.relation.says is Says.NOT_ABOVE:
        text += f", claimed: below {points(tried.margin)}"
    if tried.relation.says is Says.BY:
        text += f", claimed: {percent(tried.relation.by, signed=True)} within {points(tried.margin)}"
    return text if several else f"{text} (these two models, 1 seed)"


def _more_seeds(case: _Case, comparisons: int) -> int | None:
    """Enough for each relation that is not decided alone; None where seeds would not do, or looks decide on them."""
    rows = sum(place.found.accuracies is not None for place in case.section)
    found = []
    for each in case.tried:
        if min(each.p_holds, each.p_fails) >= LEVEL / comparisons:
            if each.looked:
                return None
            more = needed_for(each.from_bound, rows, comparisons, each.margin).more_seeds
            if more is None:
                return None
            found.append(more)
    return max(found, default=None)


def by_paper(
    claim: Claim, layout: TableLayout, dataset: str, backbone: str, way: int, shots: Sequence[int]
) -> tuple[Outcome, str]:
    """Whether a claim holds of the published numbers themselves, and the differences.

    As in the table's own column, these are of one source and one backbone. In a table of methods that is ours or, where
    no two of the claim's rows are published with it, the first with which they are. The claim fails by one relation; it
    holds only if all have numbers.
    """
    data = dataset if dataset in DATASETS and not layout.components else ABLATED[0]
    backbones = (ABLATED[1],) if layout.components else (published.backbone_in_paper(backbone), *published.BACKBONES)
    sources = dict.fromkeys(number.source for shot in shots for number in published.of_paper(data, way, shot))
    for each, source in itertools.product(backbones, sources):
        found = [
            (shot, relation, difference)
            for shot in shots
            for relation, difference in _published_differences(claim, layout, source, (each, data, way, shot))
        ]
        if any(difference is not None for _, _, difference in found):
            break
    else:
        return Outcome.NOT_TESTED, "no two of its rows are published together with one backbone"
    shown, outcomes = [], set[bool | None]()
    for shot, relation, difference in found:
        of = [f"{shot}-shot"] if len(shots) > 1 else []
        if not layout.components:
            of.append(published.BACKBONES[each] + ("" if data == dataset else f" on {DATASETS[data]}"))
        told = "not published together" if difference is None else percent(difference, signed=True)
        where = f" ({', '.join(of)})" if of else ""
        shown.append(f"{named(relation, layout)}: {told}{where}")
        outcomes.add(None if difference is None else _agrees(relation, difference, layout.margin))
    holds = Outcome.NOT_TESTED if None in outcomes else Outcome.HOLDS
    return (Outcome.FAILS if False in outcomes else holds), "; ".join(shown)


def _agrees(relation: Relation, difference: float, margin: float) -> bool:
    if relation.says is Says.ABOVE:
        return difference > 0
    if relation.says is Says.NOT_ABOVE:
        return difference < margin
    return abs(difference - relation.by) < 1e-4 + 1e-9  # both are rounded to 0.01 points


def _published_differences(
    claim: Claim, layout: TableLayout, source: str, place: tuple[str, str, int, int]
) -> list[tuple[Relation, float | None]]:
    """What a claim says of the rows that a source has for a backbone, data set, way and shot, with the differences."""
    of_layout = [(row.value, row.published) for row in layout.values if row.published]
    numbers = [(value, published.in_paper(name, *place)) for value, name in of_layout]
    found = [(value, number.accuracy) for value, number in numbers if number and number.source == source]
    differences: list[tuple[Relation, float | None]] = []
    for relation in relations(claim, [value for value, _ in found]):
        pair = [accuracy for wanted in relation[:2] for value, accuracy in found if is_same(value, wanted)]
        differences.append((relation, pair[0] - pair[1] if len(pair) == 2 else None))
    return differences
