"""Cells hold the numbers of their records, computed by hand, and reject records that contradict themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.records import Failure, Provenance
from reports import words
from reports.cells import Cell, Table
from reports.fill import fill
from reports.layouts import TABLES
from reports.render.columns import printed
from reports.render.texts import NOTHING
from reports.statistics.pairs import PairedTest, of_methods, paired
from reports.statistics.spread import residual_spread
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell
from tests.records_in_memory import InMemory, episodes, planned

FOUR = EvaluationConfig(episodes=4)
GLYPHS = {"data__name": "glyphs", "model__backbone": "conv64f"}


@pytest.fixture
def records() -> InMemory:
    return InMemory()


def only(table: Table) -> dict[str, Cell]:
    """The cells of a table with one section, by label."""
    (section,) = table.sections
    return {cell.label: cell for cell in section.cells}


def pair(table: str = "2a", evaluation: EvaluationConfig = FOUR, seeds: tuple[int, ...] = (0,)) -> list[PlannedCell]:
    """The two rows of table 2a: without and with dynamic sampling."""
    return [planned(table, evaluation, seeds, model__dynamic_sampling=on) for on in (False, True)]


def test_one_seed_by_hand(records: InMemory) -> None:
    cells = pair()
    records.tested(cells[0], [0.4, 0.6, 0.4, 0.5])
    records.tested(cells[1], [0.5, 0.9, 0.6, 0.7])
    found = only(fill(TABLES["2a"], cells, records))
    with_it = found["with dynamic sampling"]
    # mean of .5 .9 .6 .7 is .675; squared deviations .030625 .050625 .005625 .000625 = .0875; 1.96 sqrt(.0875/4)/2
    assert with_it.accuracy == pytest.approx(0.675)
    assert with_it.ci95 == pytest.approx(0.144944, abs=1e-6)
    assert (with_it.episodes, with_it.seeds_done, with_it.seeds_planned) == (4, (0,), (0,))
    assert with_it.seed_sd is None
    against = with_it.to_baseline
    assert against is not None and against.baseline == "without dynamic sampling"
    # the differences of test_statistics.test_two_models_by_hand; the method's by an assumed sd of .005: its variance is
    # 2 * .005^2 + .0408248^2 = .0017167, and t_.975 = 3.182446 for the 3 degrees of 4 episodes: half = .1318573
    assert (against.difference, against.p) == (pytest.approx(0.2), pytest.approx(0.016280, abs=1e-5))
    assert (against.p_holm, against.verdict, against.test) == (None, Verdict.UNDECIDED, PairedTest.TWO_MODELS)
    assert (against.method_low, against.method_high) == pytest.approx((0.2 - 0.1318573, 0.2 + 0.1318573), abs=1e-6)
    assert against.sd_used == 0.005
    assert words.explained(against).startswith(
        "these two models: +20.00 [+7.01, +32.99]; method: undecided (1 seed), [+6.81, +33.19] if the seeds' sd is 0.50"
    )
    assert against.published_difference == pytest.approx(0.0103)
    assert found["without dynamic sampling"].is_baseline and found["without dynamic sampling"].to_baseline is None


def test_several_seeds_by_hand(records: InMemory) -> None:
    (cell,) = [planned("2c", FOUR, (0, 1))]
    records.tested(cell, [0.4, 0.6, 0.4, 0.6], seed=0)
    records.tested(cell, [0.6, 0.8, 0.4, 1.0], seed=1)
    found = only(fill(TABLES["2c"], [cell], records))["64"]
    # averaged .5 .7 .4 .8: mean .6, squared deviations .01 .01 .04 .04, 1.96 sqrt(.1/4)/2; seeds' means .5 .7
    assert found.accuracy == pytest.approx(0.6)
    assert found.ci95 == pytest.approx(1.96 * 0.0790569, abs=1e-6)
    assert found.seed_sd == pytest.approx(0.1 * 2**0.5)
    assert found.records == tuple(f"{training.key}/{cell.evaluation.key}" for training in cell.trainings)


def test_part_of_the_seeds_is_a_partial_cell(records: InMemory) -> None:
    cells = pair(seeds=(0, 1, 2))
    for seed in (0, 2):
        records.tested(cells[0], [0.4, 0.5, 0.4, 0.5], seed)
        records.tested(cells[1], [0.5, 0.7, 0.5, 0.6], seed)
    records.tested(cells[0], [0.1, 0.1, 0.1, 0.2], 1)
    records.ended(cells[1].trainings[1], "failed", Failure(reason="the disk was full"))
    table = fill(TABLES["2a"], cells, records)
    found = only(table)["with dynamic sampling"]
    assert (found.state, found.seeds_done, found.reasons) == (
        "partial",
        (0, 2),
        ("seed 1: failed when last tried: the disk was full",),
    )
    assert found.accuracy == pytest.approx(0.575)
    assert found.to_baseline is not None and found.to_baseline.seeds == (0, 2)
    assert found.to_baseline.difference == pytest.approx(0.125), "the seed that is absent here counts nowhere"
    assert table.verdict.startswith("1 of 2 cells done, 1 partial")
    assert any("seed 1: failed when last tried: the disk was full" in note for note in table.notes)


def test_a_column_says_whose_protocol_a_training_follows(records: InMemory) -> None:
    plain = planned("1", FOUR, model__method="proto_net")
    started = {"model__method": "ideme_net", "start__head": "linear"}
    alike = [planned("1", FOUR, **started, model__protocol=protocol) for protocol in ("clean", "released")]
    table = fill(TABLES["1"], [plain, *alike], records)
    (column,) = [column for column in printed(table) if column.heading == "protocol"]
    told = [column.text(cell) for section in table.sections for cell in section.cells]
    assert sorted(text for text in told if text != NOTHING) == ["clean", "released"]
    assert all(column.heading != "protocol" for column in printed(fill(TABLES["1"], [plain], records)))


def test_empty_cells_say_why(records: InMemory) -> None:
    cells = [planned("2c", FOUR, model__groups=groups) for groups in (1, 64, 160, 320, 640)]
    records.ended(cells[0].trainings[0], "failed", Failure(reason="CUDA out of memory"))
    records.ended(cells[1].trainings[0], "diverged", Failure(reason="the loss is nan", step=12))
    records.at_work.add(cells[2].trainings[0].key)
    records.ended(cells[3].trainings[0])
    found = only(fill(TABLES["2c"], cells, records))
    assert {label: (cell.state, *cell.reasons) for label, cell in found.items()} == {
        "1": ("failed", "failed when last tried: CUDA out of memory"),
        "64": ("diverged", "diverged at step 12"),
        "160": ("running", "running"),
        "320": ("not evaluated", "trained, not evaluated"),
        "640": ("missing", "missing"),
    }
    assert all(cell.accuracy is None and not cell.best for cell in found.values())
    assert found["64"].to_baseline is not None and found["64"].to_baseline.obstacle == "diverged"


def test_seeds_without_a_result_share_a_reason(records: InMemory) -> None:
    cell = planned("2c", FOUR, (0, 1, 2))
    assert only(fill(TABLES["2c"], [cell], records))["64"].reasons == ("missing",)
    records.ended(cell.trainings[1], "diverged", Failure(reason="nan", step=3))
    found = only(fill(TABLES["2c"], [cell], records))["64"]
    assert (found.state, found.reasons) == ("diverged", ("seeds 0, 2: missing", "seed 1: diverged at step 3"))


@pytest.mark.parametrize("what", ["accuracy", "ci95"])
def test_a_summary_that_its_episodes_do_not_give_does_not_count(records: InMemory, what: str) -> None:
    cell = planned("2a", FOUR)
    right = records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    records.tested(cell, right.episode_accuracies, **{what: getattr(right, what) + 1e-8})
    assert f"{right.training_key}/{right.evaluation_key} says {what}=" in damage(cell, records)
    records.tested(cell, right.episode_accuracies, **{what: getattr(right, what) + 1e-10})
    assert only(fill(TABLES["2a"], [cell], records))["with dynamic sampling"].state == "done"


def damage(cell: PlannedCell, records: InMemory) -> str:
    """Why the only cell of a table is damaged."""
    (found,) = (each for each in only(fill(TABLES["2a"], [cell], records)).values() if each.state != "not planned")
    assert (found.state, found.accuracy) == ("damaged", None)
    (reason,) = found.reasons
    return reason


def test_a_damaged_seed_leaves_the_others(records: InMemory) -> None:
    cell = planned("2a", FOUR, (0, 1, 2))
    for seed in cell.seeds:
        right = records.tested(cell, [0.4, 0.6, 0.4, 0.5], seed)
    records.tested(cell, right.episode_accuracies, 1, accuracy=0.99)
    found = only(fill(TABLES["2a"], [cell], records))["with dynamic sampling"]
    assert (found.state, found.seeds_done, found.accuracy) == ("partial", (0, 2), pytest.approx(0.475))
    assert "seed 1: damaged: evaluation" in found.reasons[0]


def test_a_summary_that_is_no_number_does_not_count(records: InMemory) -> None:
    cell = planned("2a", FOUR)
    records.tested(cell, [0.4, 0.6, 0.4, 0.5], accuracy=float("nan"))
    assert "says accuracy=nan" in damage(cell, records)


def test_episodes_that_are_missing_from_a_record_are_noticed(records: InMemory) -> None:
    cell = planned("2a", FOUR)
    records.tested(cell, [0.4, 0.6, 0.4])
    assert "holds 3 episodes, but its config says 4" in damage(cell, records)


def test_a_record_in_the_wrong_place_is_noticed(records: InMemory) -> None:
    cell, other = pair()
    stray = records.tested(other, [0.4, 0.6, 0.4, 0.5])
    records.evaluations[cell.trainings[0].key, cell.evaluation.key] = stray
    told = damage(cell, records)
    assert f"{stray.training_key}/" in told and f"is in the place of {cell.trainings[0].key}" in told


def test_other_episodes_than_the_baselines_are_not_paired(records: InMemory) -> None:
    cells = pair()
    records.tested(cells[0], [0.4, 0.6, 0.4, 0.5], bank="one")
    records.tested(cells[1], [0.5, 0.9, 0.6, 0.7], bank="another")
    found = only(fill(TABLES["2a"], cells, records))["with dynamic sampling"].to_baseline
    assert found is not None and (found.difference, found.p) == (None, None)
    assert found.obstacle == "not paired: the baseline has other episodes or images"


def test_other_images_behind_the_same_positions_are_not_paired(records: InMemory) -> None:
    cells = pair()
    records.tested(cells[0], [0.4, 0.6, 0.4, 0.5])
    records.tested(cells[1], [0.5, 0.9, 0.6, 0.7], data_fingerprint="1" * 64)
    found = only(fill(TABLES["2a"], cells, records))
    against = found["with dynamic sampling"].to_baseline
    assert against is not None and against.p is None and against.obstacle.startswith("not paired")


def test_seeds_on_different_episodes_make_no_cell(records: InMemory) -> None:
    cell = planned("2a", FOUR, (0, 1))
    records.tested(cell, [0.4, 0.6, 0.4, 0.5], 0, bank="one")
    records.tested(cell, [0.4, 0.6, 0.4, 0.5], 1, bank="another")
    found = only(fill(TABLES["2a"], [cell], records))["with dynamic sampling"]
    assert (found.state, found.accuracy) == ("refused", None)
    assert found.reasons[0].count("another") == 1 and "one of" in found.reasons[0]


def test_no_seed_in_common_and_no_baseline_are_said(records: InMemory) -> None:
    cells = [planned("2a", FOUR, (0,), model__dynamic_sampling=False), planned("2a", FOUR, (1,))]
    records.tested(cells[0], [0.4, 0.6, 0.4, 0.5], 0)
    records.tested(cells[1], [0.4, 0.6, 0.4, 0.5], 1)
    tables = [fill(TABLES["2a"], some, records) for some in (cells, cells[1:])]
    against = [only(table)["with dynamic sampling"].to_baseline for table in tables]
    verdicts = [words.verdict(comparison) for comparison in against if comparison]
    assert verdicts == ["not paired: the baseline has other seeds", "baseline not planned"]


def several(
    table: str, means: dict[object, float], records: InMemory, path: str, seeds: tuple[int, ...], sd: float = 0.004
) -> list[PlannedCell]:
    """Cells of `table` by value of `path`, 60 episodes and these seeds each, with an sd over seeds."""
    cells = [planned(table, EvaluationConfig(episodes=60), seeds, **{path: value}) for value in means]
    for index, (cell, mean) in enumerate(zip(cells, means.values(), strict=True)):
        for seed in seeds:
            random = np.random.default_rng(100 * index + seed)
            records.tested(cell, np.full(60, mean + random.normal(0, sd)) + random.normal(0, 0.01, 60), seed)
    return cells


def test_p_is_adjusted_over_the_whole_table(records: InMemory) -> None:
    cells = [
        planned("2d", EvaluationConfig(episodes=60), (0, 1), model__alignment=a, episodes__shot=shot, model__groups=64)
        for shot in (1, 5)
        for a in (0, 1, 2)
    ]
    for index, cell in enumerate(cells):
        for seed in cell.seeds:
            noise = np.random.default_rng(10 * index + seed).normal(0, 0.02, 60)
            records.tested(cell, np.clip(episodes(0.6 + 0.002 * index, 60) + noise, 0, 1), seed)
    made = [c.to_baseline for s in fill(TABLES["2d"], cells, records).sections for c in s.cells if c.to_baseline]
    assert len(made) == 4
    p_values = np.array([comparison.p for comparison in made])
    # Nothing is the same within so small a margin: each of the four takes its share.
    assert [comparison.p_holm for comparison in made] == pytest.approx(np.minimum(4 * p_values, 1))


def test_a_methods_interval_is_that_of_its_blocks(records: InMemory) -> None:
    cells = several("2d", {0: 0.50, 1: 0.60, 2: 0.502}, records, "model__alignment", (0, 1, 2))
    table = fill(TABLES["2d"], cells, records)
    samples = [
        np.array([records.evaluations[c.key, cell.evaluation.key].accuracies for c in cell.trainings]) for cell in cells
    ]
    spread = residual_spread(np.array([sample.mean(axis=1) for sample in samples]))
    for label, sample in (("1", samples[1]), ("2", samples[2])):
        expected = of_methods(paired(sample, samples[0]), spread)
        against = only(table)[label].to_baseline
        assert against is not None and against.test is PairedTest.POOLED
        assert (against.low, against.high) == pytest.approx((expected.low, expected.high))
    assert only(table)["1"].to_baseline.verdict is Verdict.BETTER
    undecided = only(table)["2"].to_baseline
    assert undecided.verdict is Verdict.UNDECIDED and undecided.more_seeds is not None
    assert f"undecided, about {undecided.more_seeds} more seed" in words.explained(undecided)
    assert any("(4 degrees of freedom, from this table's rows;" in note for note in table.notes)


def test_a_small_difference_that_is_detected_is_the_same_and_says_so(records: InMemory) -> None:
    cells = several("2d", {0: 0.500, 1: 0.502, 2: 0.55}, records, "model__alignment", tuple(range(8)), sd=0.0001)
    for cell in cells:  # the episodes' part must be small, too
        for seed in cell.seeds:
            records.tested(
                cell, np.full(60, {0: 0.5, 1: 0.502, 2: 0.55}[cell.config.model.alignment]) + 1e-5 * seed, seed
            )
    against = only(fill(TABLES["2d"], cells, records))["1"].to_baseline
    assert against is not None and against.verdict is Verdict.SAME and against.is_detected
    assert words.explained(against) == "same within 0.5 (+0.20)"
    assert words.verdict(against) == "same within 0.5"


def test_a_table_with_few_seeds_pools_over_its_sweep(records: InMemory) -> None:
    pair_cells = several("2a", {False: 0.50, True: 0.52}, records, "model__dynamic_sampling", (0, 1))
    others = several("2c", dict.fromkeys((1, 160, 320, 640), 0.5), records, "model__groups", (0, 1))
    alone = only(fill(TABLES["2a"], pair_cells, records))["with dynamic sampling"].to_baseline
    table = fill(TABLES["2a"], [*pair_cells, *others], records)
    with_sweep = only(table)["with dynamic sampling"].to_baseline
    assert alone is not None and with_sweep is not None and alone.high is not None and with_sweep.high is not None
    assert with_sweep.high - with_sweep.low < (alone.high - alone.low) / 2
    # Six trainings with two seeds each, all of one data set, way and shot: one section of 6 rows
    assert any("(5 degrees of freedom, from the sweep's rows on the same data;" in note for note in table.notes)


def test_one_seed_takes_the_sweeps_spread_and_stays_undecided(records: InMemory) -> None:
    one = several("2a", {False: 0.50, True: 0.60}, records, "model__dynamic_sampling", (0,))
    others = several("2c", dict.fromkeys((1, 160, 320), 0.5), records, "model__groups", (0, 1, 2))
    table = fill(TABLES["2a"], [*one, *others], records)
    against = only(table)["with dynamic sampling"].to_baseline
    assert against is not None and against.verdict is Verdict.UNDECIDED and against.low is not None and against.low > 0
    assert against.sd_used is not None and against.sd_used != 0.005
    assert any("found in the sweep's rows on the same data (4 degrees of freedom)" in note for note in table.notes)
    assert "1 undecided" in table.verdict


def test_a_training_counts_once_although_tables_share_it(records: InMemory) -> None:
    cells = several("2a", {False: 0.50, True: 0.52}, records, "model__dynamic_sampling", (0, 1))
    shared = [cell.replace(table="2b") for cell in cells]
    table = fill(TABLES["2a"], [*cells, *shared], records)
    assert any("(1 degree of freedom, from this table's rows;" in note for note in table.notes)


def test_a_training_tested_on_two_banks_counts_once_and_is_compared_on_both(records: InMemory) -> None:
    cells = several("2a", {False: 0.50, True: 0.52}, records, "model__dynamic_sampling", (0, 1, 2))
    also = [cell.replace(evaluation__shot=5) for cell in cells]
    for index, cell in enumerate(also):
        for seed in cell.seeds:
            records.tested(cell, np.full(60, 0.7 + 0.03 * index + 0.01 * (seed == index)), seed, bank="other")
    table = fill(TABLES["2a"], [*cells, *also], records)
    assert any("(2 degrees of freedom, from" in note for note in table.notes)
    second = next(cell for cell in table.sections[1].cells if cell.to_baseline).to_baseline
    # The squares of the first bank are the same trainings', so the pair of the second goes by its own alone.
    of_pair = np.array([-0.01, 0.01, 0.0]) + 0.03
    variance = of_pair.var(ddof=1) / 3
    assert second is not None and second.high is not None and second.difference == pytest.approx(0.03)
    assert second.high - 0.03 == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(variance), rel=1e-6)
    assert second.test is PairedTest.OWN


def test_differences_that_agree_by_chance_or_never_vary_decide_nothing(records: InMemory) -> None:
    cells = [planned("2a", EvaluationConfig(episodes=2), (0, 1), model__dynamic_sampling=x) for x in (False, True)]
    for cell, accuracies in zip(cells, (([0.4, 0.4], [0.4, 0.4]), ([0.6, 0.4], [0.4, 0.6])), strict=True):
        for seed in (0, 1):
            records.tested(cell, np.array(accuracies[seed]), seed)
    against = only(fill(TABLES["2a"], cells, records))["with dynamic sampling"].to_baseline
    assert against is not None and against.verdict is Verdict.UNDECIDED and against.low is not None and against.low < -1
    for cell in cells:
        for seed in (0, 1):
            records.tested(cell, np.ones(2), seed)
    saturated = only(fill(TABLES["2a"], cells, records))["with dynamic sampling"]
    assert saturated.to_baseline is not None and saturated.to_baseline.verdict is Verdict.UNDECIDED
    assert saturated.to_published is not None and saturated.to_published.verdict == "undecided"
    assert (saturated.to_baseline.more_seeds, saturated.to_baseline.episodes_needed) == (None, None)


def test_a_row_that_is_the_baselines_training_is_not_tested(records: InMemory) -> None:
    cells = [planned("2c", EvaluationConfig(episodes=60), (0, 1), model__groups=g, model__alignment=0) for g in (1, 64)]
    assert cells[0].training_keys == cells[1].training_keys
    for seed in (0, 1):
        records.tested(cells[0], np.full(60, 0.5 + 0.01 * seed), seed)
    against = only(fill(TABLES["2c"], cells, records))["64"].to_baseline
    assert against is not None and (against.obstacle, against.verdict) == ("the same training as the baseline", None)


@pytest.mark.parametrize(
    "pre_trained",
    [{"start.head": "linear", "start.seed": 0}, {"model.weights": "w.safetensors", "model.weights_sha256": "a" * 64}],
    ids=["a pre-training of one seed", "weights from a file"],
)
def test_one_pre_training_is_one_training_however_many_seeds_start_from_it(
    records: InMemory, pre_trained: dict[str, Any]
) -> None:
    config = ExperimentConfig().with_paths({"model.method": "classifier_baseline", **pre_trained})
    tested = EvaluationConfig(episodes=60)
    one = PlannedCell(table="1", config=config, evaluation=tested.resolve(config), seeds=(0, 1, 2))
    several_trainings = planned("1", tested, (0, 1, 2), model__method="proto_net")
    for seed in (0, 1, 2):
        records.tested(one, np.full(60, 0.53) + np.arange(60) * 1e-4, seed)
        records.tested(several_trainings, np.full(60, 0.5 + 0.004 * seed), seed)
    found = only(fill(TABLES["1"], [one, several_trainings], records))
    against = found["Classifier-Baseline"].to_baseline
    assert against is not None and (against.test, against.verdict) == (PairedTest.TWO_MODELS, Verdict.UNDECIDED)
    assert against.single and (against.more_seeds, against.episodes_needed) == (None, None)
    assert "method: undecided (a single training), [" in words.explained(against)
    assert "more seed" not in words.explained(against)
    assert found["Classifier-Baseline"].seed_sd is None, "equal means of one training are no luck of three"
    assert found["ProtoNet"].seed_sd == pytest.approx(0.004)


def test_a_single_training_differs_by_the_whole_luck_of_a_seed(records: InMemory) -> None:
    """What a seed adds to all rows cancels between trainings of that seed, but not against weights from a file."""
    luck, tested = (0.03, -0.02, -0.02, 0.01), EvaluationConfig(episodes=60)
    cells = [
        planned("1", tested, (0, 1, 2, 3), model__method=method) for method in ("proto_net", "matching_net", "dmf")
    ]
    weights = {"model.weights": "w.safetensors", "model.weights_sha256": "a" * 64}
    config = ExperimentConfig().with_paths({"model.method": "classifier_baseline", **weights})
    one = PlannedCell(table="1", config=config, evaluation=tested.resolve(config), seeds=(0,))
    random = np.random.default_rng(0)
    for cell in (*cells, one):
        for seed in cell.seeds:
            mean = 0.5 + (luck[seed] if cell is not one else 0) + random.normal(0, 0.001)
            records.tested(cell, mean + random.normal(0, 0.005, 60), seed)
    found = {cell.label: cell for cell in fill(TABLES["1"], [*cells, one], records).sections[0].cells if cell.accuracy}
    against = found["Classifier-Baseline"].to_baseline
    assert against is not None and against.single and against.sd_used is not None and against.sd_freedom is not None
    assert against.sd_used == pytest.approx(np.std(luck, ddof=1), rel=0.1) and against.sd_freedom < 3.1
    assert against.method_low is not None and against.method_high is not None
    assert against.method_low < -0.05 < 0.0 < against.method_high, (
        "the file's weights are as good as the others on average"
    )
    assert all(cell.best for cell in found.values())
    notes = fill(TABLES["1"], [*cells, one], records).notes
    assert any(
        f"a seeds' sd of {100 * against.sd_used:.2f}, as found in this table's rows (3 d" in note for note in notes
    )


def test_rows_without_luck_are_compared_over_all_seeds_of_the_other(records: InMemory) -> None:
    means, tested = np.array([0.58, 0.62, 0.60, 0.64]), EvaluationConfig(episodes=60)
    proto = planned("1", tested, (0, 1, 2, 3), model__method="proto_net")
    raw = planned("1", tested, model__method="raw_pixels")
    for seed, mean in enumerate(means):
        records.tested(proto, np.full(60, mean), seed)
    records.tested(raw, np.full(60, 0.5))
    against = only(fill(TABLES["1"], [proto, raw], records))["raw pixels, cosine"].to_baseline
    half = stats.t.ppf(0.975, 3) * means.std(ddof=1) / 2
    assert against is not None and (against.test, against.seeds) == (PairedTest.OWN, (0, 1, 2, 3))
    assert (against.difference, against.low) == (pytest.approx(-0.11), pytest.approx(-0.11 - half))
    assert against.verdict is Verdict.WORSE and words.explained(against) == "worse, own variance"
    # With one seed of the other, its luck alone is in the difference: half an assumed point, over no episodes' spread.
    first = only(fill(TABLES["1"], [proto.replace(seeds=(0,)), raw], records))["raw pixels, cosine"].to_baseline
    assert first is not None and first.method_high == pytest.approx(-0.08 + stats.t.ppf(0.975, 59) * 0.005)


def test_raw_pixels_may_be_what_others_are_compared_with(records: InMemory) -> None:
    layout = TABLES["1"].replace(baseline="raw_pixels", compare=(("dmf", "raw_pixels"),))
    cells = several("1", {"proto_net": 0.6, "dmf": 0.7, "raw_pixels": 0.3}, records, "model__method", (0, 1, 2))
    table = fill(layout, cells, records)
    found = {cell.label: cell for cell in table.sections[0].cells if cell.accuracy is not None}
    assert [found[label].to_baseline.verdict for label in ("ProtoNet", "DMF")] == [Verdict.BETTER, Verdict.BETTER]
    (asked,) = table.sections[0].asked
    assert asked.against.verdict is Verdict.BETTER and asked.against.baseline == "raw pixels, cosine"


def test_with_one_common_seed_a_row_that_spreads_more_has_its_own_spread(records: InMemory) -> None:
    cells = several("2d", {0: 0.50, 1: 0.50, 2: 0.50, 3: 0.50}, records, "model__alignment", tuple(range(6)), sd=0.002)
    means = 0.5 + 0.05 * (-1.0) ** np.arange(6)
    for seed in range(6):
        records.tested(cells[2], np.full(60, means[seed]) + np.arange(60) * 1e-4, seed)
    first = cells[0].replace(seeds=(0,))
    found = only(fill(TABLES["2d"], [first, *cells[1:]], records))
    odd, other = found["2"].to_baseline, found["1"].to_baseline
    assert odd is not None and other is not None and odd.sd_used is not None and other.sd_used is not None
    assert odd.sd_used == pytest.approx(means.std(ddof=1) / np.sqrt(2), rel=0.01) and other.sd_used < 0.003
    assert (odd.sd_freedom, other.sd_freedom) == (5, 5)
    assert odd.method_low is not None and odd.method_low < 0 and found["2"].best


def test_rows_that_always_agree_need_no_seeds_since_none_would_do(records: InMemory) -> None:
    cells = pair(seeds=(0, 1, 2))
    for cell in cells:
        for seed in cell.seeds:
            records.tested(cell, np.array([0.4, 0.6, 0.4, 0.5]) + 0.01 * seed, seed)
    against = only(fill(TABLES["2a"], cells, records))["with dynamic sampling"].to_baseline
    assert against is not None and words.explained(against) == "undecided"


@pytest.mark.parametrize(
    "start",
    [{"start.head": "linear", "start.seed": 0}, {"model.weights": "w.safetensors", "model.weights_sha256": "a" * 64}],
    ids=["a pre-training of one seed", "weights from a file"],
)
def test_seeds_do_not_show_the_luck_of_what_they_all_start_from(records: InMemory, start: dict[str, Any]) -> None:
    def cell(method: str, **paths: Any) -> PlannedCell:
        config = ExperimentConfig().with_paths({"model.method": method, **paths})
        return PlannedCell(table="1", config=config, evaluation=FOUR.resolve(config), seeds=(0, 1, 2))

    name = "feat" if "start.head" in start else "matching_net"
    cells = [cell("proto_net"), cell(name, **start), cell("dmf", **({} if "start.head" in start else start))]
    random = np.random.default_rng(0)
    for each, mean in zip(cells, (0.5, 0.6, 0.7), strict=True):
        for seed in each.seeds:
            records.tested(each, mean + random.normal(0, 0.001) + random.normal(0, 0.001, 4), seed)
    layout = TABLES["1"].replace(compare=(("dmf", name),))
    table = fill(layout, cells, records)
    (section,) = table.sections
    assert any("A single training: all its seeds start from one pre-training or file" in note for note in table.notes)
    of_start = next(each for each in section.cells if each.accuracy == pytest.approx(0.6, abs=0.01)).to_baseline
    assert of_start is not None and of_start.single and of_start.verdict is Verdict.UNDECIDED
    assert of_start.more_seeds is None
    (asked,) = section.asked
    shared = "start.head" not in start
    assert asked.against.single is not shared and (asked.against.verdict is Verdict.BETTER) is shared


@pytest.mark.parametrize(
    ("columns", "path", "values"),
    [(("training.epochs",), "training__epochs", (10, 20, 40)), ((), "data__name", ("glyphs", "cifar_fs", "omniglot"))],
    ids=["lengths of training", "data sets"],
)
def test_trainings_that_are_not_alike_do_not_lend_each_other_their_luck(
    records: InMemory, columns: tuple[str, ...], path: str, values: tuple[Any, ...]
) -> None:
    """Luck weighs less in a longer training: with that of the long ones, the short ones would seem to be decided."""
    layout = TABLES["2d"].replace(columns=columns)
    evaluation, cells = EvaluationConfig(episodes=60), []
    every = ((0.07, 0.05, 0.03), (0.011, 0.010, 0.009), (0.0102, 0.0100, 0.0098))
    gains = dict(zip(values, every, strict=True))
    for value, of_seeds in gains.items():
        for alignment in (0, "ode"):
            paths = {**GLYPHS, path: value, "model__alignment": alignment}
            cells.append(planned("2d", evaluation, (0, 1, 2), **paths))
            for seed, gain in enumerate(of_seeds):
                mean = 0.5 + (gain if alignment == "ode" else 0)
                records.tested(cells[-1], np.full(60, mean), seed)
    table = fill(layout, cells, records)
    found = [cell.to_baseline for section in table.sections for cell in section.cells if cell.accuracy]
    halves = [stats.t.ppf(0.975, 2) * np.std(of_seeds, ddof=1) / np.sqrt(3) for of_seeds in every]
    lows = [np.mean(of_seeds) - half for of_seeds, half in zip(every, halves, strict=True)]
    assert sorted(against.low for against in found if against) == pytest.approx(sorted(lows))


def test_a_row_that_spreads_more_has_its_own_interval_against_the_paper(records: InMemory) -> None:
    values = (0, 1, 2, 3, "ode")
    cells = several("2d", dict.fromkeys(values, 0.8), records, "model__alignment", (0, 1, 2), sd=0.001)
    means = np.array([0.86, 0.73, 0.81])
    for seed in (0, 1, 2):
        records.tested(cells[1], np.full(60, means[seed]), seed)
    found = only(fill(TABLES["2d"], cells, records))
    odd, quiet = found["1"], found["2"]
    assert odd.total_ci95 == pytest.approx(stats.t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3))
    assert quiet.total_ci95 is not None and quiet.total_ci95 < 0.01
    assert odd.to_published is not None and odd.to_published.verdict == "undecided"


def test_rows_on_other_episodes_or_seeds_are_compared_unpaired_for_bold(records: InMemory) -> None:
    """Seeds' sd is .002 and that of episodes .01 / sqrt(60): means .3 apart differ, and those .001 apart do not."""
    groups = (1, 64, 160, 320, 640)
    banks, seeds = ("one", "one", "other", "other", "one"), ((0, 1, 2),) * 4 + ((3, 4, 5),)
    cells = [
        planned("2c", EvaluationConfig(episodes=60), s, model__groups=g) for g, s in zip(groups, seeds, strict=True)
    ]
    random = np.random.default_rng(0)
    for cell, mean, bank in zip(cells, (0.3, 0.6, 0.601, 0.3, 0.3), banks, strict=True):
        for seed in cell.seeds:
            records.tested(cell, np.full(60, mean + random.normal(0, 0.002)) + random.normal(0, 0.01, 60), seed, bank)
    found = only(fill(TABLES["2c"], cells, records))
    assert {group for group in groups if found[str(group)].best} == {64, 160}


