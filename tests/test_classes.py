"""The interval over test classes: by hand, by plain loops over episodes, and from records to printed lines."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from dmf.config import EvaluationConfig
from dmf.records import facts
from dmf.records.classes import drawn_classes, sums_by_class
from reports.cells import AgainstBaseline, OtherClasses, Table
from reports.fill import fill
from reports.layouts import TABLES
from reports.render.data import to_csv, to_json
from reports.render.markdown import to_markdown
from reports.render.page import to_html
from reports.render.terminal import to_terminal
from reports.statistics.classes import class_design, classes_half, classes_part, jackknife, of_other_classes
from reports.statistics.pairs import Estimate, Pair, of_methods_alone, of_two_models, paired
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell
from reports.words import percent
from tests.records_in_memory import InMemory, planned

ROOT = Path(__file__).resolve().parents[1]
RING = np.array([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)])
TEST = EvaluationConfig(episodes=300, shot=1)


def sums_of(drawn: np.ndarray, values: np.ndarray, classes: int) -> np.ndarray:
    return np.array([values[(drawn == number).any(axis=1)].sum() for number in range(classes)])


def test_five_episodes_by_hand() -> None:
    # left without class 0: (1.2 - .2) / 3 = .33333, and so on: .26667 .16667 .16667 .26667, mean .24; squares of
    # deviations .0087111 + .0007111 + 2 * .0053778 + .0007111 = .0208889, times 4 / 5 = .0167111
    design = class_design(RING, 5)
    values = np.array([0.1, 0.3, 0.4, 0.3, 0.1])
    sums = sums_of(RING, values, 5)
    assert sums.tolist() == pytest.approx([0.2, 0.4, 0.7, 0.7, 0.4])
    assert design is not None and design.draws.tolist() == [2] * 5
    assert jackknife(design, sums, values.sum()) == pytest.approx(0.0167111, abs=1e-7)
    # Any class leaves 3 of 5 episodes; two that share an episode leave 2, others 1. Covariances are 3/9 (5 times), 2/9
    # and 1/9 (10 times each): 5 * 4/5 * (15/9 - (15 + 20 + 10)/9 / 5) = 8/3 times an episode's share
    assert design.noise == pytest.approx(8 / 3)
    # Half of 5/3 of .018 / 5 comes off: .0167111 - .003
    assert classes_part(design, sums, 0.24, 0.018) == pytest.approx(0.0137111, abs=1e-7)
    assert classes_half(design, sums, values) == pytest.approx(2.7764451 * np.sqrt(0.0137111), abs=1e-6)  # t, 4 degrees


def test_without_effects_of_classes_that_of_the_episodes_remains() -> None:
    # The values of the ring are .1 .2 .3 0 .4: the jackknife's .0035556 less .5 * 5/3 * .025 / 5 is below .025 / 5.
    design = class_design(RING, 5)
    values = np.array([0.1, 0.2, 0.3, 0.0, 0.4])
    sums = sums_of(RING, values, 5)
    assert design is not None and jackknife(design, sums, 1.0) == pytest.approx(0.0035556, abs=1e-7)
    assert classes_part(design, sums, 0.2, 0.025) == pytest.approx(0.005)


def test_additive_effects_of_classes_give_the_variance_of_their_mean() -> None:
    """All 21 pairs of 7 classes: the mean is that of the classes' effects, and its variance theirs over 7."""
    drawn = np.array(list(itertools.combinations(range(7), 2)))
    effects = np.random.default_rng(0).normal(0, 0.02, 7)
    values = effects[drawn].mean(axis=1)
    design = class_design(drawn, 7)
    assert design is not None
    assert jackknife(design, sums_of(drawn, values, 7), values.sum()) == pytest.approx(effects.var(ddof=1) / 7)
    assert design.noise == pytest.approx(2 * 6 / 5)  # N (C - 1) / (C - N)


def test_the_jackknife_is_that_of_plain_loops_and_noise_is_its_mean() -> None:
    drawn, random = drawn_classes(TEST, 20), np.random.default_rng(1)
    design = class_design(drawn, 20)
    assert design is not None
    found = []
    for number in range(300):
        values = random.normal(0.1, 0.05, 300)
        variance = jackknife(design, sums_of(drawn, values, 20), values.sum())
        if number == 0:
            left = [values[~(drawn == each).any(axis=1)].mean() for each in range(20)]
            assert variance == pytest.approx(19 / 20 * ((left - np.mean(left)) ** 2).sum())
        found.append(variance)
    assert np.mean(found) == pytest.approx(design.noise * 0.05**2 / 300, rel=0.06)


