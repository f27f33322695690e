"""Planned cells go to their rows and columns, and the paper's rows appear even if nothing is planned for them."""

from __future__ import annotations

import pytest

from dmf.config import METHODS as CONFIGS
from dmf.config import EvaluationConfig, ExperimentConfig
from reports.layouts import TABLES, is_same
from reports.tables import Column, PlannedCell, Row, arrange
from tests.records_in_memory import planned

GLYPHS = {"data__name": "glyphs", "model__backbone": "conv64f"}


def rows(table: str, *cells: PlannedCell) -> list[list[Row]]:
    return [list(section) for section in arrange(TABLES[table], cells).values()]


@pytest.mark.parametrize("name", ["", "2 c", "../2c", "2C", "a" * 41])
def test_a_table_is_refused_by_a_name_that_makes_no_file_name(name: str) -> None:
    with pytest.raises(ValueError, match="table"):
        planned(name)


def test_a_cell_needs_its_shot_and_distinct_seeds() -> None:
    with pytest.raises(ValueError, match="evaluation.shot is None"):
        PlannedCell(table="2a", config=ExperimentConfig(), evaluation=EvaluationConfig())
    with pytest.raises(ValueError, match="twice"):
        planned("2a", seeds=(1, 1))
    with pytest.raises(ValueError):
        planned("2a", seeds=())


def test_trainings_are_the_config_with_each_seed() -> None:
    cell = planned("2c", seeds=(3, 1), model__groups=160)
    assert [config.training.seed for config in cell.trainings] == [3, 1]
    assert {config.model.groups for config in cell.trainings} == {160}


def test_a_cell_survives_its_file(tmp_path) -> None:
    cell = planned("2d", seeds=(0, 1), model__alignment="ode")
    cell.write(tmp_path / "cell.json")
    assert PlannedCell.read(tmp_path / "cell.json") == cell


def test_every_layout_varies_a_parameter_and_knows_its_baseline() -> None:
    for layout in TABLES.values():
        for path in layout.row_paths:
            ExperimentConfig().at(path)
        assert any(is_same(row.value, layout.baseline) for row in layout.values)
    assert {row.value for row in TABLES["1"].values} == CONFIGS.keys()


def test_table_2_has_fourteen_rows() -> None:
    assert sum(len(TABLES[name].values) for name in ("2a", "2b", "2c", "2d")) == 14


def test_all_rows_of_the_paper_are_there_when_one_is_planned() -> None:
    cell = planned("2c", model__groups=160)
    (section,) = arrange(TABLES["2c"], [cell]).values()
    assert [row.label for row in section] == ["1", "64", "160", "320", "640"]
    assert [planned_here is not None for planned_here in section.values()] == [False, False, True, False, False]


def test_a_number_of_groups_that_the_paper_lacks_stands_in_order() -> None:
    (section,) = rows("2c", planned("2c", model__groups=128))
    assert [row.label for row in section] == ["1", "64", "128", "160", "320", "640"]
    assert section[2].published is None


def test_columns_are_the_tests_shots() -> None:
    one = planned("2a")
    five = planned("2a", episodes__shot=5)
    grid = arrange(TABLES["2a"], [five, one])
    assert [column.task for column in grid] == ["5-way 1-shot", "5-way 5-shot"]


def test_training_with_another_shot_or_testing_other_classes_is_said() -> None:
    cell = planned("2a", EvaluationConfig(shot=5, split="val"))
    assert Column.of(cell).task == "5-way 5-shot, trained 1-shot, val classes"


def test_own_data_shows_the_planned_rows_alone() -> None:
    cells = [planned("2c", model__groups=groups, **GLYPHS) for groups in (64, 1, 16, 4)]
    (section,) = rows("2c", *cells)
    assert [row.label for row in section] == [f"{g} of 64 channels" for g in (1, 4, 16, 64)]
    assert {row.published for row in section} == {None}


def test_alignments_mean_the_same_on_any_backbone() -> None:
    (section,) = rows("2d", *[planned("2d", model__alignment=a, **GLYPHS) for a in ("ode", 0)])
    assert [(row.label, row.published) for row in section] == [("0", "DMF align=0"), ("ODE", "DMF align=ODE")]