def test_methods_without_a_seed_stay_out_of_the_spread(records: InMemory) -> None:
    cells = [
        planned("1", EvaluationConfig(episodes=60), (0, 1, 2), model__method=m)
        for m in ("proto_net", "dmf", "raw_pixels")
    ]
    for index, cell in enumerate(cells):
        for seed in cell.seeds:
            random = np.random.default_rng(10 * index + (seed if cell.config.seeded else 0))
            records.tested(cell, np.full(60, 0.5 + random.normal(0, 0.01)) + random.normal(0, 0.01, 60), seed)
    table = fill(TABLES["1"], cells, records)
    found = {cell.label: cell for section in table.sections for cell in section.cells if cell.accuracy is not None}
    assert any("(2 degrees of freedom, from this table's rows;" in note for note in table.notes)
    assert found["DMF"].to_baseline.test is PairedTest.POOLED
    assert found["raw pixels, cosine"].to_baseline.test is PairedTest.OWN
    assert found["raw pixels, cosine"].total_ci95 is None and found["DMF"].total_ci95 is not None


def test_a_row_that_spreads_more_is_compared_by_its_own_variance(records: InMemory) -> None:
    cells = several("2d", {0: 0.50, 1: 0.50, 2: 0.50, 3: 0.50}, records, "model__alignment", tuple(range(6)), sd=0.002)
    for seed in range(6):
        records.tested(cells[2], np.full(60, 0.5 + 0.05 * (-1) ** seed) + np.arange(60) * 1e-4, seed)
    table = fill(TABLES["2d"], cells, records)
    found = {label: cell.to_baseline for label, cell in only(table).items() if cell.to_baseline and cell.accuracy}
    assert [found[label].test for label in "123"] == [PairedTest.POOLED, PairedTest.OWN, PairedTest.POOLED]
    assert ", own variance" in words.explained(found["2"])
    assert any("Own variance:" in note for note in table.notes)


