"""Whether looking after every seed keeps its promises, by simulation: `python -m benchmarks.sequential`.

Tables are drawn as in `benchmarks.statistics`, looked at with 2, 3, ... seeds by the functions that a sweep with
`seeds: {decide: ...}` calls, and their rows stop when they are decided. A table must have a false verdict in at most
5 % of cases, the intervals that it ends with must hold the truth, and it should need fewer trainings than a fixed
number of seeds with the same power.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from benchmarks.harness import Report, main
from benchmarks.statistics import EPISODE_SD, POINT, REST_SD, of_difference, wishart
from reports.layouts import TABLES
from reports.published import ABLATED, in_paper
from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL, Estimate, Pair, of_methods, of_methods_alone
from reports.statistics.sequential import FIRST, PASSING, Account, passed_on, repeated_interval, shown_by
from reports.statistics.spread import ENOUGH, NO_SPREAD, ODD_LEVEL, Spread, residual_spread
from reports.statistics.verdicts import MARGIN, Verdict, adjust, verdicts

EPISODES = 2_000
POWER = 0.8
SMALLEST = 1.0
"""In points: each effect of at least this is to be found with `POWER`."""
TABLES_DRAWN, SHORT_DRAWN = 10_000, 1_000
TRUTHS = {
    "none differs": ((0.0,) * 4, (0.0,) * 4),
    "mixed": ((0.0, 0.5, 1.0, 3.56), (0.0, -0.5, 0.25, 2.0)),
    "one at the margin, others none": ((0.0, 0.0, 0.0, 0.5), (0.0,) * 4),
    "all at the margin": ((0.5,) * 4, (-0.5,) * 4),
    "one none, others at the margin": ((0.5,) * 4, (0.5, 0.5, 0.5, 0.0)),
    "half none, half at the margin": ((0.5, 0.0, 0.5, 0.0), (-0.5, 0.0, 0.5, 0.0)),
    "one none, others far": ((2.0,) * 4, (2.0, 2.0, 2.0, 0.0)),
}
"""Eight rows in Table 2c's layout, 1 and 5 shots: the differences to the baseline of each section's other rows."""
SEED_SDS, LOOKED = (0.1, 0.2, 0.5, 1.0), (5, 10)
"""Seed sds and most seeds of the tables above."""
FACTOR = 2.0
"""By which one row of each section may spread more."""
REAL_SDS = (0.5, 1.0)
PARTS = ("2a", "2b", "2c", "2d")
MOST = 60
"""Seeds at which the searches for numbers of seeds end."""


@dataclass(frozen=True)
class Sweep:
    """Tables of one kind that are looked at."""

    differences: tuple[tuple[float, ...], ...]
    """By section, to its baseline, in points, of every other row."""
    at_most: int
    seed_sd: float
    """Of a training's residual, in points."""
    last_row: float = 1.0
    """How many times as much the last row of each section spreads."""

    @property
    def rows(self) -> int:
        """Of a section, with the baseline."""
        return len(self.differences[0]) + 1

    @property
    def comparisons(self) -> int:
        return len(self.differences) * (self.rows - 1)

    @property
    def truth(self) -> Samples:
        """[sections, K - 1], as accuracies."""
        return np.array(self.differences) * POINT


@dataclass(frozen=True)
class Drawn:
    """All that a number of tables would come to if every row were trained with every seed."""

    means: list[Samples]
    """[T, K, at_most] for each section."""
    over_episodes: list[Samples]
    rest: list[Samples]
    """Per section, Bartlett's factors of the two mean squares (see `benchmarks.statistics`)."""

    def of(self, section: int, which: NDArray[np.intp], row: int, seeds: int) -> Pair:
        """A row less its section's baseline over the first `seeds`, in the tables `which`."""
        means = self.means[section][which, :, :seeds]
        differences = means[:, row] - means[:, 0]
        rest = of_difference(self.rest[section][which], row) * REST_SD**2
        episodes = of_difference(self.over_episodes[section][which], row) * (EPISODE_SD**2 + REST_SD**2 / seeds)
        return Pair(differences.mean(axis=1), seeds, EPISODES, differences.var(axis=1, ddof=1), episodes, rest)


