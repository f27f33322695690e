"""Rows against their baselines, tested and decided for a whole table, and the rows that may be the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports.cells import AgainstBaseline
from reports.collect import State
from reports.deciding import with_looks
from reports.looks import Looks, courses
from reports.places import Place, baseline_of, common_seeds, is_baseline
from reports.published import Published
from reports.spreads import Compared, SeedSpread, compare
from reports.statistics.best import shown_below
from reports.statistics.needed import needed
from reports.statistics.pairs import PairedTest, of_two_models
from reports.statistics.verdicts import Verdict, adjust, verdicts
from reports.tables import TableLayout


def compare_with_baselines(
    layout: TableLayout,
    columns: Sequence[Sequence[Place]],
    spread: SeedSpread,
    published: dict[Place, Published | None],
    looks: Looks | None = None,
) -> dict[Place, AgainstBaseline]:
    """Compares each planned row with its baseline; p is adjusted over the table's tests of methods.

    Where `looks` decide rows of this table, the verdicts are theirs.
    """
    by_looks = courses(looks, layout.name) if looks else {}
    answers: dict[Place, AgainstBaseline] = {}
    compared: dict[Place, Compared] = {}
    rows: dict[Place, int] = {}
    bases: dict[Place, Place] = {}
    for section in columns:
        for place in section:
            if place.planned is None or place.row.reference or is_baseline(layout, place.row):
                continue
            base = baseline_of(layout, place, section)
            answers[place] = _unpaired_answer(layout, place, base, published)
            if base is not None and not answers[place].obstacle:
                compared[place] = compare(place, base, spread)
                bases[place] = base
                rows[place] = sum(p.found.accuracies is not None for p in section)
    decided = _decide([each for each in compared.values() if each.seeds > 1], layout.margin)
    for place, each in compared.items():
        answer = answers[place].replace(
            **_estimates(each, spread.sd_of(place)), margin=layout.margin, verdict=Verdict.UNDECIDED
        )
        if each.seeds > 1:
            p_holm, p_same_holm, verdict = decided[id(each)]
            answer = answer.replace(p_holm=p_holm, p_same_holm=p_same_holm, verdict=verdict)
        if by_looks:
            answer = with_looks(answer, place, bases[place], by_looks)
        if answer.verdict is Verdict.UNDECIDED and not answer.goes_on:
            own = each.test is PairedTest.OWN
            variance = float(each.pair.over_seeds) / 2 if own else spread.sd_of(place) ** 2
            more = needed(each.pair, variance, 2 if own else rows[place], len(by_looks or compared), layout.margin)
            answer = answer.replace(more_seeds=more.more_seeds, episodes_needed=more.episodes)
        answers[place] = answer
    return answers


def _decide(tested: Sequence[Compared], margin: float) -> dict[int, tuple[float, float, Verdict]]:
    """By identity of a comparison: both adjusted p-values and the verdict."""
    if not tested:
        return {}
    means = np.array([float(each.method.mean) for each in tested])
    # Differences that are all equal, as between saturated rows, say nothing about how they vary.
    varies = np.array([each.method.error > 0 for each in tested])
    p_differ = np.where(varies, [float(each.method.p) for each in tested], 1.0)
    p_beyond = np.where(varies, [float(each.method.p_beyond(margin)) for each in tested], 1.0)
    p_holm, p_same_holm = adjust(p_differ, p_beyond)
    said = verdicts(means, p_holm, p_same_holm)
    return {
        id(each): (float(p), float(p_same), Verdict(word))
        for each, p, p_same, word in zip(tested, p_holm, p_same_holm, said, strict=True)
    }


def _estimates(each: Compared, sd: float) -> dict[str, object]:
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
            "sd_used": sd,
            "sd_freedom": None if each.assumed else float(each.method.freedom),
        }
    return numbers


def _unpaired_answer(
    layout: TableLayout, place: Place, base: Place | None, published: dict[Place, Published | None]
) -> AgainstBaseline:
    """What can be said without a test, and the obstacle to one if there is any."""
    if base is None:
        name = layout.row_name.format(layout.labels[layout.baseline])
        return AgainstBaseline(baseline=name, obstacle=f"baseline {State.NOT_PLANNED}")
    assert place.planned is not None and base.planned is not None
    theirs, their_base = published[place], published[base]
    seeds = common_seeds(place, base)
    also_differs = layout.also_differs(place.planned.config, base.planned.config)
    obstacle = ""
    if also_differs:
        obstacle = f"not comparable (also differs: {', '.join(also_differs)})"
    elif place.found.accuracies is None:
        obstacle = place.found.state.value
    elif base.found.accuracies is None:
        obstacle = f"baseline {base.found.state}"
    elif base.found.bank != place.found.bank:
        obstacle = "not paired: the baseline has other episodes or images"
    elif not seeds:
        obstacle = "not paired: the baseline has other seeds"
    elif set(place.found.training_keys) & set(base.found.training_keys):
        obstacle = "the same training as the baseline"
    answer = AgainstBaseline(
        baseline=base.row.name,
        baseline_variant=base.row.variant,
        seeds=() if obstacle else seeds,
        published_difference=theirs.accuracy - their_base.accuracy if theirs and their_base else None,
        also_differs=also_differs,
        obstacle=obstacle,
    )
    if obstacle or (set(seeds) == set(place.found.seeds) == set(base.found.seeds)):
        return answer
    return answer.replace(
        accuracy=float(place.found.of_seeds(seeds).mean()),
        baseline_accuracy=float(base.found.of_seeds(seeds).mean()),
    )


def among_best(section: Sequence[Place], spread: SeedSpread) -> set[Place]:
    """The places of a section that no other is shown to exceed; none where nothing is to be compared.

    Dunnett's constant bounds the largest of a row's comparisons with all the others, so each may be tried.
    """
    rivals = [place for place in section if place.found.accuracies is not None]
    if len(rivals) < 2:
        return set()
    return {
        place
        for place in rivals
        if not any(_below(place, rival, spread, len(rivals)) for rival in rivals if _accuracy(rival) > _accuracy(place))
    }


def _below(place: Place, rival: Place, spread: SeedSpread, rows: int) -> bool:
    if place.found.bank != rival.found.bank or not common_seeds(place, rival):
        return False
    return shown_below(compare(rival, place, spread).method, rows)


def _accuracy(place: Place) -> float:
    assert place.found.accuracies is not None
    return float(place.found.accuracies.mean())
