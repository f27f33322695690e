"""Whether the tables' statistics hold, by simulation: `python -m benchmarks.statistics`.

Tables are drawn with known differences and judged by the functions of `reports.statistics` that the report calls. The
interval of a difference must hold the true one in 95 % of cases, and a table must have a false verdict in at most 5 %:
better where the row is not, worse where it is not, same where the difference is at least the margin.

An accuracy is drawn as row + seed + residual of the training + episode + row's part of the episode + rest, all of them
normal. What the tests use of it (means over episodes; two variances per pair) is drawn from its own distribution, which
is the same and needs no array over episodes: sums of squares are chi-squared, those of rows together Wishart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.classes import CASES, over_classes
from benchmarks.harness import Report, main
from reports.statistics.best import dunnett
from reports.statistics.cells import Samples
from reports.statistics.pairs import LEVEL, Estimate, Pair, of_methods, of_methods_alone, of_two_models
from reports.statistics.paper import PublishedVerdict, against_published
from reports.statistics.spread import ODD_LEVEL, Spread, cell_spread, excess_p, pooled, section_spreads
from reports.statistics.verdicts import MARGIN, Verdict, adjust, verdicts

POINT = 0.01
EPISODE_SD, REST_SD = 2.5 * POINT, 2.5 * POINT
"""Of a row's part of an episode, and of what a training's seed adds to that: 5 points in a difference of two models."""
HARDNESS_SD = 9 * POINT
"""Of an episode's accuracy, which its rows share: it matters only where nothing is paired."""
SEEDS, EPISODES, SEED_SDS = (2, 3, 5, 10), (600, 2_000), (0.1, 0.5, 1.0)
LAYOUTS = ((2, 5), (1, 4), (1, 2))
"""Sections and their rows: Table 2c with 1 and 5 shots; four rows; a single pair."""
FACTORS = (1.5, 2.0)
"""By which one row may spread more than the others."""
LENGTHS = ((2.0, 1.0, 0.5, 0.25, 0.12), (1.2, 0.7, 0.35, 0.35, 0.35), (1.5, 0.5, 0.4, 0.35, 0.35))
"""A training's sd over seeds, in points, in sections of ever longer training: docs/study.md has such."""
GAINS = (1.0, 1.28, 2.0, 3.56)
"""In points; the paper's Table 2 claims 1.28 for groups and 3.56 for the ODE, 1-shot."""
TABLES, SHORT_TABLES = 10_000, 2_000


@dataclass(frozen=True)
class Case:
    """Tables of one kind, drawn many times."""

    differences: tuple[float, ...]
    """To the baseline, in points, of every other row."""
    sections: int = 1
    seeds: int = 3
    episodes: int = 2_000
    seed_sd: float = 0.5
    """Of a training's residual, in points."""
    odd_sd: float | None = None
    """Of the last row's."""
    last_section: float = 1.0
    """How many times as much its rows spread as those of the others."""
    section_sds: tuple[float, ...] = ()
    """Of a training's residual in each section, in points, in place of `seed_sd`."""
    missing: tuple[tuple[int, int], ...] = ()
    """(row, seed) that no section has; row 0 is the baseline."""

    @property
    def rows(self) -> int:
        """Of a section, with the baseline."""
        return len(self.differences) + 1

    @property
    def name(self) -> str:
        shown = ", ".join(f"{difference:g}" for difference in self.differences if any(self.differences))
        return f"{self.sections} x {self.rows}" + (f" ({shown})" if shown else "")

    @property
    def share_of_seeds(self) -> float:
        """In the variance of a difference."""
        seeds = ((self.seed_sd * POINT) ** 2 + REST_SD**2 / self.episodes) / self.seeds
        return seeds / (seeds + EPISODE_SD**2 / self.episodes)


@dataclass(frozen=True)
class Drawn:
    """Tables [T] of one case: per section the means [T, K, S], and the pairs with the baseline as [T, K - 1]."""

    means: list[Samples]
    pairs: list[list[Pair]] = field(default_factory=list)


def draw(case: Case, tables: int, random: np.random.Generator) -> Drawn:
    sds = np.full(case.rows, case.seed_sd * POINT)
    if case.odd_sd is not None:
        sds[-1] = case.odd_sd * POINT
    truth = np.array([0.0, *case.differences]) * POINT
    drawn = Drawn([])
    for section in range(case.sections):
        factor = case.last_section if section == case.sections - 1 else 1.0
        if case.section_sds:
            factor = case.section_sds[section] / case.seed_sd
        shape = (tables, case.rows, case.seeds)
        means = truth[:, None] + factor * sds[:, None] * random.standard_normal(shape)
        means += random.standard_normal((tables, 1, case.seeds)) * case.seed_sd * POINT
        means += random.standard_normal((tables, case.rows, 1)) * EPISODE_SD / np.sqrt(case.episodes)
        means += random.standard_normal(shape) * REST_SD / np.sqrt(case.episodes)
        for row, seed in case.missing:
            means[:, row, seed] = np.nan
        drawn.means.append(means)
        drawn.pairs.append(_pairs(case, means, random))
    return drawn


