"""Cells hold the numbers of their records, computed by hand, and reject records that contradict themselves."""

from __future__ import annotations

import numpy as np
import pytest

from dmf.config import EvaluationConfig
from dmf.records.records import Failure
from reports import statistics
from reports.cells import Cell, Table
from reports.fill import fill
from reports.tables import TABLES, PlannedCell
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
    # the same differences as in test_statistics.test_paired_t_by_hand
    assert (against.difference, against.p) == (pytest.approx(0.2), pytest.approx(0.016280, abs=1e-5))
    assert (against.p_holm, against.verdict) == (against.p, "better")
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
    assert (found.state, found.seeds_done, found.reasons) == ("partial", (0, 2), ("seed 1: failed: the disk was full",))
    assert found.accuracy == pytest.approx(0.575)
    assert found.to_baseline is not None and found.to_baseline.seeds == (0, 2)
    assert found.to_baseline.difference == pytest.approx(0.125), "the seed that is absent here counts nowhere"
    assert table.verdict.startswith("1 of 2 cells done, 1 partial")
    assert any("seed 1: failed: the disk was full" in note for note in table.notes)


def test_empty_cells_say_why(records: InMemory) -> None:
    cells = [planned("2c", FOUR, model__groups=groups) for groups in (1, 64, 160, 320, 640)]
    records.ended(cells[0].trainings[0], "failed", Failure(reason="CUDA out of memory"))
    records.ended(cells[1].trainings[0], "diverged", Failure(reason="the loss is nan", step=12))
    records.at_work.add(cells[2].trainings[0].key)
    records.ended(cells[3].trainings[0])
    found = only(fill(TABLES["2c"], cells, records))
    assert {label: (cell.state, *cell.reasons) for label, cell in found.items()} == {
        "1": ("failed", "failed: CUDA out of memory"),
        "64": ("diverged", "diverged at step 12"),
        "160": ("running", "running"),
        "320": ("not evaluated", "trained, not evaluated"),
        "640": ("missing", "missing"),
    }
    assert all(cell.accuracy is None and not cell.best for cell in found.values())
    assert found["64"].to_baseline is not None and found["64"].to_baseline.words == "diverged"


def test_seeds_without_a_result_share_a_reason(records: InMemory) -> None:
    cell = planned("2c", FOUR, (0, 1, 2))
    assert only(fill(TABLES["2c"], [cell], records))["64"].reasons == ("missing",)
    records.ended(cell.trainings[1], "diverged", Failure(reason="nan", step=3))
    found = only(fill(TABLES["2c"], [cell], records))["64"]
    assert (found.state, found.reasons) == ("diverged", ("seeds 0, 2: missing", "seed 1: diverged at step 3"))


@pytest.mark.parametrize("what", ["accuracy", "ci95"])
def test_a_summary_that_its_episodes_do_not_give_is_refused(records: InMemory, what: str) -> None:
    cell = planned("2a", FOUR)
    right = records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    records.tested(cell, right.episode_accuracies, **{what: getattr(right, what) + 1e-8})
    with pytest.raises(ValueError, match=f"{right.training_key}/{right.evaluation_key} says {what}="):
        fill(TABLES["2a"], [cell], records)
    records.tested(cell, right.episode_accuracies, **{what: getattr(right, what) + 1e-10})
    fill(TABLES["2a"], [cell], records)


def test_a_summary_that_is_no_number_is_refused(records: InMemory) -> None:
    cell = planned("2a", FOUR)
    records.tested(cell, [0.4, 0.6, 0.4, 0.5], accuracy=float("nan"))
    with pytest.raises(ValueError, match="says accuracy=nan"):
        fill(TABLES["2a"], [cell], records)


def test_episodes_that_are_missing_from_a_record_are_noticed(records: InMemory) -> None:
    cell = planned("2a", FOUR)
    records.tested(cell, [0.4, 0.6, 0.4])
    with pytest.raises(ValueError, match="holds 3 episodes, but its config says 4"):
        fill(TABLES["2a"], [cell], records)


def test_a_record_in_the_wrong_place_is_noticed(records: InMemory) -> None:
    cell, other = pair()
    stray = records.tested(other, [0.4, 0.6, 0.4, 0.5])
    records.evaluations[cell.trainings[0].key, cell.evaluation.key] = stray
    with pytest.raises(ValueError, match=f"{stray.training_key}.* is in the place of {cell.trainings[0].key}"):
        fill(TABLES["2a"], [cell], records)


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
    verdicts = [comparison.words for comparison in against if comparison]
    assert verdicts == ["not paired: the baseline has other seeds", "baseline not planned"]


def test_holm_goes_over_the_whole_table(records: InMemory) -> None:
    cells = [
        planned("2d", EvaluationConfig(episodes=60), model__alignment=a, episodes__shot=shot, model__groups=64)
        for shot in (1, 5)
        for a in (0, 1, 2)
    ]
    for index, cell in enumerate(cells):
        noise = np.random.default_rng(index).normal(0, 0.02, 60)
        records.tested(cell, np.clip(episodes(0.6 + 0.002 * index, 60) + noise, 0, 1))
    made = [c.to_baseline for s in fill(TABLES["2d"], cells, records).sections for c in s.cells if c.to_baseline]
    assert len(made) == 4
    p_values = [comparison.p for comparison in made if comparison.p is not None]
    assert [comparison.p_holm for comparison in made] == pytest.approx(statistics.holm(p_values))