def draw(case: Sweep, tables: int, random: np.random.Generator) -> Drawn:
    drawn, shape = Drawn([], [], []), (tables, case.rows, case.at_most)
    sds = case.seed_sd * POINT * np.array([1.0] * (case.rows - 1) + [case.last_row])
    for truth in case.truth:
        means = np.concatenate([[0.0], truth])[:, None] + sds[:, None] * random.standard_normal(shape)
        means += random.standard_normal((tables, 1, case.at_most)) * case.seed_sd * POINT
        means += random.standard_normal((tables, case.rows, 1)) * EPISODE_SD / np.sqrt(EPISODES)
        means += random.standard_normal(shape) * REST_SD / np.sqrt(EPISODES)
        drawn.means.append(means)
        drawn.over_episodes.append(wishart(tables, case.rows, EPISODES - 1, random))
        drawn.rest.append(wishart(tables, case.rows, EPISODES - 1, random))
    return drawn


def estimates(drawn: Drawn, seeds: int, trained: NDArray[np.intp]) -> Estimate:
    """The report's estimates [T, sections, K - 1] of every row over `seeds` seeds.

    `trained` [T, sections, K] says with how many seeds each row has been trained: rows that have stopped have fewer,
    and count in the pooled variance with those.
    """
    tables, sections, rows = trained.shape
    numbers = np.arange(seeds)
    left = [
        np.where(numbers < trained[:, section, :, None], drawn.means[section][:, :, :seeds], np.nan)
        for section in range(sections)
    ]
    odd = _leave_out_odd(left)
    parts = [residual_spreads(means) for means in left]
    pooled = sum(part[0] for part in parts), sum(part[1] for part in parts)
    found = Estimate(*np.full((3, tables, sections, rows - 1), np.nan))
    for section, (squares, freedom) in enumerate(parts):
        own = freedom >= ENOUGH
        squares, freedom = np.where(own, squares, pooled[0]), np.where(own, freedom, pooled[1])
        for row in range(1, rows):
            alone = odd[:, section, 0] | odd[:, section, row]
            for degrees in np.unique(freedom):
                for by_itself in (False, True):
                    which = np.flatnonzero((freedom == degrees) & (alone == by_itself))
                    pair = drawn.of(section, which, row, seeds)
                    spread = Spread(squares[which], int(degrees))
                    answer = of_methods_alone(pair) if by_itself else of_methods(pair, spread)
                    for name in ("mean", "error", "freedom"):
                        getattr(found, name)[which, section, row - 1] = getattr(answer, name)
    return found


def residual_spreads(means: Samples) -> tuple[Samples, NDArray[np.intp]]:
    """`residual_spread` of tables [T, K, S] that lack different trainings: squares [T] and degrees of freedom [T]."""
    there = ~np.isnan(means).reshape(len(means), -1)
    _, first, pattern = np.unique(np.packbits(there, axis=1), axis=0, return_index=True, return_inverse=True)
    pattern = pattern.ravel()
    order = np.argsort(pattern, kind="stable")
    ends = np.cumsum(np.bincount(pattern, minlength=len(first)))[:-1]
    squares, freedom = np.empty(len(means)), np.empty(len(means), dtype=np.intp)
    for which in np.split(order, ends):
        spread = residual_spread(means[which])
        squares[which], freedom[which] = spread.squares, spread.freedom
    return squares, freedom