def _pairs(case: Case, means: Samples, random: np.random.Generator) -> list[Pair]:
    """Each row with the baseline, over their common seeds."""
    tables, episodes = len(means), case.episodes
    over_episodes = wishart(tables, case.rows, episodes - 1, random)
    rest = wishart(tables, case.rows, max(1, (case.seeds - 1) * (episodes - 1)), random)
    pairs = []
    for row in range(1, case.rows):
        differences = means[:, row] - means[:, 0]
        differences = differences[:, ~np.isnan(differences[0])]
        seeds = differences.shape[1]
        pairs.append(
            Pair(
                differences.mean(axis=1),
                seeds,
                episodes,
                differences.var(axis=1, ddof=1) if seeds > 1 else np.full(tables, np.nan),
                of_difference(over_episodes, row) * (EPISODE_SD**2 + REST_SD**2 / seeds),
                of_difference(rest, row) * REST_SD**2,
            )
        )
    return pairs


def wishart(tables: int, rows: int, freedom: int, random: np.random.Generator) -> Samples:
    """Bartlett's factors [T, K, K] of mean squares and products of `rows` independent series of variance 1."""
    factors = np.tril(random.standard_normal((tables, rows, rows)), -1)
    for row in range(rows):
        factors[:, row, row] = np.sqrt(random.chisquare(freedom - row, tables)) if freedom > row else 0.0
    return factors / np.sqrt(freedom)


def of_difference(factors: Samples, row: int) -> Samples:
    """Mean square of a row's series less the baseline's."""
    return ((factors[:, row] - factors[:, 0]) ** 2).sum(axis=-1)


Method = Callable[[Pair, Spread], Estimate]


def of_all_rows(pair: Pair, spread: Spread) -> Estimate:
    """By the pooled variance, were all its degrees of freedom taken at their word."""
    error = np.sqrt(2 * spread.variance / pair.seeds + pair.episodes_part)
    return Estimate(pair.mean, error, float(spread.freedom))


def estimates(drawn: Drawn, method: Method = of_methods) -> tuple[list[list[Estimate]], int]:
    """The report's estimates of each pair, and the freedom of the pooled variance with no row left out.

    As `reports.statistics.spread.without_odd_rows`, for all tables at once: those with the same odd rows are taken
    together, since their means are missing in the same places.
    """
    tables, rows = drawn.means[0].shape[:2]
    answers = [[Estimate(*np.empty((3, tables))) for _ in pairs] for pairs in drawn.pairs]

    def judge(which: NDArray[np.intp], means: list[Samples], odd: frozenset[tuple[int, int]]) -> None:
        p_values = np.concatenate(excess_p(means), axis=1)
        oddest = np.where(p_values.min(axis=1) < ODD_LEVEL, p_values.argmin(axis=1), -1)
        for number in np.unique(oddest):
            some = oddest == number
            left = [section[some] for section in means]
            if number >= 0:
                section, row = divmod(int(number), rows)
                left[section][:, row] = np.nan
                judge(which[some], left, odd | {(section, row)})
            else:
                decide(which[some], section_spreads(left, pooled(left)), odd)

    def decide(which: NDArray[np.intp], spreads: list[Spread], odd: frozenset[tuple[int, int]]) -> None:
        for section, pairs in enumerate(drawn.pairs):
            for row, pair in enumerate(pairs, start=1):
                part = _some(pair, which)
                alone = {(section, 0), (section, row)} & odd
                found = of_methods_alone(part) if alone else method(part, spreads[section])
                kept = answers[section][row - 1]
                kept.mean[which], kept.error[which], kept.freedom[which] = found.mean, found.error, found.freedom

    judge(np.arange(tables), drawn.means, frozenset())
    return answers, pooled(drawn.means).freedom


def _some(pair: Pair, which: NDArray[np.intp]) -> Pair:
    return Pair(
        pair.mean[which],
        pair.seeds,
        pair.episodes,
        pair.over_seeds[which],
        pair.over_episodes[which],
        pair.rest[which],
    )