def test_accuracies_over_other_seeds_than_the_difference_are_marked(records: InMemory) -> None:
    cells = pair(seeds=(0, 1, 2))
    for seed in (0, 1, 2):
        records.tested(cells[0], np.array([0.4, 0.5, 0.4, 0.5]) + 0.01 * seed, seed)
    for seed in (0, 2):
        records.tested(cells[1], np.array([0.5, 0.7, 0.5, 0.6]) + 0.02 * seed, seed)
    found = only(fill(TABLES["2a"], cells, records))
    against = found["with dynamic sampling"].to_baseline
    # seeds 0 and 2: .575 .615 and .45 .47
    assert against is not None and against.difference == pytest.approx(0.595 - 0.46)
    assert (against.accuracy, against.baseline_accuracy) == (pytest.approx(0.595), pytest.approx(0.46))
    assert words.explained(against).endswith("; seeds 0, 2: 59.50 − 46.00")
    assert found["without dynamic sampling"].accuracy == pytest.approx(0.46), "of seeds 0, 1 and 2, by chance"


def test_bold_is_no_row_that_another_one_exceeds_on_their_common_seeds(records: InMemory) -> None:
    """Row 64 has the lucky seeds alone, and so the highest mean, but on each of them the baseline is above it."""
    luck = (0.05, 0.05, 0.0, -0.05, -0.05)
    cells = [planned("2c", EvaluationConfig(episodes=60), (0, 1, 2, 3, 4), model__groups=g) for g in (1, 64)]
    random = np.random.default_rng(0)
    for cell, mean, seeds in zip(cells, (0.60, 0.58), ((0, 1, 2, 3, 4), (0, 1)), strict=True):
        for seed in seeds:
            records.tested(cell, mean + luck[seed] + random.normal(0, 1e-4) + random.normal(0, 0.005, 60), seed)
    one, sixty_four = (only(fill(TABLES["2c"], cells, records))[label] for label in ("1", "64"))
    assert one.accuracy is not None and sixty_four.accuracy is not None and sixty_four.accuracy > one.accuracy + 0.01
    assert sixty_four.to_baseline is not None and sixty_four.to_baseline.verdict is Verdict.WORSE
    assert (one.best, sixty_four.best) == (True, False)


