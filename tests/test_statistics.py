"""Statistics compared with numbers computed by hand, with scipy, and with properties that have to hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reports import statistics as st


def test_mean_and_interval_by_hand() -> None:
    # mean 0.6; squared deviations .04 + .04 + 0 + 0 = .08, std = sqrt(.08 / 4) = .141421
    # 1.96 * .141421 / sqrt(4) = .138593
    mean, ci95 = st.mean_ci95([0.4, 0.8, 0.6, 0.6])
    assert mean == pytest.approx(0.6, abs=1e-12)
    assert ci95 == pytest.approx(0.1385929, abs=1e-7)


def test_interval_counts_its_episodes_from_the_data() -> None:
    once = st.mean_ci95([0.4, 0.8, 0.6, 0.6])[1]
    assert st.mean_ci95([0.4, 0.8, 0.6, 0.6] * 4)[1] == pytest.approx(once / 2)


@pytest.mark.parametrize("nothing", [[], [[0.5, 0.5]]])
def test_interval_of_no_vector_is_refused(nothing: list) -> None:
    with pytest.raises(ValueError, match="shape"):
        st.mean_ci95(nothing)


def test_sd_over_seeds_by_hand() -> None:
    # seeds' means .5, .6, .7: sd with divisor 2 is .1; one seed has none
    accuracies = np.array([[0.4, 0.6], [0.5, 0.7], [0.7, 0.7]])
    assert st.seed_sd(accuracies) == pytest.approx(0.1)
    assert st.seed_sd(accuracies[:1]) is None


def test_paired_t_by_hand() -> None:
    # differences .1, .3, .2, .2: mean .2, sd = sqrt(.02 / 3) = .0816497, error = .0408248, t = 4.898979
    # 3 degrees of freedom: t_.975 = 3.182446, half = .129923; p = .016280 (t table: between .01 and .02)
    ours = np.array([[0.5, 0.9, 0.6, 0.7]])
    baseline = np.array([[0.4, 0.6, 0.4, 0.5]])
    difference = st.paired_difference(ours, baseline)
    assert difference.test == st.PairedTest.OVER_EPISODES
    assert difference.mean == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.2 - 0.1299228, 0.2 + 0.1299228), abs=1e-6)
    assert difference.p == pytest.approx(0.016280, abs=1e-5)


def test_paired_t_is_scipys() -> None:
    random = np.random.default_rng(3)
    ours, baseline = random.random((1, 50)), random.random((1, 50))
    expected = stats.ttest_rel(ours[0], baseline[0])
    interval = expected.confidence_interval(0.95)
    found = st.paired_difference(ours, baseline)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_pairing_takes_the_episodes_difficulty_out() -> None:
    random = np.random.default_rng(0)
    hardness = random.normal(0, 0.1, 500)
    ours, baseline = 0.61 + hardness + random.normal(0, 0.01, 500), 0.60 + hardness + random.normal(0, 0.01, 500)
    assert st.paired_difference(ours[None], baseline[None]).p < 1e-6
    assert stats.ttest_ind(ours, baseline).pvalue > 0.05


def test_equal_accuracies_do_not_differ_and_a_constant_gain_does() -> None:
    values = np.array([[0.5, 0.75, 0.25]])
    assert st.paired_difference(values, values) == st.Difference(0, 0, 0, 1.0, st.PairedTest.OVER_EPISODES)
    gain = st.paired_difference(values + 0.125, values)
    assert (gain.low, gain.high, gain.p) == (0.125, 0.125, 0.0)


def test_pairs_need_equal_shapes_and_two_episodes() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        st.paired_difference(np.zeros((1, 3)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        st.paired_difference(np.zeros((1, 1)), np.zeros((1, 1)))


def test_two_seeds_are_averaged_and_three_are_covered() -> None:
    baseline = np.full((3, 40), 0.5)
    ours = baseline + 0.02 + np.random.default_rng(7).normal(0, 0.01, (3, 40))
    two = st.paired_difference(ours[:2], baseline[:2])
    averaged = st.paired_difference(ours[:2].mean(axis=0, keepdims=True), baseline[:1])
    assert (two.low, two.high, two.p) == pytest.approx((averaged.low, averaged.high, averaged.p))
    assert two.test == st.PairedTest.OVER_EPISODES
    assert st.paired_difference(ours, baseline).test == st.PairedTest.OVER_SEEDS


def test_three_seeds_by_hand() -> None:
    # seeds' means 0, .02, .04: variance .0004, over 3 seeds .000133333
    # episodes' means .01, .03, .01, .03: mean .02, variance .0004 / 3 = .000133333, over 4 episodes .000033333
    # error = sqrt(.000166667) = .0129099, t = 1.549193; 2 degrees of freedom: t_.975 = 4.302653, half = .055547
    # and p = 1 - t / sqrt(2 + t^2) = 1 - 1.549193 / sqrt(4.4) = .261451
    differences = np.array([[0.0], [0.02], [0.04]]) + np.array([-0.01, 0.01, -0.01, 0.01])
    found = st.paired_difference(0.5 + differences, np.full((3, 4), 0.5))
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - 0.0555470, 0.02 + 0.0555470), abs=1e-6)
    assert found.p == pytest.approx(0.261451, abs=1e-6)


def test_seeds_that_agree_leave_the_episodes_variance() -> None:
    # Episodes are shared by all seeds, so their error is not divided by the number of seeds.
    episodes = np.random.default_rng(0).normal(0, 0.1, 400)
    shared = st.paired_difference(np.tile(episodes, (3, 1)), np.zeros((3, 400)))
    assert (shared.high - shared.low) / 2 == pytest.approx(4.302653 * episodes.std(ddof=1) / 20)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("seed_spread", "lowest"), [(0.05, 0.03), (0.002, 0.0)])
def test_a_true_null_is_rejected_in_one_case_of_twenty(seeds: int, seed_spread: float, lowest: float) -> None:
    # Each training's gain is its seed's luck. Over 100 episodes the episodes' error is .002: nothing beside a luck of
    # .05. Where the episodes weigh as much as the seeds, so few degrees of freedom are cautious: no lower bound.
    random, repetitions = np.random.RandomState(11), 800
    rejected = 0
    for _ in range(repetitions):
        luck = random.normal(0, seed_spread, (seeds, 1)) + random.normal(0, 0.02, (1, 100))
        ours = 0.6 + luck + random.normal(0, 0.02, (seeds, 100))
        rejected += st.paired_difference(ours, np.full((seeds, 100), 0.6)).p < st.LEVEL
    assert lowest < rejected / repetitions + 1e-9 < 0.09


def test_a_gain_in_every_seed_is_found() -> None:
    random = np.random.default_rng(1)
    gain = 0.03 + random.normal(0, 0.005, (5, 1)) + random.normal(0, 0.02, (5, 400))
    found = st.paired_difference(0.6 + gain, np.full((5, 400), 0.6))
    assert found.p < 0.01 and 0 < found.low < 0.03 < found.high


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, made monotone: .04 .06 .06 .06
    assert st.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert st.holm([0.6, 0.7]) == [1.0, 1.0]
    assert st.holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.006, 0.014, 0.001, st.Verdict.BETTER),
        (-0.014, -0.006, 0.001, st.Verdict.WORSE),
        (0.001, 0.009, 0.02, st.Verdict.BETTER),
        (0.001, 0.009, 0.08, st.Verdict.UNDECIDED),
        (-0.001, 0.009, 0.2, st.Verdict.UNDECIDED),
        (-0.004, 0.004, 0.9, st.Verdict.SAME),
        (0.001, 0.004, 0.001, st.Verdict.SAME),
        (-0.005, 0.004, 0.9, st.Verdict.UNDECIDED),
    ],
)
def test_verdicts(low: float, high: float, p: float, expected: st.Verdict) -> None:
    assert st.verdict(st.Difference((low + high) / 2, low, high, p, st.PairedTest.OVER_EPISODES), p) == expected


def test_the_margin_is_worded_in_points() -> None:
    assert st.Verdict.SAME == "same within 0.5"


def test_against_published_by_hand() -> None:
    # .03 and .04 join to .05; 4 seeds of sd .12 / t add t sd / 2 = .06, with t_.975 = 3.182446 for 3 degrees of
    # freedom: sqrt(.0025 + .0036) = .0781
    difference, half, verdict = st.against_published(0.70, 0.03, None, 1, 0.66, 0.04)
    assert (difference, half, verdict) == (pytest.approx(0.04), pytest.approx(0.05), st.PublishedVerdict.CONSISTENT)
    assert st.against_published(0.72, 0.03, None, 1, 0.66, 0.04)[2] == st.PublishedVerdict.ABOVE
    assert st.against_published(0.60, 0.03, None, 1, 0.66, 0.04)[2] == st.PublishedVerdict.BELOW
    _, half, verdict = st.against_published(0.60, 0.03, 0.12 / 3.182446, 4, 0.66, 0.04)
    assert (half, verdict) == (pytest.approx(0.0781025), st.PublishedVerdict.CONSISTENT)


def test_two_seeds_say_little_against_published() -> None:
    # t_.975 = 12.706205 for one degree of freedom: 12.706205 * .01 / sqrt(2) = .0898464
    _, half, verdict = st.against_published(0.60, 0.0, 0.01, 2, 0.66, 0.0)
    assert (half, verdict) == (pytest.approx(0.0898464, abs=1e-6), st.PublishedVerdict.CONSISTENT)
