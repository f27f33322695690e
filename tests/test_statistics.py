"""Statistics compared with numbers computed by hand, with scipy, and with properties that have to hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reports.statistics.best import dunnett, shown_below
from reports.statistics.cells import mean_ci95, seed_sd
from reports.statistics.needed import Needed, needed
from reports.statistics.pairs import (
    Estimate,
    Pair,
    of_methods,
    of_methods_alone,
    of_methods_given,
    of_two_models,
    paired,
)
from reports.statistics.paper import PublishedVerdict, against_published, total_half
from reports.statistics.spread import (
    Spread,
    cell_spread,
    excess_p,
    pooled,
    residual_spread,
    section_spreads,
    without_odd_rows,
)
from reports.statistics.verdicts import MARGIN, Verdict, adjust, verdicts

NAN = np.nan


def test_mean_and_interval_by_hand() -> None:
    # mean 0.6; squared deviations .04 + .04 + 0 + 0 = .08, std = sqrt(.08 / 4) = .141421
    # 1.96 * .141421 / sqrt(4) = .138593
    mean, ci95 = mean_ci95([0.4, 0.8, 0.6, 0.6])
    assert mean == pytest.approx(0.6, abs=1e-12)
    assert ci95 == pytest.approx(0.1385929, abs=1e-7)


def test_interval_counts_its_episodes_from_the_data() -> None:
    once = mean_ci95([0.4, 0.8, 0.6, 0.6])[1]
    assert mean_ci95([0.4, 0.8, 0.6, 0.6] * 4)[1] == pytest.approx(once / 2)


@pytest.mark.parametrize("nothing", [[], [[0.5, 0.5]]])
def test_interval_of_no_vector_is_refused(nothing: list) -> None:
    with pytest.raises(ValueError, match="shape"):
        mean_ci95(nothing)


def test_sd_over_seeds_by_hand() -> None:
    # seeds' means .5, .6, .7: sd with divisor 2 is .1; one seed has none
    accuracies = np.array([[0.4, 0.6], [0.5, 0.7], [0.7, 0.7]])
    assert seed_sd(accuracies) == pytest.approx(0.1)
    assert seed_sd(accuracies[:1]) is None


def test_residuals_by_hand() -> None:
    # row means .6 .7, seeds' means .62 .68, all .65: residuals of the first row are .60 - .6 - .62 + .65 = .03 and
    # .60 - .6 - .68 + .65 = -.03, of the second the opposite: squares 4 * .0009, freedom (2 - 1)(2 - 1)
    spread = residual_spread(np.array([[0.60, 0.60], [0.64, 0.76]]))
    assert spread.squares == pytest.approx(0.0036)
    assert (spread.freedom, float(spread.variance)) == (1, pytest.approx(0.0036))


def test_what_lifts_a_seed_or_a_row_is_no_residual() -> None:
    random = np.random.default_rng(0)
    means = random.normal(0.6, 0.01, (4, 5))
    lifted = means + random.normal(0, 0.1, (4, 1)) + random.normal(0, 0.1, (1, 5))
    assert residual_spread(lifted).squares == pytest.approx(residual_spread(means).squares)
    assert residual_spread(means).freedom == 12


def test_missing_trainings_are_least_squares() -> None:
    means = np.random.default_rng(1).normal(0.6, 0.01, (4, 3))
    means[0, 0] = means[2, 1] = NAN
    where = [(row, seed) for row in range(4) for seed in range(3) if not np.isnan(means[row, seed])]
    design = np.zeros((len(where), 7))
    for number, (row, seed) in enumerate(where):
        design[number, row] = design[number, 4 + seed] = 1
    values = np.array([means[place] for place in where])
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    found = residual_spread(means)
    assert found.squares == pytest.approx(((values - fitted) ** 2).sum())
    assert found.freedom == 10 - 4 - 3 + 1 == len(where) - np.linalg.matrix_rank(design)


def test_rows_without_a_seed_in_common_are_blocks_of_their_own() -> None:
    # Rows 0 and 1 have seeds 0 and 1, rows 2 and 3 seeds 2 and 3: N - K - S + 2 = 8 - 4 - 4 + 2
    means = np.full((4, 4), NAN)
    means[:2, :2] = [[0.60, 0.60], [0.64, 0.76]]
    means[2:, 2:] = [[0.50, 0.50], [0.54, 0.66]]
    found = residual_spread(means)
    assert (found.freedom, float(found.squares)) == (2, pytest.approx(0.0072))
    alone = np.full((2, 2), NAN)
    alone[0, 0] = alone[1, 1] = 0.5
    assert residual_spread(alone).freedom == 0
    assert residual_spread(np.full((2, 3), NAN)).freedom == 0


def test_sections_are_pooled_and_a_stack_is_each_of_its_samples() -> None:
    random = np.random.default_rng(2)
    stack = random.normal(0.6, 0.01, (7, 4, 3))
    stack[:, 1, 2] = NAN
    assert residual_spread(stack).squares == pytest.approx([float(residual_spread(one).squares) for one in stack])
    both = pooled([stack[0], stack[1]])
    assert both.freedom == 2 * residual_spread(stack[0]).freedom == 10
    assert both.squares == pytest.approx(residual_spread(stack[:2]).squares.sum())


def test_a_row_is_odd_in_one_table_of_a_hundred_at_most() -> None:
    stack = np.random.default_rng(3).normal(0.6, 0.01, (20_000, 4, 4))
    (p_values,) = excess_p([stack])
    assert (p_values.min(axis=1) < 0.01).mean() == pytest.approx(0.01, abs=0.003)
    # By hand: without row 2 the residuals of two equal rows are none, so all squares are row 2's.
    _, odd = without_odd_rows([np.array([[0.60, 0.61, 0.62], [0.63, 0.64, 0.65], [0.50, 0.60, 0.40]])])
    assert odd == [{2}]


def test_a_row_that_spreads_more_is_left_out_of_the_pool() -> None:
    means = np.random.default_rng(4).normal(0.6, 0.002, (5, 6))
    means[3] = 0.6 + 0.05 * np.array([1, -1, 2, -2, 1, -1])
    (left,), odd = without_odd_rows([means])
    spread = residual_spread(left)
    assert odd == [{3}] and spread.freedom == 15
    assert spread.squares == pytest.approx(residual_spread(np.delete(means, 3, axis=0)).squares)


def test_a_section_takes_its_own_spread_where_it_is_enough() -> None:
    random = np.random.default_rng(5)
    large, small = random.normal(0.6, 0.01, (4, 3)), random.normal(0.6, 0.01, (2, 3))
    of_large, of_small = section_spreads([large, small], pooled([large, small]))
    assert (of_large.freedom, of_small.freedom) == (6, 8)
    assert of_large.squares == pytest.approx(residual_spread(large).squares)
    assert of_small.squares == pytest.approx(pooled([large, small]).squares)


def test_a_cells_variance_by_hand() -> None:
    # Rows .60 .62 and .60 .62: within squares 2 * .0002, all of it the seeds' common part. Two cells, but what they say
    # is one number: one degree of freedom.
    variance, freedom = cell_spread([np.array([[0.60, 0.62], [0.60, 0.62]])])
    assert (variance, freedom) == (pytest.approx(0.0002), pytest.approx(1))
    # Rows that share nothing on average: both parts .0001 with one degree each, (2 * .0001)^2 / (2 * .0001^2) = 2
    variance, freedom = cell_spread([np.array([[0.60, 0.62], [0.60, 0.60]])])
    assert (variance, freedom) == (pytest.approx(0.0001), pytest.approx(2))
    assert cell_spread([np.array([[0.6], [0.7]])])[1] == cell_spread([])[1] == 0


# d = [[.00, .02, .00, .02], [.04, .06, .06, .04]]: mean .03; seeds .01 .05, variance .0008; episodes .02 .04 .03 .03,
# variance .0002 / 3; rest d - d_s. - d_.e + d_..: .00 .00 -.01 .01 and the opposite, .0004 / (1 * 3)
DIFFERENCES = np.array([[0.00, 0.02, 0.00, 0.02], [0.04, 0.06, 0.06, 0.04]])


def test_a_pair_by_hand() -> None:
    pair = paired(0.5 + DIFFERENCES, np.full((2, 4), 0.5))
    assert (pair.mean, pair.seeds, pair.episodes) == (pytest.approx(0.03), 2, 4)
    assert pair.over_seeds == pytest.approx(0.0008)
    assert pair.over_episodes == pytest.approx(0.0002 / 3)
    assert pair.rest == pytest.approx(0.0004 / 3)
    # .0002 / 3 - .0004 / 3 / 2 = 0: all that moves from episode to episode is the rest
    assert pair.episodes_part == pytest.approx(0, abs=1e-18)


def test_methods_by_hand() -> None:
    pair = paired(0.5 + DIFFERENCES, np.full((2, 4), 0.5))
    # The pair alone: .0008 / 2, one degree of freedom: t_.975 = 12.706205, half = .254124; p = 1 - 2/pi atan(1.5)
    alone = of_methods_alone(pair)
    assert (alone.error, alone.freedom) == (pytest.approx(0.02), 1)
    assert alone.half == pytest.approx(0.2541241)
    assert alone.p == pytest.approx(1 - 2 / np.pi * np.arctan(1.5))
    # Pooled: the pair's part of squares is .0008 / 2 = .0004. Squares .0013 in 4 degrees leave .0009 in 3, that is
    # 2 * .0009 / 3 = .0006 for a difference, of the weight 3 / 4: (.75 * .0006 + .0008) / 1.75 = .005 / 7, over two
    # seeds .0025 / 7; its freedom is 1.75^2 / (1 + .75^2 / 3) = 49 / 19
    joined = of_methods(pair, Spread(np.array(0.0013), 4))
    assert (joined.error, joined.freedom) == (pytest.approx(np.sqrt(0.0025 / 7)), pytest.approx(49 / 19))
    assert joined.high == pytest.approx(0.03 + stats.t.ppf(0.975, 49 / 19) * np.sqrt(0.0025 / 7))
    # Many rows: others' 2 * .002 / 20 = .0002 weigh 1.12 / 2^(1/4) = .941798: .00098836 / 1.941798 = .00050899. Of the
    # 1.941798^2 / (1 + .941798^2 / 20) = 3.61 degrees, 4 episodes leave 3.
    capped = of_methods(pair, Spread(np.array(0.0024), 21))
    assert (capped.error, capped.freedom) == (pytest.approx(np.sqrt(0.00050899 / 2), rel=1e-5), 3)
    assert of_methods(pair, Spread(np.array(0.0004), 1)).error == pytest.approx(alone.error)
    # Assumed: 2 * .01^2 / 2, with the 3 degrees of the episodes
    assumed = of_methods_given(pair, 2 * 0.01**2, np.inf)
    assert (assumed.error, assumed.half) == (pytest.approx(0.01), pytest.approx(0.03182446))


def test_seeds_whose_means_agree_by_chance_make_no_error_of_0() -> None:
    # differences .2 0 / 0 .2: no spread of seeds or episodes, a rest of .04; over 2 seeds and 2 episodes .01
    pair = paired(np.array([[0.6, 0.4], [0.4, 0.6]]), np.full((2, 2), 0.4))
    assert (pair.over_seeds, pair.over_episodes, pair.rest) == (pytest.approx(0), pytest.approx(0), pytest.approx(0.04))
    assert (of_methods_alone(pair).error, of_methods_alone(pair).freedom) == (pytest.approx(0.1), 1)


def test_episodes_that_all_seeds_share_are_not_divided_by_the_seeds() -> None:
    episodes = np.random.default_rng(0).normal(0, 0.1, 400)
    pair = paired(np.tile(episodes, (3, 1)), np.zeros((3, 400)))
    assert np.sqrt(pair.episodes_part) == pytest.approx(episodes.std(ddof=1) / 20)
    own = np.random.default_rng(0).normal(0, 0.1, (3, 4000))
    pair = paired(own, np.zeros((3, 4000)))
    assert pair.episodes_part < 0.1 * np.var(own) / 4000, "what no two seeds share is theirs"


def test_two_parts_share_satterthwaites_freedom() -> None:
    # seeds .0004 with 5.715613^2 / (5 + .715613^2 / 20) = 6.4999 degrees, since others weigh 1.12 / 6^(1/4) = .715613;
    # episodes .0012 / 12 = .0001 with 11: .0005^2 / (.0004^2 / 6.4999 + .0001^2 / 11)
    joined = of_methods(Pair(0.0, 6, 12, 0.0024, 0.0012, 0.0), Spread(np.array(0.0012 * 25), 25))
    assert joined.error == pytest.approx(np.sqrt(0.0005))
    assert joined.freedom == pytest.approx(0.0005**2 / (0.0004**2 / 6.4999 + 0.0001**2 / 11), rel=1e-4)


def test_of_few_degrees_of_seeds_episodes_add_less() -> None:
    # f = 3.61047 for seeds as above; Satterthwaite's n = .0005^2 / (.0004^2 / 3.61047 + .0001^2 / 11) = 5.52799, of
    # which f + .3 (1 - 1 / f) (n - f) count
    few = of_methods(Pair(0.0, 2, 12, 0.0008, 0.0012, 0.0), Spread(np.array(0.0004 * 21), 21))
    assert few.error == pytest.approx(np.sqrt(0.0005))
    assert few.freedom == pytest.approx(3.61047 + 0.3 * (1 - 1 / 3.61047) * (5.52799 - 3.61047), rel=1e-4)
    # One degree stays one
    alone = of_methods_alone(Pair(0.0, 2, 12, 0.0008, 0.0012, 0.0))
    assert alone.freedom == 1


def test_two_models_by_hand() -> None:
    # differences .1, .3, .2, .2: mean .2, sd = sqrt(.02 / 3) = .0816497, error = .0408248, t = 4.898979
    # 3 degrees of freedom: t_.975 = 3.182446, half = .129923; p = .016280 (t table: between .01 and .02)
    found = of_two_models(paired(np.array([[0.5, 0.9, 0.6, 0.7]]), np.array([[0.4, 0.6, 0.4, 0.5]])))
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.1299228, 0.2 + 0.1299228), abs=1e-6)
    assert found.p == pytest.approx(0.016280, abs=1e-5)


def test_two_models_are_compared_as_scipy_does() -> None:
    random = np.random.default_rng(3)
    ours, baseline = random.random((1, 50)), random.random((1, 50))
    expected = stats.ttest_rel(ours[0], baseline[0])
    interval = expected.confidence_interval(0.95)
    found = of_two_models(paired(ours, baseline))
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_equal_accuracies_do_not_differ_and_a_constant_gain_does() -> None:
    values = np.array([[0.5, 0.75, 0.25]])
    same = of_two_models(paired(values, values))
    assert (same.low, same.high, same.p, same.p_beyond(0.005)) == (0, 0, 1, 0)
    gain = of_two_models(paired(values + 0.125, values))
    assert (gain.low, gain.high, gain.p, gain.p_beyond(0.005)) == (0.125, 0.125, 0, 1)


def test_pairs_need_equal_shapes_and_two_episodes() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        paired(np.zeros((1, 3)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        paired(np.zeros((1, 1)), np.zeros((1, 1)))


def test_two_one_sided_tests_by_hand() -> None:
    # The upper end decides: (.005 - .002) / .001 = 3 errors; 2 degrees: P(t > 3) = (1 - 3 / sqrt(2 + 9)) / 2
    found = Estimate(0.002, 0.001, 2.0)
    assert found.p_beyond(0.005) == pytest.approx((1 - 3 / np.sqrt(11)) / 2)
    assert Estimate(-0.002, 0.001, 2.0).p_beyond(0.005) == pytest.approx(found.p_beyond(0.005))
    assert Estimate(0.008, 0.001, 2.0).p_beyond(0.005) == pytest.approx(1 - found.p_beyond(0.005))


def test_adjusted_p_by_hand() -> None:
    # Two rows. Row 0: .01 differs, .9 same; row 1: .04 and .03. The other's harder one is .04 for row 0, .9 for row 1.
    # Row 0: max(.01, 2 min(.01, .04)) = .02; row 1: max(.04, 2 min(.04, .9)) = .08 and .06.
    differ, beyond = adjust(np.array([0.01, 0.04]), np.array([0.9, 0.03]))
    assert differ == pytest.approx([0.02, 0.08])
    assert beyond == pytest.approx([0.9, 0.06])
    # A row of which both are rejected takes no share: .001 counts, twice, and .04 stays.
    differ, beyond = adjust(np.array([0.0005, 0.04]), np.array([0.001, 0.9]))
    assert (differ[1], beyond[0]) == (pytest.approx(0.04), pytest.approx(0.002))
    one = adjust(np.array([0.03]), np.array([0.2]))
    assert (one[0][0], one[1][0]) == (0.03, 0.2)


def test_with_hopeless_margins_every_test_takes_its_share() -> None:
    p_values = np.array([0.001, 0.01, 0.02, 0.6])
    assert adjust(p_values, np.ones(4))[0] == pytest.approx(np.minimum(4 * p_values, 1))


def test_verdicts() -> None:
    said = verdicts(
        np.array([0.01, -0.01, 0.01, 0.003, 0.003, 0.001]),
        np.array([0.04, 0.04, 0.05, 0.01, 0.90, 0.90]),
        np.array([0.99, 0.99, 0.99, 0.01, 0.04, 0.05]),
    )
    assert list(said) == ["better", "worse", "undecided", "same", "same", "undecided"]
    assert Verdict(said[3]) is Verdict.SAME and MARGIN == 0.005


def test_dunnetts_constants_are_the_tables() -> None:
    # Dunnett (1955), Table 1a, one-sided 5 %: p = 1 to 9 treatments and a control
    for others, freedom, constant in ((1, 5, 2.02), (2, 5, 2.44), (4, 10, 2.47), (4, 20, 2.30), (9, 20, 2.60)):
        assert dunnett(others, freedom) == pytest.approx(constant, abs=0.006)
    assert dunnett(1, 1) == pytest.approx(stats.t.ppf(0.95, 1), rel=1e-3)
    assert dunnett(1, np.inf) == pytest.approx(stats.norm.ppf(0.95), rel=1e-4)
    # With variances of their own: the same for one, more for several, and no difference where variances are known
    assert dunnett(1, 5, one_variance=False) == pytest.approx(dunnett(1, 5), rel=1e-4)
    assert dunnett(4, 5, one_variance=False) > dunnett(4, 5) + 0.05
    assert dunnett(4, np.inf, one_variance=False) == pytest.approx(dunnett(4, np.inf), rel=1e-4)


def test_constants_of_own_variances_hold_in_a_simulation() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((200_000, 5))
    factors = np.sqrt(random.chisquare(5, (200_000, 4)) / 5)
    largest = ((rows[:, 1:] - rows[:, :1]) / np.sqrt(2) / factors).max(axis=1)
    assert (largest < dunnett(4, 5, one_variance=False)).mean() == pytest.approx(0.95, abs=0.002)


def test_a_row_is_below_the_best_beyond_dunnetts_constant() -> None:
    # Three rows, 5 degrees: 2.522 errors
    assert shown_below(Estimate(0.0253, 0.01, 5.0), 3)
    assert not shown_below(Estimate(0.0251, 0.01, 5.0), 3)
    assert shown_below(Estimate(0.0, 0.0, 5.0), 3) is False
    # Two rows of less than one degree, as where one other pair tells the spread: t_.95
    constant = stats.t.ppf(0.95, 2 / 3)
    assert shown_below(Estimate(0.01 * constant * 1.01, 0.01, 2 / 3), 2)
    assert not shown_below(Estimate(0.01 * constant * 0.99, 0.01, 2 / 3), 2)


def test_how_many_seeds_by_hand() -> None:
    # One comparison, difference .01, sd .005: 2 * .005^2 / S must reach the square of .01 / (t_.975 + t_.8).
    # Two rows: freedom S - 1. S = 5: .003162 against .01 / (2.7764 + .9410) = .002690; S = 6: .002887 against
    # .01 / (2.5706 + .9195) = .002865; S = 7: .002673 against .01 / (2.4469 + .9057) = .002983
    pair = Pair(0.01, 3, 2000, 0.00005, 0.0, 0.0)
    assert needed(pair, 0.005**2, 2, 1, MARGIN) == Needed(more_seeds=4)
    assert needed(Pair(0.0, 3, 2000, 0.0, 0.0, 0.0), 1.0, 2, 1, MARGIN) == Needed()


def test_how_many_episodes_by_hand() -> None:
    # The episodes leave .01 however many seeds; .01 / (1.959964 + .841621) = .0035694 would do, half of whose square
    # is .0000063704: 100 * .0001 / .0000063704 = 1569.8
    pair = Pair(0.01, 3, 100, 0.0, 0.01, 0.0)
    assert needed(pair, 0.005**2, 2, 1, MARGIN) == Needed(episodes=1570)


def test_a_total_by_hand() -> None:
    # 4 degrees: t_.975 = 2.776445; sqrt(.003^2 + 2.776445^2 * .01^2 / 4) = .0142018
    assert total_half(0.003, 0.01**2, 4, 4) == pytest.approx(np.sqrt(0.003**2 + (2.776445 * 0.005) ** 2), abs=1e-8)


def test_against_published_by_hand() -> None:
    # .003^2 + .004^2 = .005^2; 8 degrees: t_.975 = 2.306004; 2.306004^2 * .003^2 * (1 + 1 / 3) = .00799^2
    half, verdict = against_published(0.005, 0.003, 0.004, 0.003**2, 8, 3)
    assert half == pytest.approx(np.sqrt(0.005**2 + 2.306004**2 * 0.003**2 * 4 / 3), abs=1e-7)
    assert verdict is PublishedVerdict.UNDECIDED
    assert against_published(0.0005, 0.003, 0.004, 0.003**2, 8, 3)[1] is PublishedVerdict.REPRODUCED
    assert against_published(0.02, 0.003, 0.004, 0.003**2, 8, 3)[1] is PublishedVerdict.ABOVE
    assert against_published(-0.02, 0.003, 0.004, 0.003**2, 8, 3)[1] is PublishedVerdict.BELOW


def test_an_assumed_variance_decides_nothing_against_published() -> None:
    half, verdict = against_published(0.2, 0.0, 0.0, 0.005**2, 0, 1)
    assert (half, verdict) == (pytest.approx(1.959964 * 0.005 * np.sqrt(2), abs=1e-8), PublishedVerdict.UNDECIDED)