@pytest.mark.parametrize(
    ("drawn", "classes"),
    [
        (np.array(list(itertools.combinations(range(4), 3))), 4),  # no more than way + 1 classes
        (RING, 6),  # a class that no episode draws
        (np.array([(0, 1), (0, 2), (0, 3), (0, 4)]), 5),  # and one that all do
    ],
)
def test_too_few_classes_give_no_interval(drawn: np.ndarray, classes: int) -> None:
    assert class_design(drawn, classes) is None


def test_one_seed_has_the_classes_freedom_and_several_share_it() -> None:
    drawn = drawn_classes(TEST, 20)
    design = class_design(drawn, 20)
    assert design is not None
    random = np.random.default_rng(2)
    effects = random.normal(0, 0.02, 20)[drawn].mean(axis=1)
    ours = 0.6 + effects + random.normal(0, 0.05, (3, 300)) + random.normal(0, 0.02, (3, 1))
    baseline = 0.6 + random.normal(0, 0.05, (3, 300))
    one = paired(ours[:1], baseline[:1])
    sums = sums_of(drawn, (ours - baseline)[0], 20)
    models = of_other_classes(of_two_models(one), one, design, sums)
    assert models.freedom == pytest.approx(19)
    assert models.error**2 == pytest.approx(classes_part(design, sums, one.mean, one.over_episodes))

    three = paired(ours, baseline)
    sums = sums_of(drawn, (ours - baseline).mean(axis=0), 20)
    alone = Estimate(three.mean, np.sqrt(three.over_seeds / 3 + three.episodes_part), 6.0)
    found = of_other_classes(alone, three, design, sums)
    own = classes_part(design, sums, three.mean, three.over_episodes) - three.rest / (3 * 300)
    seeds, of_episodes = three.over_seeds / 3, three.episodes_part
    assert found.error**2 == pytest.approx(seeds + own)
    of_seeds = (seeds + of_episodes) ** 2 / 6 - of_episodes**2 / 299
    assert found.freedom == pytest.approx((seeds + own) ** 2 / (of_seeds + own**2 / 19)) and found.freedom < 19
    poorly = of_methods_alone(three)
    assert poorly.freedom == pytest.approx(2, abs=0.01)
    assert of_other_classes(poorly, three, design, sums).freedom == poorly.freedom
    assert found.half > models.half > 0 and found.half > alone.half


def test_differences_that_do_not_vary_have_no_width() -> None:
    design = class_design(RING, 5)
    assert design is not None
    pair = Pair(0.2, 1, 5, np.nan, 0.0, np.nan)
    found = of_other_classes(of_two_models(pair), pair, design, np.full(5, 0.4))
    assert (float(found.low), float(found.high)) == pytest.approx((0.2, 0.2))


# From records to tables


def counts(effects: np.ndarray, mean: float, seed: int, test: EvaluationConfig = TEST) -> np.ndarray:
    """Right answers [E, N] of 15 queries, for `effects` [C] on the chance of a right one."""
    chances = mean + effects[drawn_classes(test, len(effects))]
    return np.random.default_rng(seed).binomial(test.queries, np.clip(chances, 0, 1))


def record(records: InMemory, cell: PlannedCell, correct: np.ndarray, seed: int, classes: int) -> None:
    test = cell.evaluation
    made = records.tested(cell, correct.sum(axis=1) / (test.way * test.queries), seed)
    by_class = made.replace(episode_accuracies=(), correct=tuple(map(tuple, correct.tolist())), classes=classes)
    records.evaluations[made.training_key, made.evaluation_key] = by_class


def pair_of_rows(classes: int, gain_sd: float, test: EvaluationConfig = TEST) -> tuple[list[PlannedCell], InMemory]:
    """Table 2a with 3 seeds: dynamic sampling gains 8 points on average, and on some classes more."""
    records, random = InMemory(), np.random.default_rng(3)
    cells = [planned("2a", test, (0, 1, 2), model__dynamic_sampling=on) for on in (False, True)]
    hard, gain = random.normal(0, 0.1, classes), random.normal(0, gain_sd, classes)
    gain += 0.08 - gain.mean()
    for row, cell in enumerate(cells):
        for seed in cell.seeds:
            record(records, cell, counts(hard + row * gain, 0.5, 10 * seed + row, test), seed, classes)
    return cells, records


def compared(table: Table) -> AgainstBaseline:
    (found,) = (cell.to_baseline for section in table.sections for cell in section.cells if cell.to_baseline)
    return found