def _leave_out_odd(left: list[Samples]) -> NDArray[np.bool_]:
    """Set rows that spread more than the others to NaN, as `without_odd_rows` does; return which, [T, sections, K]."""
    tables, rows = left[0].shape[:2]
    odd = np.zeros((tables, len(left), rows), dtype=bool)
    at = np.arange(tables)
    while at.size:
        parts = [residual_spreads(means[at]) for means in left]
        squares, freedom = sum(part[0] for part in parts), sum(part[1] for part in parts)
        p_values = np.ones((at.size, len(left), rows))
        for section, means in enumerate(left):
            for row in range(rows):
                without = means[at].copy()
                without[:, row] = np.nan
                rest_squares, rest_freedom = residual_spreads(without)
                own, own_freedom = np.maximum(parts[section][0] - rest_squares, 0), parts[section][1] - rest_freedom
                others, others_freedom = np.maximum(squares - own, NO_SPREAD), freedom - own_freedom
                some = (own_freedom > 0) & (others_freedom > 0)
                ratio = own[some] / own_freedom[some] / (others[some] / others_freedom[some])
                p_values[some, section, row] = np.minimum(
                    fdtrc(own_freedom[some], others_freedom[some], ratio) * rows * len(left), 1
                )
        flat = p_values.reshape(at.size, -1)
        worst, found = flat.argmin(axis=1), flat.min(axis=1) < ODD_LEVEL
        at, worst = at[found], worst[found]
        for table, place in zip(at, worst, strict=True):
            section, row = divmod(int(place), rows)
            left[section][table, row] = np.nan
            odd[table, section, row] = True
    return odd


@dataclass(frozen=True)
class Ended:
    """What the looks at a number of tables came to; arrays [T, sections, K - 1]."""

    verdicts: NDArray[np.str_]
    low: Samples
    high: Samples
    """Intervals of each row's last look."""
    seeds: NDArray[np.intp]
    """With which each row ended."""
    missed: NDArray[np.bool_]
    """Whether any look's interval of a row missed the truth."""

    @property
    def trainings(self) -> Samples:
        """Of each table, baselines included: each has as many seeds as the longest of its rows."""
        return (self.seeds.sum(axis=2) + self.seeds.max(axis=2)).sum(axis=1)


def look(case: Sweep, drawn: Drawn, passing: bool = True) -> Ended:
    """Look at every table after each seed, as a sweep does; without `passing`, decided rows leave the others nothing.

    All undecided rows of a table have the same account; tables that had as many of them at every look share theirs.
    """
    tables, shape = len(drawn.means[0]), (len(drawn.means[0]), len(case.differences), case.rows - 1)
    said, low, high = np.full(shape, Verdict.UNDECIDED), *np.full((2, *shape), np.nan)
    seeds, missed = np.full(shape, FIRST), np.zeros(shape, dtype=bool)
    history = np.zeros(tables, dtype=np.intp)
    accounts = [Account.opened(case.at_most, case.comparisons)]
    for now in range(FIRST, case.at_most + 1):
        accounts = [account.looked(now) for account in accounts]
        going = said == Verdict.UNDECIDED
        seeds[going] = now
        which = np.flatnonzero(going.any(axis=(1, 2)))
        trained = np.concatenate([seeds.max(axis=2, keepdims=True), seeds], axis=2)[which]
        part = Drawn(*([array[which] for array in arrays] for arrays in vars(drawn).values()))
        level = np.array([account.looks[-1][1] for account in accounts])[history[which], None, None]
        found_low, found_high = repeated_interval(estimates(part, now, trained), level)
        some = going[which]
        for kept, found in ((low, found_low), (high, found_high), (said, shown_by(found_low, found_high, MARGIN))):
            kept[which] = np.where(some, found, kept[which])
        missed[which] |= some & ((found_low > case.truth) | (found_high < case.truth))
        if passing:
            history, accounts = _pass_on(history, accounts, going, said)
    return Ended(said, low, high, seeds, missed)


def _pass_on(
    history: NDArray[np.intp], accounts: list[Account], going: NDArray[np.bool_], said: NDArray[np.str_]
) -> tuple[NDArray[np.intp], list[Account]]:
    """Accounts after a look, one for each way in which the numbers of rows went that were and are undecided."""
    numbers = [going, going & np.isin(said, PASSING), said == Verdict.UNDECIDED]
    ways = np.stack([history, *(which.sum(axis=(1, 2)) for which in numbers)], axis=1)
    ways, history = np.unique(ways, axis=0, return_inverse=True)
    found = []
    for number, were, passing, still in ways:
        heirs = passed_on(
            [accounts[number]] * were,
            [place < passing for place in range(were)],
            [place >= were - still for place in range(were)],
        )
        found.append(heirs[-1] if heirs else accounts[number])
    return history.ravel(), found


