"""The simulation of `benchmarks.sequential` judges as the report does, and a short run of it keeps its promises."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.sequential import (
    Sweep,
    asked,
    draw,
    estimates,
    false,
    judged,
    look,
    of_table_2,
    right,
    with_fixed_seeds,
)
from benchmarks.statistics import POINT
from reports.statistics.pairs import Pair, of_methods, of_methods_alone
from reports.statistics.spread import pooled, section_spreads, without_odd_rows
from reports.statistics.verdicts import Verdict

TABLES = 1_000


def test_tables_whose_rows_have_stopped_are_judged_as_each_by_the_report() -> None:
    case, random = Sweep(((0.0, 0.0, 0.0),) * 2, 6, 0.3), np.random.default_rng(1)
    drawn = draw(case, 40, random)
    for means in drawn.means:  # a row that spreads more
        means[:, 2] += random.standard_normal((40, 6)) * 3 * POINT
    others = random.integers(2, 6, (40, 2, 3))
    trained = np.concatenate([np.full((40, 2, 1), 5), others], axis=2)
    found = estimates(drawn, 5, trained)
    odd_found = 0
    for table in range(40):
        seen = [
            np.where(np.arange(5) < trained[table, section][:, None], means[table, :, :5], np.nan)
            for section, means in enumerate(drawn.means)
        ]
        left, odd = without_odd_rows(seen)
        odd_found += sum(map(len, odd))
        for section, spread in enumerate(section_spreads(left, pooled(left))):
            for row in range(1, 4):
                pair = drawn.of(section, np.array([table]), row, 5)
                one = Pair(*(float(v[0]) if isinstance(v, np.ndarray) else v for v in vars(pair).values()))
                expected = of_methods_alone(one) if {0, row} & odd[section] else of_methods(one, spread)
                for name in ("mean", "error", "freedom"):
                    ours = getattr(found, name)[table, section, row - 1]
                    assert ours == pytest.approx(float(getattr(expected, name))), name
    assert odd_found > 10


def test_looks_stop_where_they_decide_and_the_baseline_goes_with_the_last() -> None:
    case = Sweep(((5.0, 0.0),), 4, 0.5)
    ended = look(case, draw(case, TABLES, np.random.default_rng(2)))
    far, null = ended.seeds[:, 0].T
    assert (ended.verdicts[:, 0, 0] == Verdict.BETTER).all() and far.mean() < 2.9
    undecided = ended.verdicts[:, 0, 1] == Verdict.UNDECIDED
    assert undecided.mean() > 0.9 and (null[undecided] == 4).all()
    assert (ended.trainings == far + null + np.maximum(far, null)).all()


@pytest.mark.parametrize("seed_sd", [0.1, 0.5])
@pytest.mark.parametrize("truth", [((0.0,) * 4,) * 2, ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.0))])
def test_a_short_run_keeps_its_level(truth: tuple[tuple[float, ...], ...], seed_sd: float) -> None:
    found = judged("", Sweep(truth, 6, seed_sd), TABLES, np.random.default_rng(3))
    most = 100 * (0.05 + 3 * (0.05 * 0.95 / TABLES) ** 0.5)
    assert found["false tables %"] <= found["a look's interval misses %"] < most
    assert found["coverage, worst row %"] > 97


def test_looks_take_fewer_trainings_than_fixed_seeds_of_the_same_power() -> None:
    """Table 2d at a seed sd of 0.5: 6 seeds find every effect of a point in 80 % of tables, and so do looks."""
    assert of_table_2("2d") == ((3.06, 3.07, 3.25, 3.56), (1.9, 1.57, 0.95, 2.47))
    case = Sweep(of_table_2("2d"), 6, 0.5)
    drawn = draw(case, TABLES, np.random.default_rng(4))
    ended = look(case, drawn)
    fixed = right(with_fixed_seeds(case, drawn, 6), case.truth)[asked(case)].min()
    assert fixed > 0.75 and right(ended.verdicts, case.truth)[asked(case)].min() > 0.75
    assert ended.trainings.mean() < 0.75 * 6 * 10
    assert false(ended.verdicts, case.truth).any(axis=(1, 2)).mean() < 0.05
