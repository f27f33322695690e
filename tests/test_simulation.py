"""The simulation of `benchmarks.statistics` draws what whole arrays would give, and judges as the report does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.classes import ClassCase, over_classes
from benchmarks.statistics import EPISODE_SD, POINT, REST_SD, Case, draw, estimates, measure
from reports.statistics.classes import NOISE_TAKEN_OFF
from reports.statistics.pairs import of_methods, of_methods_alone, paired
from reports.statistics.spread import pooled, section_spreads, without_odd_rows


def test_what_is_drawn_has_the_moments_of_whole_arrays() -> None:
    case, tables, random = Case((0.0, 0.5), 1, 3, 40, 0.5), 4_000, np.random.default_rng(0)
    drawn = draw(case, tables, random)
    truth = np.array([0.0, 0.0, 0.5]) * POINT
    whole = []
    for _ in range(tables):
        accuracies = truth[:, None, None] + random.normal(0, 0.5 * POINT, (3, 3, 1))
        accuracies = accuracies + random.normal(0, 0.5 * POINT, (1, 3, 1)) + random.normal(0, 9 * POINT, (1, 1, 40))
        accuracies = accuracies + random.normal(0, EPISODE_SD, (3, 1, 40)) + random.normal(0, REST_SD, (3, 3, 40))
        whole.append(paired(accuracies[2], accuracies[0]))
    (pairs,) = drawn.pairs
    for name in ("mean", "over_seeds", "over_episodes", "rest"):
        ours, theirs = getattr(pairs[1], name), np.array([getattr(pair, name) for pair in whole])
        error = 5 * theirs.std() / np.sqrt(tables)
        assert ours.mean() == pytest.approx(theirs.mean(), abs=error), name
        assert ours.std() == pytest.approx(theirs.std(), rel=0.08), name


@pytest.mark.parametrize("missing", [(), ((1, 0), (2, 1))])
def test_many_tables_at_once_are_judged_as_each_by_the_report(missing: tuple[tuple[int, int], ...]) -> None:
    case = Case((0.0, 0.0, 0.0), 2, 4, 600, 0.3, odd_sd=3.0, missing=missing)
    drawn = draw(case, 40, np.random.default_rng(1))
    answers, freedom = estimates(drawn)
    odd_found = 0
    for table in range(40):
        left, odd = without_odd_rows([means[table] for means in drawn.means])
        odd_found += sum(map(len, odd))
        for section, (pairs, spread) in enumerate(zip(drawn.pairs, section_spreads(left, pooled(left)), strict=True)):
            assert spread.freedom <= freedom
            for row, pair in enumerate(pairs, start=1):
                one = type(pair)(*(value if isinstance(value, int) else value[table] for value in vars(pair).values()))
                expected = of_methods_alone(one) if {0, row} & odd[section] else of_methods(one, spread)
                found = answers[section][row - 1]
                assert found.error[table] == pytest.approx(float(expected.error))
                assert found.freedom[table] == pytest.approx(float(expected.freedom))
    assert odd_found > 10


def test_a_short_run_covers_and_keeps_its_level() -> None:
    found = measure(Case((0.0,) * 4, 2, 3, 2_000, 0.5), 1_500, np.random.default_rng(2))
    assert found.freedom == 16
    assert 0.93 < found.coverage.mean() < 0.975
    assert found.false_tables < 0.05


def test_the_interval_over_classes_covers_a_population_of_them_and_that_over_episodes_does_not() -> None:
    case = ClassCase("own 1.1, other 1.1", 1.1, 1.1, episodes=600)
    found = over_classes(case, 600, np.random.default_rng(3))
    assert 94 < found["coverage %"] < 99.5
    assert found["episodes' interval %"] < 75
    # Those that are not used: leaving out answers misses what a class does to its rivals.
    assert found["answers %"] < 90 and found["all off %"] < 93.5
    assert found["half-width"] < found["nothing off, half-width"]


@pytest.mark.parametrize(("classes", "least"), [(7, 93.4), (8, 94.3), (10, 95.0), (20, 95.0), (160, 95.0)])
def test_half_of_the_noise_taken_off_keeps_the_level_whatever_the_effects(classes: int, least: float) -> None:
    """For normal and additive effects J is its mean times chi-squared over C - 1; v is 1, and a mean's variance T."""
    freedom, noise = classes - 1, 5 * (classes - 1) / (classes - 5)
    chi = stats.chi2.ppf(np.arange(0.0005, 1, 0.001), freedom) / freedom
    coverage = []
    for variance in np.geomspace(1, 300, 40):
        part = np.maximum((variance + noise - 1) * chi - NOISE_TAKEN_OFF * (noise - 1), 1)
        coverage.append(np.mean(2 * stats.norm.cdf(stats.t.ppf(0.975, freedom) * np.sqrt(part / variance)) - 1))
    assert 100 * min(coverage) == pytest.approx(least, abs=0.11)