def test_bold_are_all_that_are_not_shown_to_be_below_the_best(records: InMemory) -> None:
    cells = several("2c", {1: 0.50, 64: 0.604, 160: 0.600}, records, "model__groups", (0, 1, 2))
    found = only(fill(TABLES["2c"], cells, records))
    assert [found[label].best for label in ("1", "64", "160")] == [False, True, True]


def test_with_one_seed_bold_takes_the_assumed_sd(records: InMemory) -> None:
    cells = several("2c", {1: 0.50, 64: 0.600, 160: 0.601}, records, "model__groups", (0,))
    table = fill(TABLES["2c"], cells, records)
    assert [only(table)[label].best for label in ("1", "64", "160")] == [False, True, True]
    assert any(note.startswith("Bold:") and "if the seeds' sd is 0.50" in note for note in table.notes)


def test_a_single_value_is_not_the_best_of_anything(records: InMemory) -> None:
    cell = planned("2c", FOUR)
    records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    assert not only(fill(TABLES["2c"], [cell], records))["64"].best


PAPER = {"episodes__shot": 5, "model__groups": 160, "model__alignment": 1}


def in_paper(records: InMemory, shift: float, seeds: tuple[int, ...]) -> Cell:
    """The row of Table 2d with 1 alignment, 5-shot, that far from the paper's 82.14, alike for all seeds but .0002."""
    cell = planned("2d", EvaluationConfig(), seeds, **PAPER)
    for number, seed in enumerate(seeds):
        values = np.full(2000, 0.8214 + shift + 0.0002 * (number - (len(seeds) - 1) / 2))
        values[::2] += 0.07
        values[1::2] -= 0.07
        records.tested(cell, values, seed)
    return only(fill(TABLES["2d"], [cell], records))["1"]


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.0, "reproduced"), (0.02, "above"), (-0.02, "below"), (0.008, "above"), (0.004, "reproduced")],
)
def test_against_the_paper(records: InMemory, shift: float, verdict: str) -> None:
    found = in_paper(records, shift, (0, 1, 2))
    assert found.published is not None and found.published.accuracy == 0.8214
    # ours 1.96 * .07 / sqrt(2000) = .0030679; the paper's .0031, of Table 1's row: .0043614 together. The seeds' sd is
    # .0002 with 2 degrees: 4.302653 * .0002 * sqrt(4 / 3) = .00099366
    assert found.to_published is not None
    assert found.to_published.ci95 == pytest.approx(np.hypot(0.0043614, 0.00099366), abs=1e-6)
    assert found.to_published.difference == pytest.approx(shift, abs=1e-9)
    assert (found.to_published.verdict, found.to_published.departures) == (verdict, ())