def test_three_seeds_are_covered_by_the_test_and_two_are_said_not_to_be(records: InMemory) -> None:
    cells = pair(evaluation=EvaluationConfig(episodes=30), seeds=(0, 1, 2))
    for cell, mean in zip(cells, (0.5, 0.55), strict=True):
        for seed in cell.seeds:
            noise = np.random.default_rng(seed).normal(0.01 * seed, 0.02, 30)
            records.tested(cell, np.clip(episodes(mean, 30) + noise * (mean > 0.5), 0, 1), seed)
    uncovered = "covers the episodes only, not the training seeds"
    three = fill(TABLES["2a"], cells, records)
    against = only(three)["with dynamic sampling"].to_baseline
    assert against is not None and against.test == statistics.PairedTest.OVER_SEEDS and against.verdict == "better"
    assert any("over seeds and episodes (3 seeds)" in note for note in three.notes)
    assert not any(uncovered in note for note in three.notes)
    two = fill(TABLES["2a"], [cell.replace(seeds=[0, 1]) for cell in cells], records)
    against = only(two)["with dynamic sampling"].to_baseline
    assert against is not None and against.test == statistics.PairedTest.OVER_EPISODES
    assert any("over episodes (2 seeds)" in note and uncovered in note for note in two.notes)


def test_bold_are_all_that_a_paired_test_cannot_tell_from_the_best(records: InMemory) -> None:
    cells = [planned("2c", FOUR, model__groups=groups) for groups in (1, 64, 160)]
    records.tested(cells[0], [0.50, 0.60, 0.70, 0.80])
    records.tested(cells[1], [0.62, 0.69, 0.81, 0.90])
    records.tested(cells[2], [0.61, 0.70, 0.80, 0.91])
    found = only(fill(TABLES["2c"], cells, records))
    assert [found[label].best for label in ("1", "64", "160")] == [False, True, True]


def test_a_single_value_is_not_the_best_of_anything(records: InMemory) -> None:
    cell = planned("2c", FOUR)
    records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    assert not only(fill(TABLES["2c"], [cell], records))["64"].best


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "consistent"), (0.02, "above"), (-0.02, "below")])
def test_against_the_paper(records: InMemory, shift: float, verdict: str) -> None:
    cell = planned("2d", EvaluationConfig(), episodes__shot=5, model__groups=160, model__alignment=1)
    values = np.full(2000, 0.8214 + shift)
    values[::2] += 0.07
    values[1::2] -= 0.07
    records.tested(cell, values)
    found = only(fill(TABLES["2d"], [cell], records))["1"]
    assert found.published is not None and found.published.accuracy == 0.8214
    # ours 1.96 * .07 / sqrt(2000) = .0030679; the paper's .0031, of Table 1's row
    assert found.to_published is not None and found.to_published.ci95 == pytest.approx(0.0043614, abs=1e-6)
    assert found.to_published.difference == pytest.approx(shift, abs=1e-9)
    assert (found.to_published.verdict, found.to_published.departures) == (verdict, ())


def test_a_shortened_training_is_marked(records: InMemory) -> None:
    cell = planned("2d", FOUR, training__epochs=9)
    records.tested(cell, [0.4, 0.6, 0.4, 0.5])
    table = fill(TABLES["2d"], [cell], records)
    to_paper = only(table)["ODE"].to_published
    assert to_paper is not None and to_paper.departures == ("training.epochs=9",)
    assert any("training.epochs=9" in note for note in table.notes)


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
    assert conv4.to_published.words == "not comparable (training protocol)"
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
    assert against.words == f"not comparable (also differs: {', '.join(against.also_differs)})"
    assert "against alignments 0: 1 better, 1 not comparable" in table.verdict
    alike = only(table)["1"].to_baseline
    assert alike is not None and (alike.also_differs, alike.p_holm) == ((), alike.p)


def test_of_several_baselines_the_one_trained_alike_is_taken(records: InMemory) -> None:
    cells = [planned("2a", FOUR, model__dynamic_sampling=False, training__learning_rate=rate) for rate in (0.1, 0.35)]
    cells.append(planned("2a", FOUR))
    for cell, mean in zip(cells, (0.1, 0.5, 0.9), strict=True):
        records.tested(cell, np.full(4, mean) + [0, 0.01, 0, 0.02])
    (section,) = fill(TABLES["2a"], cells, records).sections
    (against,) = [cell.to_baseline for cell in section.cells if cell.to_baseline]
    assert (against.also_differs, against.difference) == ((), pytest.approx(0.4))


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
    assert shorter is not None and shorter.also_differs == ("training.epochs",) and shorter.difference is None
    assert raw is not None and raw.also_differs == ()


def test_a_table_that_nothing_is_planned_for_is_refused(records: InMemory) -> None:
    with pytest.raises(ValueError, match="no cell is planned for table 2b"):
        fill(TABLES["2b"], pair(), records)