def false(said: NDArray[np.str_], truth: Samples) -> NDArray[np.bool_]:
    """Which verdicts do not hold."""
    wrong = (said == Verdict.BETTER) & (truth <= 0) | (said == Verdict.WORSE) & (truth >= 0)
    return wrong | (said == Verdict.SAME) & (np.abs(truth) >= MARGIN - 1e-12)


def right(said: NDArray[np.str_], truth: Samples) -> Samples:
    """[sections, K - 1]: how often a row that differs gets the verdict that it deserves."""
    return np.where(truth > 0, said == Verdict.BETTER, said == Verdict.WORSE).mean(axis=0)


def with_fixed_seeds(case: Sweep, drawn: Drawn, seeds: int) -> NDArray[np.str_]:
    """The verdicts of tables whose rows all have so many seeds, fixed beforehand, as a report prints them."""
    tables = len(drawn.means[0])
    trained = np.full((tables, len(case.differences), case.rows), seeds)
    found = estimates(drawn, seeds, trained)
    flat = Estimate(*(getattr(found, name).reshape(tables, -1) for name in ("mean", "error", "freedom")))
    return verdicts(flat.mean, *adjust(flat.p, flat.p_beyond(MARGIN))).reshape(found.mean.shape)


def asked(case: Sweep) -> NDArray[np.bool_]:
    """Which effects must be found with `POWER`."""
    return np.abs(np.array(case.differences)) >= SMALLEST - 1e-9


def fixed_seeds(case: Sweep, tables: int, random: np.random.Generator) -> int:
    """The least fixed number of seeds with which every effect that must be found is, in `POWER` of tables."""
    drawn = draw(replace(case, at_most=MOST), tables, random)

    def enough(seeds: int) -> bool:
        return float(right(with_fixed_seeds(case, drawn, seeds), case.truth)[asked(case)].min()) >= POWER

    return _least(enough, FIRST)


def most_seeds(case: Sweep, start: int, tables: int, random: np.random.Generator) -> int:
    """The least `at_most`, not below `start`, with which looks find every such effect in `POWER` of tables."""

    def enough(seeds: int) -> bool:
        longer = replace(case, at_most=seeds)
        return float(right(look(longer, draw(longer, tables, random)).verdicts, case.truth)[asked(case)].min()) >= POWER

    return next(seeds for seeds in range(start, MOST) if enough(seeds))


def _least(enough: Callable[[int], bool], low: int) -> int:
    """The least number from `low` to `MOST` that is enough; more are enough too."""
    high = MOST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def of_table_2(part: str) -> tuple[tuple[float, ...], ...]:
    """The paper's differences to the baseline of a part of its Table 2, in points, with 1 and 5 shots."""
    layout, (dataset, backbone) = TABLES[part], ABLATED

    names = {row.value: row.published for row in layout.values if row.published}

    def accuracy(value: Any, shot: int) -> float:
        found = in_paper(names[value], backbone, dataset, 5, shot)
        assert found is not None
        return 100 * found.accuracy

    return tuple(
        tuple(
            round(accuracy(value, shot) - accuracy(layout.baseline, shot), 2)
            for value in names
            if value != layout.baseline
        )
        for shot in (1, 5)
    )


def judged(name: str, case: Sweep, tables: int, random: np.random.Generator) -> dict[str, Any]:
    """What looks at such tables come to, against the truth; in %."""
    ended = look(case, draw(case, tables, random))
    holds = (ended.low <= case.truth) & (case.truth <= ended.high)
    return {
        "differences": name,
        "at most": case.at_most,
        "seed sd": case.seed_sd,
        "false tables %": 100 * float(false(ended.verdicts, case.truth).any(axis=(1, 2)).mean()),
        "a look's interval misses %": 100 * float(ended.missed.any(axis=(1, 2)).mean()),
        "coverage, worst row %": 100 * float(holds.mean(axis=0).min()),
        "seeds of a row": float(ended.seeds.mean()),
    }