def test_one_seed_decides_nothing_about_the_paper(records: InMemory) -> None:
    found = in_paper(records, 0.05, (0,))
    # an assumed sd of .005 for both trainings: 1.959964 * .005 * sqrt(2) = .0138590
    assert found.to_published is not None and found.to_published.verdict == "undecided"
    assert found.to_published.ci95 == pytest.approx(np.hypot(0.0043614, 0.0138590), abs=1e-6)


def test_a_shortened_training_is_marked(records: InMemory) -> None:
    cell = planned("2d", FOUR, training__epochs=9)
    records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    table = fill(TABLES["2d"], [cell], records)
    to_paper = only(table)["ODE"].to_published
    assert to_paper is not None and to_paper.departures == ("training.epochs=9",)
    assert (to_paper.words, to_paper.difference) == ("not comparable (recipe)", None)
    assert any("training.epochs=9" in note for note in table.notes)


def test_a_shortened_training_is_not_excused_by_a_section_for_its_length(records: InMemory) -> None:
    layout = TABLES["2d"].replace(name="length", columns=("training.epochs",))
    cells = [planned("length", FOUR, training__epochs=epochs) for epochs in (ExperimentConfig().training.epochs, 9)]
    for cell in cells:
        records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    table = fill(layout, cells, records)
    published = {
        section.settings: cell.to_published for section in table.sections for cell in section.cells if cell.accuracy
    }
    whole, short = published.values()
    assert whole is not None and whole.obstacles == ()
    assert short is not None and (short.words, short.difference) == ("not comparable (recipe)", None)
    assert short.departures == ("training.epochs=9",)


