"""Rows against others, tested and decided for a whole table, and the rows that may be the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.cells import AgainstBaseline, OtherClasses
from reports.classes import difference_over_classes
from reports.collect import State
from reports.deciding import with_looks
from reports.layouts import RowValue, TableLayout, is_same
from reports.looks import Looks, courses
from reports.places import Place, baseline_of, common_seeds, nearest, on_both
from reports.published import Published
from reports.spreads import Compared, SeedSpread, compare, compare_unpaired
from reports.statistics.best import shown_below
from reports.statistics.needed import Needed, needed
from reports.statistics.pairs import of_two_models
from reports.statistics.verdicts import Verdict, adjust, margin_below, verdicts


@dataclass(frozen=True, eq=False)
class Question:
    """Is a row better than another of its section?"""

    place: Place
    other: Place | None
    """None: no such row is planned."""
    other_name: str


def against_baseline(layout: TableLayout, section: Sequence[Place]) -> list[Question]:
    """Each planned row of a section against its baseline."""
    return [
        Question(place, baseline_of(layout, place, section), layout.baseline_name)
        for place in section
        if place.planned and not place.row.reference and not place.row.is_baseline
    ]


def asked(layout: TableLayout, section: Sequence[Place]) -> list[Question]:
    """The further pairs of rows that a layout compares, for each backbone."""
    return [
        Question(place, nearest(layout, place, others), layout.name_of(layout.label_of(theirs)))
        for ours, theirs in layout.compare
        for others in [[place for place in section if _has_value(place, theirs)]]
        for place in section
        if place.planned and _has_value(place, ours)
    ]


def _has_value(place: Place, value: RowValue) -> bool:
    return not place.row.reference and is_same(place.row.value, value)


def answers(
    layout: TableLayout,
    sections: Sequence[Sequence[Place]],
    questions: Sequence[Sequence[Question]],
    spread: SeedSpread,
    published: dict[Place, Published | None],
    looks: Looks | None = None,
) -> dict[Question, AgainstBaseline]:
    """Answers the questions about each section; p is adjusted over all the tests of methods among them.

    Where `looks` decide rows of this table, the verdicts are theirs.
    """
    by_looks = courses(looks, layout.name) if looks else {}
    found: dict[Question, AgainstBaseline] = {}
    compared: dict[Question, Compared] = {}
    over_classes: dict[Question, OtherClasses] = {}
    rows: dict[Question, int] = {}
    for section, about in zip(sections, questions, strict=True):
        for question in about:
            found[question] = _unpaired_answer(layout, question, published)
            if question.other is not None and not found[question].obstacle:
                each = compared[question] = compare(question.place, question.other, spread)
                over_classes[question] = difference_over_classes(question.place, question.other, each)
                rows[question] = sum(place.found.accuracies is not None for place in section)
    margins = {q: margin_of(layout, q.place, q.other) for q in compared if q.other}
    decided = _decide({q: (each, margins[q]) for q, each in compared.items() if each.seeds > 1})
    for question, each in compared.items():
        answer = found[question].replace(
            **_estimates(each),
            other_classes=over_classes[question],
            margin=margins[question],
            verdict=Verdict.UNDECIDED,
        )
        if question in decided:
            p_holm, p_same_holm, verdict = decided[question]
            answer = answer.replace(p_holm=p_holm, p_same_holm=p_same_holm, verdict=verdict)
        if by_looks and question.other is not None:
            answer = with_looks(answer, question.place, question.other, by_looks)
        if answer.verdict is Verdict.UNDECIDED and not answer.goes_on:
            more = needed_for(each, rows[question], len(by_looks or compared), margins[question])
            answer = answer.replace(more_seeds=more.more_seeds, episodes_needed=more.episodes)
        found[question] = answer
    return found


def needed_for(each: Compared, rows: int, comparisons: int, margin: float) -> Needed:
    """What would decide one of a table's `comparisons`, in a section of `rows`."""
    if each.single:
        return Needed()
    return needed(each.pair, each.seed_variance / 2, rows if each.pooled else 2, comparisons, margin)


def margin_of(layout: TableLayout, place: Place, other: Place) -> float:
    """The margin of a comparison: the layout's, or less where the other row is near 100 %."""
    return margin_below(layout.margin, float(on_both(place, other, common_seeds(place, other))[1].mean()))


