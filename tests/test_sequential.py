"""Looks after every seed: their levels against published and exact values, and what they spend."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr, ndtri

from reports.statistics import sequential
from reports.statistics.pairs import Estimate
from reports.statistics.sequential import (
    Account,
    levels,
    likely_seeds,
    passed_on,
    repeated_interval,
    shown_by,
)
from reports.statistics.verdicts import Verdict


def test_two_looks_against_the_bivariate_normal_distribution() -> None:
    """At most 3 seeds: the first look spends 2/3 of 5 %, the second what it takes to reach 5 %."""
    first, second = levels(3, 1)
    assert first == pytest.approx(0.05 * 2 / 3)
    # Means over 2 and 3 seeds correlate by sqrt(2/3). Neither look lets a true null through in 95 % of cases.
    low, high = -ndtri(first / 2), -ndtri(second / 2)
    joint = stats.multivariate_normal([0, 0], [[1, np.sqrt(2 / 3)], [np.sqrt(2 / 3), 1]])
    below = joint.cdf([low, high])  # of one direction
    assert 1 - below == pytest.approx(0.025, abs=1e-5)


def test_bounds_are_those_published_for_o_brien_and_fleming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five equal looks, two-sided 5 %, each direction by Lan and DeMets' function of O'Brien and Fleming's kind."""
    bounds = []
    walk, before = sequential._walked(()), 0.0
    for look in range(1, 6):
        by_now = 2 * (1 - ndtr(-ndtri(0.0125) / np.sqrt(look / 5)))
        bounds.append(walk.bound(look, by_now - before))
        walk, before = walk.on(look, bounds[-1]), by_now
    assert bounds == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


@pytest.mark.parametrize(("at_most", "comparisons"), [(2, 1), (10, 8), (40, 3)])
def test_looks_spend_a_comparisons_level_in_equal_parts_per_seed(at_most: int, comparisons: int) -> None:
    account, spent = Account.opened(at_most, comparisons), [0.0]
    for seeds in range(2, at_most + 1):
        account = account.looked(seeds)
        spent.append(account.spent)
    assert spent[-1] == pytest.approx(0.05 / comparisons, rel=1e-9)
    parts = np.diff(spent)
    assert parts[0] == pytest.approx(2 * 0.05 / comparisons / at_most)
    assert parts[1:] == pytest.approx(0.05 / comparisons / at_most)
    assert tuple(level for _, level in account.looks) == levels(at_most, comparisons)


def test_the_looks_decide_a_true_null_as_often_as_they_spend() -> None:
    random, looks = np.random.default_rng(4), levels(6, 1)
    sums = np.cumsum(random.standard_normal((200_000, 6)), axis=1) / np.sqrt(np.arange(1, 7))
    crossed = np.abs(sums[:, 1:]) > -ndtri(np.array(looks) / 2)
    shares = np.maximum.accumulate(crossed, axis=1).mean(axis=0)
    assert shares == pytest.approx([0.05 * seeds / 6 for seeds in range(2, 7)], abs=0.0018)


def test_a_look_that_lacks_a_seed_takes_the_level_of_the_seeds_there_are() -> None:
    skipped = Account.opened(5, 1).looked(2).looked(4)
    assert skipped.spent == pytest.approx(0.04)
    assert skipped.looked(5).spent == pytest.approx(0.05)
    with pytest.raises(ValueError, match="more seeds than the one before"):
        skipped.looked(4)
    with pytest.raises(ValueError, match="more seeds than the one before, and 2 or more; got 1"):
        Account.opened(5, 1).looked(1)
    with pytest.raises(ValueError, match="at_most >= 2 and a comparison, got 1 and 3"):
        Account.opened(1, 3)


def test_a_decided_row_leaves_half_of_what_it_has_not_spent() -> None:
    accounts = [Account.opened(5, 4).looked(2) for _ in range(4)]
    assert accounts[0].left == pytest.approx(0.0125 * 3 / 5)
    after = passed_on(accounts, [True, False, False, False], [False, True, True, False])
    # One of four is decided, one has stopped undecided: two get half of .0075 / 2 each.
    assert [account.level for account in after] == pytest.approx([0.0125 - 0.00375, 0.014375, 0.014375, 0.0125])
    assert sum(account.level for account in after) == pytest.approx(0.05)
    assert after[1].looked(3).looks[-1][1] > accounts[1].looked(3).looks[-1][1]
    nobody = passed_on(accounts, [True] * 4, [False] * 4)
    assert nobody == accounts


def test_looks_beyond_the_most_seeds_cost_what_they_let_through_more() -> None:
    account = Account.opened(4, 1)
    for seeds in (2, 3, 4):
        account = account.looked(seeds)
    longer = account.looked(5)
    assert account.spent == pytest.approx(0.05)
    assert longer.looks[-1][1] == account.looks[-1][1]
    random = np.random.default_rng(6)
    sums = np.cumsum(random.standard_normal((200_000, 5)), axis=1) / np.sqrt(np.arange(1, 6))
    bounds = -ndtri(np.array([level for _, level in longer.looks]) / 2)
    assert longer.spent == pytest.approx((np.abs(sums[:, 1:]) > bounds).any(axis=1).mean(), abs=0.0018)
    assert longer.spent > 0.055


def test_the_verdict_is_read_from_the_interval() -> None:
    found = Estimate(0.01, 0.002, 4.0)
    low, high = repeated_interval(found, 0.01)
    assert (low, high) == pytest.approx((0.01 - 4.604095 * 0.002, 0.01 + 4.604095 * 0.002), abs=1e-8)
    low, high = np.array([0.001, -0.02, -0.004, 0.001, -0.01, 0.02]), np.array([0.02, -0.001, 0.003, 0.004, 0.01, 0.02])
    said = ["better", "worse", "same", "same", "undecided", "undecided"]
    assert list(shown_by(low, high, 0.005)) == said, "the last has no width: nothing varies, so nothing is known"
    assert Verdict(str(shown_by(0.001, 0.02, 0.005))) is Verdict.BETTER


def test_likely_seeds_are_those_whose_interval_would_decide() -> None:
    looks = levels(10, 8)
    found = likely_seeds(0.0128, 0.0075, rows=5, at_most=10, comparisons=8, margin=0.005)

    def half(seeds: int) -> float:
        own, weight = seeds - 1, min(3 / 4 * (seeds - 1), 1.12 / seeds**0.25)
        freedom = (own + weight) ** 2 / (own + weight**2 / (3 * own))
        return float(stats.t.ppf(1 - looks[seeds - 2] / 2, freedom) * 0.0075 / np.sqrt(seeds))

    assert half(found) < 0.0128 <= half(found - 1)
    assert likely_seeds(0.0, 0.02, 5, 10, 8, 0.005) == 10
    assert likely_seeds(0.05, 0.0075, 5, 10, 8, 0.005, first=7) == 7