def test_other_data_and_backbones_are_not_compared(records: InMemory) -> None:
    cells = [planned("2d", FOUR, model__alignment=a, **GLYPHS) for a in (0, "ode")]
    for cell in cells:
        records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    table = fill(TABLES["2d"], cells, records)
    found = only(table)["ODE"]
    assert found.published is not None and found.published.accuracy == 0.6776
    assert found.to_published is not None and found.to_published.difference is None
    assert found.to_published.words == "not comparable (data set, backbone)"
    assert found.to_baseline is not None and found.to_baseline.published_difference == pytest.approx(0.0356)
    assert table.published_header == "paper (miniImageNet, ResNet-12)"
    assert found.library == ()


def test_groups_of_other_channels_have_no_published_number(records: InMemory) -> None:
    table = fill(TABLES["2c"], [planned("2c", FOUR, model__groups=g, **GLYPHS) for g in (1, 64)], records)
    assert all(cell.published is None for cell in only(table).values())
    assert table.baseline == "groups 1 of 64 channels"


def test_tiered_in_table_2_is_not_compared_with_mini(records: InMemory) -> None:
    cell = planned("2d", FOUR, data__name="tiered_imagenet", data__resize="center_crop")
    records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    table = fill(TABLES["2d"], [cell], records)
    to_paper = only(table)["ODE"].to_published
    assert to_paper is not None and to_paper.words == "not comparable (data set)"
    assert table.published_header.startswith("paper (miniImageNet")