@dataclass(frozen=True)
class Found:
    """What came of the tables of one case."""

    case: Case
    freedom: int
    coverage: Samples
    """Of the interval, by comparison."""
    false_tables: float
    """Share of tables with a false verdict."""
    decided: Samples
    """Share of verdicts, by comparison."""
    half: float
    """Median half-width of an interval."""
    best_kept: float | None
    """Share of sections whose baseline is bold, where all rows are equally good."""

    @property
    def row(self) -> dict[str, object]:
        return {
            "table": self.case.name,
            "S": self.case.seeds,
            "E": self.case.episodes,
            "seed sd": self.case.seed_sd,
            "nu": self.freedom,
            "half-width": self.half / POINT,
            "coverage %": 100 * float(self.coverage.mean()),
            "worst row %": 100 * float(self.coverage.min()),
            "false tables %": 100 * self.false_tables,
            "best kept %": 100 * self.best_kept if self.best_kept is not None else "",
        }


def measure(
    case: Case, tables: int, random: np.random.Generator, method: Method = of_methods, apart: bool = False
) -> Found:
    """Draw tables and judge them as the report does: pairs with one seed in common get no verdict.

    If the sections differ in a setting, they are `apart` and share no variance.
    """
    drawn = draw(case, tables, random)
    if apart:
        each = [estimates(Drawn([m], [p]), method) for m, p in zip(drawn.means, drawn.pairs, strict=True)]
        answers, freedom = [answer for found, _ in each for answer in found], each[0][1]
    else:
        answers, freedom = estimates(drawn, method)
    several = [pair.seeds > 1 for pairs in drawn.pairs for pair in pairs]
    flat = [estimate for section in answers for estimate in section]
    truth = np.tile(np.array(case.differences) * POINT, case.sections)[several]

    def of(name: str) -> Samples:
        return np.stack([getattr(flat[number], name) for number in np.flatnonzero(several)], axis=1)

    found = Estimate(of("mean"), of("error"), of("freedom"))
    said = verdicts(found.mean, *adjust(found.p, found.p_beyond(MARGIN)))
    false = (said == Verdict.BETTER) & (truth <= 0) | (said == Verdict.WORSE) & (truth >= 0)
    false |= (said == Verdict.SAME) & (np.abs(truth) >= MARGIN - 1e-12)
    return Found(
        case,
        freedom,
        ((found.low <= truth) & (truth <= found.high)).mean(axis=0),
        float(false.any(axis=1).mean()),
        (said != Verdict.UNDECIDED).mean(axis=0),
        float(np.median(found.half)),
        _best_kept(case, drawn),
    )


def _best_kept(case: Case, drawn: Drawn) -> float | None:
    """How often the baseline is bold where all rows are equally good, so that it is as good as the best."""
    if any(case.differences) or case.missing or case.odd_sd or case.last_section != 1 or case.section_sds:
        return None
    spreads = section_spreads(drawn.means, pooled(drawn.means))
    kept = []
    for means, pairs, spread in zip(drawn.means, drawn.pairs, spreads, strict=True):
        below = np.zeros(len(means), dtype=bool)
        for pair in pairs:
            found = of_methods(pair, spread)
            constant = np.array(
                [
                    dunnett(case.rows - 1, freedom if freedom < 1 else float(np.floor(freedom)), one_variance=False)
                    for freedom in found.freedom * np.ones(len(means))
                ]
            )
            below |= found.mean > constant * found.error
        kept.append(1 - below.mean())
    return float(np.mean(kept))


def two_models(episodes: int, tables: int, random: np.random.Generator) -> float:
    """Coverage of the interval of two given models: their difference is fixed, the episodes are drawn."""
    mean = random.standard_normal(tables) * np.sqrt(2 * (EPISODE_SD**2 + REST_SD**2) / episodes)
    over_episodes = of_difference(wishart(tables, 2, episodes - 1, random), 1) * (EPISODE_SD**2 + REST_SD**2)
    found = of_two_models(Pair(mean, 1, episodes, np.nan, over_episodes, np.nan))
    return float(((found.low <= 0) & (found.high >= 0)).mean())


def falsely_told(case: Case, tables: int, random: np.random.Generator) -> dict[str, object]:
    """Two configurations that are one: how often the interval of two models, read as one of methods, excludes 0."""
    drawn = draw(case, tables, random)
    (pair,) = drawn.pairs[0]
    models = of_two_models(pair)
    return {"S": case.seeds, "seed sd": case.seed_sd, "excludes 0 %": 100 * float((models.p < LEVEL).mean())}