def test_other_methods_in_table_2_stand_first_and_are_no_component() -> None:
    cells = [planned("2d", model__alignment=a) for a in (0, 1)]
    cells += [planned("2d", model__method=method) for method in ("raw_pixels", "proto_net")]
    (section,) = rows("2d", *cells)
    assert [row.label for row in section[:2]] == ["ProtoNet", "raw pixels, cosine"]
    assert [row.reference for row in section] == [True, True, False, False, False, False, False]
    assert section[0].published is None


def test_table_1_has_all_methods_and_ours_before_dmf() -> None:
    cells = [planned("1", model__method=method) for method in ("dmf", "proto_net")]
    (section,) = rows("1", *cells)
    names = [(row.label, row.backbone) for row in section]
    assert names[0] == ("ProtoNet", "conv64f")
    assert names[-2:] == [("ProtoNet", "resnet12"), ("DMF", "resnet12")]
    assert len(names) == len(set(names)) == 5 + 6 + 13 + 1  # Conv4, WRN-28, ResNet-12, and our ProtoNet


def test_table_1_leaves_out_methods_without_a_number_in_a_section() -> None:
    tiered = {"data__name": "tiered_imagenet", "data__resize": "center_crop"}
    mini, tier = rows("1", planned("1"), planned("1", **tiered))
    assert "MAML" in {row.label for row in mini} and "MAML" not in {row.label for row in tier}


def test_cells_that_would_share_a_place_are_told_apart_by_what_differs() -> None:
    rates, shots = (0.1, 0.35), (1, 5)
    cells = [planned("2b", training__learning_rate=rate, episodes__shot=shot) for rate in rates for shot in shots]
    cells.append(planned("2b", model__last_pooling=True))
    for section in rows("2b", *cells):
        without = [row.variant for row in section if row.label == "without last pooling"]
        assert without == [("training.learning_rate=0.1",), ("training.learning_rate=0.35",)]


def test_groups_that_go_with_the_shot_tell_nothing_apart() -> None:
    cells = [planned("2a", episodes__shot=shot, model__groups=groups) for shot, groups in ((1, 64), (5, 160))]
    assert all(row.variant == () for section in rows("2a", *cells) for row in section)


def test_cells_that_differ_in_seeds_are_one_cell() -> None:
    cells = [planned("2a", seeds=(2,)), planned("2a", seeds=(0, 1)), planned("2a", seeds=(0,), training__threads=4)]
    (section,) = arrange(TABLES["2a"], cells).values()
    assert [cell.seeds for cell in section.values() if cell] == [(0, 1, 2)]


def test_fields_that_a_training_does_not_read_tell_nothing_apart() -> None:
    cells = [
        planned("1", model__alignment=0, model__groups=groups, training__learning_rate=rate)
        for groups, rate in ((64, 0.1), (160, 0.35))
    ]
    (section,) = rows("1", *cells)
    assert [row.variant for row in section if row.variant] == [
        ("training.learning_rate=0.1",),
        ("training.learning_rate=0.35",),
    ]


def test_seeds_and_machines_are_no_difference_to_the_baseline() -> None:
    ours, baseline = planned("2d").config, planned("2d", model__alignment=0).config
    elsewhere = baseline.replace(training__seed=4, training__threads=8, training__device="cpu", data__root="/images")
    assert TABLES["2d"].also_differs(ours, elsewhere) == ()
    other = baseline.replace(model__last_pooling=True, data__image_size=80)
    assert TABLES["2d"].also_differs(ours, other) == ("data.image_size", "model.last_pooling")


def test_groups_that_the_baseline_does_not_read_are_no_difference() -> None:
    baseline = planned("2d", model__alignment=0, model__groups=64).config
    assert TABLES["2d"].also_differs(planned("2d", model__groups=160).config, baseline) == ()
    one = planned("2d", model__alignment=1, model__groups=64).config
    assert TABLES["2d"].also_differs(planned("2d", model__groups=160).config, one) == ("model.groups",)


def test_rows_that_share_a_training_stay_apart_and_variants_show_what_they_read() -> None:
    (section,) = rows("2c", *[planned("2c", model__groups=g, model__alignment=0) for g in (1, 64)])
    assert [row.label for row in section] == ["1", "64", "160", "320", "640"]
    (section,) = rows("2c", *[planned("2c", model__alignment=a) for a in (0, 1)])
    assert [row.variant for row in section if row.variant] == [("model.alignment=0",), ("model.alignment=1",)]


def test_cells_of_other_tables_stay_out() -> None:
    assert arrange(TABLES["2a"], [planned("2b")]) == {}