@pytest.mark.parametrize(
    ("dataset", "sizes", "said"),
    [
        ("mini_imagenet", "84x84", "undecided"),
        ("mini_imagenet", "64x64", "not comparable (images found at 64x64)"),
        ("tiered_imagenet", "84x84", "not comparable (images found at 84x84)"),
        ("tiered_imagenet", "56x40..500x375", "not comparable (recipe)"),
    ],
)
def test_images_are_compared_as_they_were_found(records: InMemory, dataset: str, sizes: str, said: str) -> None:
    cell = planned("1", EvaluationConfig(episodes=4), data__name=dataset, data__resize="center_crop")
    if dataset == "mini_imagenet":
        cell = planned("1", EvaluationConfig(episodes=4))
    records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    (training,) = cell.trainings
    made = Provenance(data_fingerprint="", image_sizes=sizes, git_commit=None, versions={}, device="cpu", threads=1)
    records.trainings[training.key] = records.trainings[training.key].replace(provenance=made)
    (section,) = fill(TABLES["1"], [cell], records).sections
    (found,) = [each for each in section.cells if each.records]
    assert found.to_published is not None and found.to_published.words == said


def test_libfewshot_has_the_full_model_of_each_part(records: InMemory) -> None:
    cells = [planned("2c", episodes__shot=shot) for shot in (1, 5)]
    one, five = fill(TABLES["2c"], cells, records).sections
    assert {cell.label: [n.accuracy for n in cell.library] for cell in one.cells if cell.library} == {"64": [0.67185]}
    assert {cell.label: [n.accuracy for n in cell.library] for cell in five.cells if cell.library} == {"160": [0.81997]}
    for name, full in (("2a", "with dynamic sampling"), ("2b", "without last pooling"), ("2d", "ODE")):
        found = only(fill(TABLES[name], [planned(name)], records))
        assert [label for label, cell in found.items() if cell.library] == [full]


def test_a_reference_is_shown_without_a_comparison(records: InMemory) -> None:
    cells = [*pair(), planned("2a", FOUR, model__method="raw_pixels")]
    for cell in cells:
        records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    table = fill(TABLES["2a"], cells, records)
    reference = table.sections[0].cells[0]
    assert (reference.label, reference.accuracy) == ("raw pixels, cosine", pytest.approx(0.475))
    assert (reference.to_baseline, reference.published, reference.is_baseline) == (None, None, False)


def test_table_1_compares_with_proto_net_on_the_same_backbone(records: InMemory) -> None:
    small = {"model__backbone": "conv64f"}
    cells = [planned("1", FOUR, model__method=m, **more) for m in ("dmf", "proto_net") for more in ({}, small)]
    for index, cell in enumerate(cells):
        records.tested(cell, np.array([0.4, 0.6, 0.4, 0.5]) + 0.01 * index)
    (section,) = fill(TABLES["1"], cells, records).sections
    found = {(cell.label, cell.backbone): cell for cell in section.cells}
    for backbone in ("resnet12", "conv64f"):
        against = found["DMF", backbone].to_baseline
        assert against is not None and against.difference == pytest.approx(-0.02)
    conv4 = found["ProtoNet", "conv64f"]
    assert conv4.published is not None and conv4.published.accuracy == 0.4942
    assert conv4.to_published is not None and conv4.to_published.difference is None
    assert conv4.to_published.words == "not comparable (recipe, selection)"
    assert "episodes.way=5" in conv4.to_published.departures
    dmf = found["DMF", "resnet12"]
    assert dmf.published is not None and dmf.to_published is not None and dmf.to_published.difference is not None