def _decide(tested: Mapping[Question, tuple[Compared, float]]) -> dict[Question, tuple[float, float, Verdict]]:
    """Both adjusted p-values and the verdict of each comparison, given with its margin."""
    if not tested:
        return {}
    each_one = list(tested.values())
    means = np.array([float(each.method.mean) for each, _ in each_one])
    # Differences that are all equal, as between saturated rows, say nothing about how they vary.
    varies = np.array([each.method.error > 0 for each, _ in each_one])
    p_differ = np.where(varies, [float(each.method.p) for each, _ in each_one], 1.0)
    p_beyond = np.where(varies, [float(each.method.p_beyond(margin)) for each, margin in each_one], 1.0)
    p_holm, p_same_holm = adjust(p_differ, p_beyond)
    said = verdicts(means, p_holm, p_same_holm)
    return {
        question: (float(p), float(p_same), Verdict(word))
        for question, p, p_same, word in zip(tested, p_holm, p_same_holm, said, strict=True)
    }


def _estimates(each: Compared) -> dict[str, object]:
    """The interval of the methods or, with one seed, that of these two models and beside it the methods'."""
    shown = each.method if each.seeds > 1 else of_two_models(each.pair)
    numbers: dict[str, object] = {
        "difference": float(shown.mean),
        "low": float(shown.low),
        "high": float(shown.high),
        "p": float(shown.p),
        "test": each.test,
    }
    if each.seeds == 1:
        numbers |= {
            "method_low": float(each.method.low),
            "method_high": float(each.method.high),
            "sd_used": each.sd,
            "sd_freedom": each.sd_freedom,
            "single": each.single,
        }
    return numbers


def _unpaired_answer(
    layout: TableLayout, question: Question, published: dict[Place, Published | None]
) -> AgainstBaseline:
    """What can be said without a test, and the obstacle to one if there is any."""
    place, base = question.place, question.other
    what = "baseline" if question.other_name == layout.baseline_name or (base and base.row.is_baseline) else "other row"
    if base is None:
        return AgainstBaseline(baseline=question.other_name, obstacle=f"{what} {State.NOT_PLANNED}")
    assert place.planned is not None and base.planned is not None
    theirs, their_base = published[place], published[base]
    seeds = common_seeds(place, base)
    also_differs = layout.also_differs(place.planned.config, base.planned.config)
    why = obstacle(layout, place, base, what)
    answer = AgainstBaseline(
        baseline=base.row.name,
        baseline_variant=base.row.variant,
        seeds=() if why else seeds,
        published_difference=theirs.accuracy - their_base.accuracy
        if theirs and their_base and theirs.source == their_base.source
        else None,
        also_differs=also_differs,
        recipe_differs=tuple(
            f"{path}={place.planned.config.at(path)}"
            for path in layout.recipe_differs(place.planned.config, base.planned.config)
        ),
        obstacle=why,
    )
    same_episodes = place.planned.evaluation.tested == base.planned.evaluation.tested
    seen_all = all(each.has_no_luck or set(each.found.seeds) == set(seeds) for each in (place, base))
    if why or (same_episodes and seen_all):
        return answer
    ours, its = on_both(place, base, seeds)
    return answer.replace(accuracy=float(ours.mean()), baseline_accuracy=float(its.mean()))


def obstacle(layout: TableLayout, place: Place, other: Place, what: str = "other row") -> str:
    """Why two rows cannot be compared; empty if they can."""
    assert place.planned is not None and other.planned is not None
    if also_differs := layout.also_differs(place.planned.config, other.planned.config):
        return f"not comparable (also differs: {', '.join(also_differs)})"
    if place.found.accuracies is None:
        return place.found.state.value
    if other.found.accuracies is None:
        return f"{what} {other.found.state}"
    if other.found.bank != place.found.bank:
        return f"not paired: the {what} has other episodes or images"
    if not common_seeds(place, other):
        return f"not paired: the {what} has other seeds"
    if set(place.found.training_keys) & set(other.found.training_keys):
        return f"the same training as the {what}"
    return ""


def among_best(section: Sequence[Place], spread: SeedSpread) -> set[Place]:
    """The places of a section that no other is shown to exceed; none where nothing is to be compared.

    Dunnett's constant bounds the largest of a row's comparisons with all the others, so each may be tried. Rows without
    a seed or episodes in common are compared unpaired.
    """
    rivals = [place for place in section if place.found.accuracies is not None]
    if len(rivals) < 2:
        return set()
    return {
        place
        for place in rivals
        if not any(_below(place, rival, spread, len(rivals)) for rival in rivals if rival is not place)
    }


def _below(place: Place, rival: Place, spread: SeedSpread, rows: int) -> bool:
    paired = place.found.bank == rival.found.bank and common_seeds(place, rival)
    method = compare(rival, place, spread).method if paired else compare_unpaired(rival, place, spread)
    return shown_below(method, rows)