def compared(part: str, seed_sd: float, tables: int, random: np.random.Generator) -> dict[str, Any]:
    """Trainings of one part of Table 2, with a fixed number of seeds and with looks of the same power."""
    case = Sweep(of_table_2(part), MOST, seed_sd)
    fixed = fixed_seeds(case, tables, random)
    case = replace(case, at_most=most_seeds(case, fixed, tables, random))
    ended = look(case, draw(case, tables, random))
    trainings = len(case.differences) * case.rows * fixed
    return {
        "part": part,
        "seed sd": seed_sd,
        "fixed seeds": fixed,
        "its trainings": trainings,
        "at most": case.at_most,
        "power %": 100 * float(right(ended.verdicts, case.truth)[asked(case)].min()),
        "trainings": float(ended.trainings.mean()),
        "of fixed %": 100 * float(ended.trainings.mean()) / trainings,
    }


def as_one_sweep(
    seed_sd: float, parts: list[dict[str, Any]], tables: int, random: np.random.Generator
) -> dict[str, Any]:
    """All of Table 2 with one `seeds` setting: the fixed number, and the most, that its hardest part needs."""
    fixed, most = (max(part[name] for part in parts) for name in ("fixed seeds", "at most"))
    cases = [Sweep(of_table_2(part), most, seed_sd) for part in PARTS]
    of_looks = sum(float(look(case, draw(case, tables, random)).trainings.mean()) for case in cases)
    of_fixed = sum(len(case.differences) * case.rows * fixed for case in cases)
    return {
        "seed sd": seed_sd,
        "fixed seeds": fixed,
        "its trainings": of_fixed,
        "at most": most,
        "trainings": of_looks,
        "of fixed %": 100 * of_looks / of_fixed,
    }


def run(report: Report) -> None:
    """False verdicts, coverage and trainings of sweeps that decide by looks, by simulation."""
    tables = SHORT_DRAWN if report.settings.short else TABLES_DRAWN
    random = np.random.default_rng(17)
    found = [
        judged(name, Sweep(truth, at_most, sd), tables, random)
        for name, truth in TRUTHS.items()
        for at_most in LOOKED
        for sd in SEED_SDS
    ]
    report.table("eight rows, looked at after every seed", found)
    others = np.random.default_rng(18)
    uneven = [
        judged(f"{name}, last row spreads {FACTOR:g} times", Sweep(TRUTHS[name], at_most, 0.5, FACTOR), tables, others)
        for name in ("none differs", "mixed")
        for at_most in LOOKED
    ]
    report.table(f"one row of each section spreads {FACTOR:g} times as much", uneven)
    few = tables // 5
    parts = {sd: [compared(part, sd, few, random) for part in PARTS] for sd in REAL_SDS}
    report.table(
        "Table 2's effects: trainings, each part by itself", [part for each in parts.values() for part in each]
    )
    whole = [as_one_sweep(sd, each, few, random) for sd, each in parts.items()]
    report.table("Table 2's effects: trainings of one sweep", whole)

    bound = 100 * LEVEL + 300 * float(np.sqrt(LEVEL * (1 - LEVEL) / tables))
    note = f"5 % and three standard errors of {tables:,} tables"
    worst = max(each["false tables %"] for each in found)
    report.claim("false tables, worst", worst, at_most=bound, unit=" %", note=note)
    worst = max(each["false tables %"] for each in uneven)
    what = f"false tables, a row spreads {FACTOR:g} times as much, worst"
    report.claim(what, worst, at_most=bound, unit=" %", note=note)
    missed = max(each["a look's interval misses %"] for each in found)
    report.claim(
        "tables of which a look's interval misses the truth, worst", missed, at_most=bound, unit=" %", note=note
    )
    least = min(each["coverage, worst row %"] for each in found)
    report.claim("coverage of printed intervals, worst row", least, at_least=95, unit=" %")
    for each in whole:
        report.claim(f"trainings of one sweep, seed sd {each['seed sd']}", each["of fixed %"], at_most=70, unit=" %")
    for sd, each in parts.items():
        mean = float(np.mean([part["of fixed %"] for part in each]))
        what = f"trainings, mean of the parts, seed sd {sd}"
        report.claim(what, mean, at_most=85, unit=" %", note="the goal is 70, which one sweep reaches")


if __name__ == "__main__":
    sys.exit(main("sequential", run))