def against_paper(case: Case, tables: int, random: np.random.Generator) -> dict[str, object]:
    """Coverage of ours minus paper, and how often a paper that is reproduced is called above or below."""
    drawn = draw(case, tables, random)
    variance, freedom = cell_spread(drawn.means)
    over_episodes = 1.96 * np.sqrt((EPISODE_SD**2 + HARDNESS_SD**2) / case.episodes)
    hardness, theirs_of_episodes = random.standard_normal((2, tables)) * HARDNESS_SD / np.sqrt(case.episodes)
    # A cell's sd over seeds is that of the seed's part, common to all rows, and of the training's residual.
    luck = random.standard_normal(tables) * case.seed_sd * POINT * np.sqrt(2)
    theirs = luck + theirs_of_episodes + random.standard_normal(tables) * EPISODE_SD / np.sqrt(case.episodes)
    difference = drawn.means[0][:, 0].mean(axis=1) + hardness - theirs
    halves, words = zip(
        *(
            against_published(float(d), over_episodes, over_episodes, float(v), float(f), case.seeds)
            for d, v, f in zip(difference, variance, freedom, strict=True)
        ),
        strict=True,
    )
    told = np.isin(words, [PublishedVerdict.ABOVE, PublishedVerdict.BELOW])
    return {
        "table": case.name,
        "S": case.seeds,
        "seed sd": case.seed_sd,
        "freedom": float(np.median(freedom)),
        "half-width": float(np.median(halves)) / POINT,
        "coverage %": 100 * float((np.abs(difference) <= np.array(halves)).mean()),
        "called above or below %": 100 * float(told.mean()),
    }


