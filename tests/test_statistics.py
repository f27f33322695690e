"""Statistics against numbers worked by hand, against scipy, and against what must be true of them."""

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
    difference = st.paired_difference(ours, baseline, seed=0)
    assert difference.test == "paired t-test"
    assert difference.mean == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.2 - 0.1299228, 0.2 + 0.1299228), abs=1e-6)
    assert difference.p == pytest.approx(0.016280, abs=1e-5)


def test_paired_t_is_scipys() -> None:
    random = np.random.default_rng(3)
    ours, baseline = random.random((1, 50)), random.random((1, 50))
    expected = stats.ttest_rel(ours[0], baseline[0])
    interval = expected.confidence_interval(0.95)
    found = st.paired_difference(ours, baseline, seed=0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_pairing_takes_the_episodes_difficulty_out() -> None:
    random = np.random.default_rng(0)
    hardness = random.normal(0, 0.1, 500)
    ours, baseline = 0.61 + hardness + random.normal(0, 0.01, 500), 0.60 + hardness + random.normal(0, 0.01, 500)
    assert st.paired_difference(ours[None], baseline[None], 0).p < 1e-6
    assert stats.ttest_ind(ours, baseline).pvalue > 0.05


def test_equal_accuracies_do_not_differ_and_a_constant_gain_does() -> None:
    values = np.array([[0.5, 0.75, 0.25]])
    assert st.paired_difference(values, values, 0) == st.Difference(0, 0, 0, 1.0, "paired t-test")
    gain = st.paired_difference(values + 0.125, values, 0)
    assert (gain.low, gain.high, gain.p) == (0.125, 0.125, 0.0)


def test_pairs_need_equal_shapes_and_two_episodes() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        st.paired_difference(np.zeros((1, 3)), np.zeros((1, 4)), 0)
    with pytest.raises(ValueError, match="at least 2"):
        st.paired_difference(np.zeros((1, 1)), np.zeros((1, 1)), 0)


def _differences(seeds: int, episodes: int, seed_spread: float, episode_spread: float) -> np.ndarray:
    random = np.random.default_rng(7)
    of_seeds = random.normal(0, seed_spread, (seeds, 1))
    return 0.02 + of_seeds + random.normal(0, episode_spread, (1, episodes))


def test_two_seeds_are_averaged_and_three_are_resampled() -> None:
    baseline = np.full((3, 40), 0.5)
    ours = baseline + _differences(3, 40, 0.01, 0.01)
    two = st.paired_difference(ours[:2], baseline[:2], 0)
    assert two == st.paired_t((ours[:2] - baseline[:2]).mean(axis=0))
    assert st.paired_difference(ours, baseline, 0).test == "hierarchical bootstrap"


def test_bootstrap_repeats_with_its_seed_and_differs_with_another() -> None:
    differences = _differences(4, 50, 0.02, 0.02)
    assert st.hierarchical_bootstrap(differences, 1) == st.hierarchical_bootstrap(differences, 1)
    other = st.hierarchical_bootstrap(differences, 2)
    assert other.low != st.hierarchical_bootstrap(differences, 1).low


def test_bootstrap_leaves_numpys_global_random_numbers_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    st.hierarchical_bootstrap(_differences(3, 20, 0.1, 0.1), 0)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[union-attr]


def test_bootstrap_interval_has_the_width_of_both_spreads() -> None:
    # Seeds' effects -.03, 0, .03 and no other spread: a resample's mean has variance (mean square .0006) / 3
    of_seeds = np.array([[-0.03], [0.0], [0.03]]) + np.zeros((1, 400))
    found = st.hierarchical_bootstrap(of_seeds, 0)
    assert (found.low, found.high) == pytest.approx((-0.03, 0.03))
    # Episodes alone, shared by all seeds: the interval is that of the episodes, not a third of its variance.
    episodes = np.random.default_rng(0).normal(0, 0.1, 400)
    shared = st.hierarchical_bootstrap(np.tile(episodes, (3, 1)), 0)
    assert (shared.high - shared.low) / 2 == pytest.approx(1.96 * episodes.std() / 20, rel=0.1)


def test_bootstrap_p_is_small_for_a_gain_in_every_seed_and_large_around_zero() -> None:
    gain = _differences(5, 100, 0.001, 0.01)
    assert st.hierarchical_bootstrap(gain, 0, resamples=999).p == pytest.approx(2 / 1000)
    assert st.hierarchical_bootstrap(gain - gain.mean(), 0).p > 0.5


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, made monotone: .04 .06 .06 .06
    assert st.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert st.holm([0.6, 0.7]) == [1.0, 1.0]
    assert st.holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.006, 0.014, 0.001, "better"),
        (-0.014, -0.006, 0.001, "worse"),
        (0.001, 0.009, 0.02, "better"),
        (0.001, 0.009, 0.08, "undecided"),
        (-0.001, 0.009, 0.2, "undecided"),
        (-0.004, 0.004, 0.9, "same within 0.5"),
        (0.001, 0.004, 0.001, "same within 0.5"),
        (-0.005, 0.004, 0.9, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, p: float, expected: str) -> None:
    assert st.verdict(st.Difference((low + high) / 2, low, high, p, ""), p) == expected


def test_against_published_by_hand() -> None:
    # .03 and .04 join to .05; with 4 seeds of sd .12 / 1.96 comes 1.96 sd / 2 = .06: sqrt(.0025 + .0036) = .0781
    difference, half, verdict = st.against_published(0.70, 0.03, None, 1, 0.66, 0.04)
    assert (difference, half, verdict) == (pytest.approx(0.04), pytest.approx(0.05), "consistent")
    assert st.against_published(0.72, 0.03, None, 1, 0.66, 0.04)[2] == "above"
    assert st.against_published(0.60, 0.03, None, 1, 0.66, 0.04)[2] == "below"
    _, half, verdict = st.against_published(0.60, 0.03, 0.12 / 1.96, 4, 0.66, 0.04)
    assert (half, verdict) == (pytest.approx(0.0781025), "consistent")