def printed(table: Table) -> str:
    console = Console(width=400, file=io.StringIO(), color_system=None)
    console.print(to_terminal(table, 400))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_sums_of_records_are_those_of_their_episodes_and_add_up() -> None:
    cells, records = pair_of_rows(20, 0.0)
    one, other = (records.evaluations[cell.trainings[0].key, TEST.key] for cell in cells)
    sums = [np.array(facts.Tested.of(each).class_sums) for each in (one, other)]
    drawn = drawn_classes(TEST, 20)
    right = [np.array(each.correct).sum(axis=1) for each in (one, other)]
    assert sums[0].tolist() == sums_of(drawn, right[0], 20).tolist()
    assert (sums[1] - sums[0]).tolist() == list(sums_by_class(drawn, right[1] - right[0], 20))
    assert facts.Tested.of(one.replace(classes=None)).class_sums == ()


@pytest.mark.parametrize(("gain_sd", "holds"), [(0.0, True), (0.25, False)])
def test_a_verdict_says_whether_it_would_hold_for_other_classes(gain_sd: float, holds: bool) -> None:
    cells, records = pair_of_rows(20, gain_sd)
    table = fill(TABLES["2a"], cells, records)
    against = compared(table)
    assert against.verdict is Verdict.BETTER and against.holds_for_other_classes is holds
    over = against.other_classes
    assert over is not None and over.classes == 20 and over.low < against.low and against.high < over.high
    text = percent(over.low, signed=True)
    said = "yes" if holds else "not shown"
    line = f"[{text}, {percent(over.high, signed=True)}] over 20 test classes: {said}."
    assert "would it hold for other classes? " in printed(table) and line in printed(table)
    assert "with at most 19 degrees of freedom" in printed(table)
    for written in (to_markdown(table), to_html([table], "Tables")):
        assert "other classes" in written and text in written
    (csv_row,) = (line for line in to_csv(table).splitlines() if "with dynamic sampling" in line)
    assert f",20,{text.replace('−', '-').removeprefix('+')}," in csv_row
    assert f",{said}," in csv_row
    assert Table.model_validate_json(to_json(table)) == table


def test_a_verdict_does_not_depend_on_the_classes() -> None:
    cells, records = pair_of_rows(20, 0.25)
    with_classes = compared(fill(TABLES["2a"], cells, records))
    for key, each in records.evaluations.items():
        records.evaluations[key] = each.replace(
            episode_accuracies=tuple(each.accuracies.tolist()), correct=(), classes=None, format=1
        )
    table = fill(TABLES["2a"], cells, records)
    without = compared(table)
    assert without.replace(other_classes=None) == with_classes.replace(other_classes=None)
    assert without.other_classes == OtherClasses(obstacle=without.other_classes.obstacle)
    assert "would hold for other test classes is not known: records of an older format" in printed(table)
    assert "other classes?" not in printed(table) and "other classes |" not in to_markdown(table)


def test_few_classes_say_so() -> None:
    cells, records = pair_of_rows(6, 0.0)
    found = compared(fill(TABLES["2a"], cells, records)).other_classes
    assert found == OtherClasses(obstacle="5-way episodes of 6 classes leave too few of them out")


def test_a_cell_covers_its_classes() -> None:
    cells, records = pair_of_rows(20, 0.0)
    (section,) = fill(TABLES["2a"], cells, records).sections
    baseline = next(cell for cell in section.cells if cell.is_baseline)
    accuracies = [records.evaluations[training.key, TEST.key].accuracies for training in cells[0].trainings]
    values, drawn = np.mean(accuracies, axis=0), drawn_classes(TEST, 20)
    left = np.array([values[~(drawn == number).any(axis=1)].mean() for number in range(20)])
    jack = 19 / 20 * ((left - left.mean()) ** 2).sum()
    design = class_design(drawn, 20)
    assert design is not None
    variance = jack - (design.noise - 1) / 2 * values.var(ddof=1) / 300
    assert baseline.classes_ci95 == pytest.approx(stats.t.ppf(0.975, 19) * np.sqrt(variance))
    assert baseline.classes_ci95 > 3 * baseline.ci95


def test_same_holds_inside_the_margin() -> None:
    against = AgainstBaseline(baseline="b", verdict=Verdict.SAME, margin=0.005)
    for low, high, holds in ((-0.004, 0.003, True), (-0.004, 0.006, False), (-0.006, 0.001, False)):
        over = OtherClasses(classes=20, low=low, high=high)
        assert against.replace(other_classes=over).holds_for_other_classes is holds
    assert against.holds_for_other_classes is None
    undecided = OtherClasses(classes=20, low=0.01, high=0.02)
    assert against.replace(verdict=Verdict.UNDECIDED, other_classes=undecided).holds_for_other_classes is None
    worse = against.replace(verdict=Verdict.WORSE, other_classes=undecided)
    assert worse.holds_for_other_classes is False


def test_reports_draw_classes_without_pytorch() -> None:
    """Its import would take longer than the tables."""
    program = "import sys, orchestrator.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