def test_variants_are_compared_with_the_baseline_of_their_variant(records: InMemory) -> None:
    cells = [
        planned("2a", FOUR, model__dynamic_sampling=on, training__learning_rate=rate)
        for rate in (0.1, 0.35)
        for on in (False, True)
    ]
    for cell, mean in zip(cells, (0.1, 0.2, 0.5, 0.9), strict=True):
        records.tested(cell, np.full(4, mean) + [0, 0.01, 0, 0.02])
    (section,) = fill(TABLES["2a"], cells, records).sections
    gains = [cell.to_baseline.difference for cell in section.cells if cell.to_baseline]
    assert gains == [pytest.approx(0.1), pytest.approx(0.4)]


def test_a_baseline_trained_otherwise_is_no_baseline(records: InMemory) -> None:
    short = {"training__epochs": 6, "training__learning_rate": 0.001, "training__warmup_epochs": 1}
    cells = [planned("2d", FOUR, model__alignment=0, **short), planned("2d", FOUR)]
    cells.append(planned("2d", FOUR, model__alignment=1, **short))
    for cell, mean in zip(cells, (0.3, 0.9, 0.5), strict=True):
        records.tested(cell, np.full(4, mean) + [0, 0.01, 0, 0.02])
    table = fill(TABLES["2d"], cells, records)
    against = only(table)["ODE"].to_baseline
    assert against is not None
    assert against.also_differs == ("training.epochs", "training.learning_rate", "training.warmup_epochs")
    assert (against.difference, against.p, against.p_holm, against.seeds) == (None, None, None, ())
    assert words.verdict(against) == f"not comparable (also differs: {', '.join(against.also_differs)})"
    assert "against alignments 0: 1 not comparable, 1 undecided" in table.verdict
    alike = only(table)["1"].to_baseline
    assert alike is not None and (alike.also_differs, alike.difference) == ((), pytest.approx(0.2))


def test_of_several_baselines_the_one_trained_alike_is_taken(records: InMemory) -> None:
    cells = [planned("2a", FOUR, model__dynamic_sampling=False, training__learning_rate=rate) for rate in (0.1, 0.35)]
    cells.append(planned("2a", FOUR))
    for cell, mean in zip(cells, (0.1, 0.5, 0.9), strict=True):
        records.tested(cell, np.full(4, mean) + [0, 0.01, 0, 0.02])
    table = fill(TABLES["2a"], cells, records)
    (section,) = table.sections
    (against,) = [cell.to_baseline for cell in section.cells if cell.to_baseline]
    assert (against.also_differs, against.difference) == ((), pytest.approx(0.4))
    told = "Compared with without dynamic sampling, training.learning_rate=0.35: with dynamic sampling."
    assert told in table.notes, "which of the two"


def test_a_baseline_of_another_method_need_not_have_dmfs_fields(records: InMemory) -> None:
    cells = [
        planned("1", FOUR, model__method="proto_net"),
        planned("1", FOUR, model__groups=160, model__rectified=False, model__global_weight=0.5),
        planned("1", FOUR, model__groups=640, training__epochs=90),
        planned("1", FOUR, model__method="raw_pixels", training__epochs=6),
    ]
    for cell, mean in zip(cells, (0.4, 0.6, 0.7, 0.3), strict=True):
        records.tested(cell, np.full(4, mean) + [0, 0.01, 0, 0.02])
    (section,) = fill(TABLES["1"], cells, records).sections
    found = {cell.records[0]: cell.to_baseline for cell in section.cells if cell.records}
    _, alike, shorter, raw = [found[f"{cell.trainings[0].key}/{cell.evaluation.key}"] for cell in cells]
    assert alike is not None and (alike.also_differs, alike.difference) == ((), pytest.approx(0.2))
    assert shorter is not None and (shorter.also_differs, shorter.recipe_differs) == ((), ("training.epochs=90",))
    assert shorter.difference == pytest.approx(0.3)
    # without a backbone of its own, compared with the baseline that has one
    assert raw is not None and (raw.also_differs, raw.difference) == ((), pytest.approx(-0.1))


def test_pre_trained_rows_are_compared_with_a_baseline_that_starts_alike(records: InMemory) -> None:
    start = {"start.head": "cosine", "start.training.epochs": 2}
    cells = [
        planned("1", FOUR, model__method="proto_net"),
        *(
            PlannedCell(table="1", config=ExperimentConfig().with_paths(paths), evaluation=FOUR.replace(shot=1))
            for paths in (
                {"model.method": "proto_net", **start},
                {"model.method": "classifier_baseline", **start},
                {"model.method": "raw_pixels"},
            )
        ),
    ]
    for cell, mean in zip(cells, (0.4, 0.6, 0.7, 0.3), strict=True):
        records.tested(cell, np.full(4, mean) + [0, 0.01, 0, 0.02])
    table = fill(TABLES["1"], cells, records)
    found = {cell.records[0]: cell for section in table.sections for cell in section.cells if cell.records}
    _, _, classifier, raw = [found[f"{c.trainings[0].key}/{c.evaluation.key}"].to_baseline for c in cells]
    assert classifier is not None and classifier.difference == pytest.approx(0.1)
    assert raw is not None and raw.difference == pytest.approx(-0.1)
    told = [note for note in table.notes if note.startswith("Compared with ProtoNet, start=")]
    assert [note.rpartition(": ")[2] for note in told] == ["Classifier-Baseline.", "raw pixels, cosine."]


def test_a_table_that_nothing_is_planned_for_is_refused(records: InMemory) -> None:
    with pytest.raises(ValueError, match="no cell is planned for table 2b"):
        fill(TABLES["2b"], pair(), records)


def test_methods_are_compared_by_their_own_recipes_and_the_notes_say_so() -> None:
    glyphs = {"data__name": "glyphs", "model__backbone": "conv64f"}
    proto = planned("1", FOUR, (0, 1), model__method="proto_net", **glyphs)
    slow = planned("1", FOUR, (0, 1), model__method="can", training__learning_rate=0.1, **glyphs)
    small = planned("1", FOUR, (0, 1), model__method="feat", data__image_size=64, **glyphs)
    records = InMemory()
    for number, cell in enumerate((proto, slow, small)):
        for seed in (0, 1):
            records.tested(cell, episodes(0.5 + 0.1 * number, 4, seed), seed)
    (section,) = fill(TABLES["1"], [proto, slow, small], records).sections
    found = {cell.label: cell.to_baseline for cell in section.cells}
    assert found["CAN"].verdict is not None and found["CAN"].also_differs == ()
    assert found["CAN"].recipe_differs == ("training.learning_rate=0.1",)
    assert found["FEAT"].also_differs == ("data.image_size",) and found["FEAT"].verdict is None
    table = fill(TABLES["1"], [proto, slow, small], records)
    (note,) = [note for note in table.notes if note.startswith("Methods are compared with the recipes")]
    assert note.endswith("CAN: training.learning_rate=0.1.")