def run(report: Report) -> None:
    """Coverage, false verdicts and power of the tables' statistics, by simulation."""
    tables = SHORT_TABLES if report.settings.short else TABLES
    random = np.random.default_rng(11)
    grid = [(s, e, sd) for s in SEEDS for e in EPISODES for sd in SEED_SDS]

    def measured(title: str, cases: Sequence[Case]) -> list[Found]:
        found = [measure(case, tables, random) for case in cases]
        report.table(title, [each.row for each in found])
        report.say(f"{title}: {len(found)} kinds of tables")
        return found

    equal = [Case((0.0,) * (rows - 1), sections, s, e, sd) for sections, rows in LAYOUTS for s, e, sd in grid]
    nothing = measured("no row differs from its baseline", equal)
    mixed = measured(
        "rows of all kinds: as the baseline, at the margin, beyond it",
        [
            Case(differences, 2, s, 2_000, sd)
            for differences in ((0.5,) * 4, (0.0, 0.5, 0.0, -0.5), (0.0, 0.5, 1.0, 3.56))
            for s in SEEDS
            for sd in SEED_SDS
        ],
    )
    missing = measured(
        "trainings missing: row 1 without seed 0, row 2 without seed 1",
        [Case((0.0,) * 4, 2, s, 2_000, sd, missing=((1, 0), (2, 1))) for s in SEEDS for sd in SEED_SDS],
    )
    unequal = {
        factor: measured(
            f"the last row of each section spreads {factor:g} times as much",
            [_one_odd(sections, rows, s, factor) for sections, rows in LAYOUTS[:2] for s in SEEDS],
        )
        for factor in FACTORS
    }
    apart = measured(
        f"all rows of the second section spread {FACTORS[-1]:g} times as much as those of the first",
        [Case((0.0,) * 4, 2, s, 2_000, 0.5, last_section=FACTORS[-1]) for s in SEEDS],
    )
    naive = [
        {"last row": f"{factor:g} times", **measure(_one_odd(2, 5, s, factor), tables, random, of_all_rows).row}
        for factor in (1.0, *FACTORS)
        for s in SEEDS
    ]
    report.table("the same, had all degrees of freedom of the pool counted", naive)
    models = {episodes: two_models(episodes, 10 * tables, random) for episodes in EPISODES}
    papers = [against_paper(Case((0.0,) * 4, 2, s, 2_000, sd), tables, random) for s in SEEDS for sd in SEED_SDS]
    report.table("ours minus paper", papers)
    report.table(
        "one configuration as two rows: how often the interval over episodes, which is of models, excludes 0",
        [falsely_told(Case((0.0,), 1, s, 2_000, sd), tables, random) for s in (1, 2) for sd in SEED_SDS],
    )
    report.table("power: verdicts on a row that is better by so many points, %", power(tables, random))

    alike = [*nothing, *mixed, *missing]
    low, high = (
        edge + sign * 200 * float(np.sqrt(edge * (100 - edge) / 1e4 / tables)) for edge, sign in ((93, -1), (97, 1))
    )
    least, most_note = (
        f"93 % less two standard errors of {tables:,} tables",
        f"97 % and two standard errors of {tables:,} tables",
    )
    report.claim("coverage, rows that spread alike, worst row", _worst(alike), at_least=low, unit=" %", note=least)
    firm = [each for each in nothing if each.freedom >= 6 and each.case.share_of_seeds >= 0.5]
    most = max(100 * float(each.coverage.mean()) for each in firm)
    report.claim("coverage where nu >= 6 and seeds make half of SE2", most, at_most=high, unit=" %", note=most_note)
    error = 300 * float(np.sqrt(LEVEL * (1 - LEVEL) / tables))
    bound, note = 100 * LEVEL + error, f"5 % and three standard errors of {tables:,} tables"
    for what, found in (("no row differs", nothing), ("rows of all kinds", mixed), ("trainings missing", missing)):
        report.claim(f"false tables, {what}, worst", _most_false(found), at_most=bound, unit=" %", note=note)
    for factor, found in unequal.items():
        what = f"a row spreads {factor:g} times as much"
        report.claim(f"coverage, {what}, worst row", _worst(found), at_least=low, unit=" %", note=least)
        report.claim(f"false tables, {what}, worst", _most_false(found), at_most=bound, unit=" %", note=note)
    what = f"a section spreads {FACTORS[-1]:g} times as much"
    report.claim(f"coverage, {what}, worst row", _worst(apart), at_least=low, unit=" %", note=least)
    report.claim(f"false tables, {what}, worst", _most_false(apart), at_most=bound, unit=" %", note=note)
    report.claim("coverage of two models", 100 * min(models.values()), at_least=94, unit=" %")
    report.claim("coverage of ours minus paper, worst", min(p["coverage %"] for p in papers), at_least=93, unit=" %")
    kept = min(each.best_kept for each in nothing)
    report.claim("a row as good as the best is bold, worst", 100 * kept, at_least=100 - bound, unit=" %", note=note)
    # Last, so that what is drawn for the others stays the same.
    classes = [over_classes(case, tables // 2, random) for case in CASES]
    report.table("over a population of test classes: effects of classes on a difference, in points", classes)
    worst = min(float(str(each["coverage %"])) for each in classes)
    report.claim("coverage over test classes, worst", worst, at_least=93, unit=" %", note=f"{tables // 2:,} tables")
    lengths = {
        apart: [measure(_of_lengths(sds, s), tables, random, apart=apart) for sds in LENGTHS for s in (2, 3, 5)]
        for apart in (False, True)
    }
    for separate, found in lengths.items():
        which = "each by itself" if separate else "pooled over all lengths"
        rows = [{"sds": ", ".join(map(str, each.case.section_sds)), **each.row} for each in found]
        report.table(f"two rows in five lengths of training, {which}", rows)
    what = "five lengths of training"
    report.claim(f"coverage, {what}, worst row", _worst(lengths[True]), at_least=low, unit=" %", note=least)
    report.claim(f"false tables, {what}, worst", _most_false(lengths[True]), at_most=bound, unit=" %", note=note)


def _one_odd(sections: int, rows: int, seeds: int, factor: float) -> Case:
    """The last row of each section spreads `factor` times as much as the others."""
    return Case((0.0,) * (rows - 1), sections, seeds, 2_000, 0.5, odd_sd=0.5 * factor)


def _of_lengths(sds: tuple[float, ...], seeds: int) -> Case:
    """Two rows in sections whose trainings have these sds over seeds."""
    return Case((0.0,), len(sds), seeds, 2_000, 0.5, section_sds=sds)


def power(tables: int, random: np.random.Generator) -> list[dict[str, object]]:
    """Rows of 2c's layout with these gains, of which each section has one of each."""
    rows = []
    for sd in SEED_SDS:
        for seeds in SEEDS:
            found = measure(Case(GAINS, 2, seeds, 2_000, sd), tables, random)
            by_gain = found.decided.reshape(2, -1).mean(axis=0)
            shares = {f"{gain:+g}": 100 * float(share) for gain, share in zip(GAINS, by_gain, strict=True)}
            rows.append({"seed sd": sd, "S": seeds, "half-width": found.half / POINT, **shares})
    return rows


def _worst(found: Sequence[Found]) -> float:
    return 100 * min(float(each.coverage.min()) for each in found)


def _most_false(found: Sequence[Found]) -> float:
    return 100 * max(each.false_tables for each in found)


if __name__ == "__main__":
    sys.exit(main("statistics", run))
