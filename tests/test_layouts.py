"""Tables that a sweep file describes: their rows, sections, comparisons and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmf.config import ExperimentConfig
from orchestrator.spec.file import spec_from
from orchestrator.spec.lint import lint
from orchestrator.spec.plan import SweepPlan, plan
from reports.fill import fill
from reports.layouts import TABLES, TableLayout, in_order, is_same
from reports.render.data import to_csv
from reports.render.markdown import to_markdown
from reports.statistics.verdicts import Verdict, margin_below
from tests.records_in_memory import InMemory

RATES: dict[str, Any] = {
    "name": "rates",
    "title": "Learning rate",
    "rows": "training.learning_rate",
    "baseline": 0.1,
}
GRID = {"training.learning_rate": [0.1, 1.0, 0.3]}


def spec(table: Any, grid: dict[str, Any], **more: Any) -> Any:
    part = {"table": table, "grid": grid, "set": {"data.name": "glyphs", "model.backbone": "conv64f"}}
    return spec_from({"name": "s", "seeds": [0, 1, 2], "evaluation": {"episodes": 20}, "parts": [part], **more})


def sweep(table: Any, grid: dict[str, Any]) -> SweepPlan:
    return plan(spec(table, grid))


def records_with(planned: SweepPlan, mean: dict[Any, float], path: str) -> InMemory:
    """Records in which the accuracy of a row depends on the value of `path`, and rows and seeds differ a little."""
    records = InMemory()
    episodes = np.random.default_rng(0).normal(0, 0.02, 20)
    for number, cell in enumerate(planned.cells):
        for seed in cell.seeds:
            own = np.random.default_rng([number, seed]).normal(0, 0.001, 20)
            records.tested(cell, mean[cell.config.at(path)] + episodes + own, seed)
    return records


def test_rows_are_named_for_the_parameter_and_sorted_by_number() -> None:
    planned = sweep(RATES, GRID)
    (layout,) = planned.layouts
    table = fill(layout, planned.cells, InMemory())
    assert (table.row_header, table.baseline, table.title) == (
        "learning rate",
        "learning rate 0.1",
        "Learning rate, glyphs",
    )
    assert [cell.label for cell in table.sections[0].cells] == ["0.1", "0.3", "1.0"]
    assert [cell.name for cell in table.sections[0].cells][1] == "learning rate 0.3"
    assert {cell.published for section in table.sections for cell in section.cells} == {None}


def test_rows_are_compared_with_the_baseline_that_the_file_names() -> None:
    planned = sweep(RATES, GRID)
    records = records_with(planned, {0.1: 0.5, 0.3: 0.6, 1.0: 0.4}, "training.learning_rate")
    (section,) = fill(planned.layouts[0], planned.cells, records).sections
    said = {cell.label: cell.to_baseline.verdict for cell in section.cells if cell.to_baseline}
    assert said == {"0.3": Verdict.BETTER, "1.0": Verdict.WORSE}


def test_further_pairs_are_compared_and_adjusted_with_the_others() -> None:
    planned = sweep(RATES | {"compare": [[1.0, 0.3]]}, GRID)
    records = records_with(planned, {0.1: 0.5, 0.3: 0.6, 1.0: 0.4}, "training.learning_rate")
    (section,) = fill(planned.layouts[0], planned.cells, records).sections
    (asked,) = section.asked
    assert (asked.name, asked.against.baseline) == ("learning rate 1.0", "learning rate 0.3")
    assert asked.against.verdict is Verdict.WORSE
    table = fill(planned.layouts[0], planned.cells, records)
    (line,) = [
        note for note in table.notes if note.startswith("Also compared: learning rate 1.0 − learning rate 0.3 (")
    ]
    assert "−2" in line and line.endswith("], worse.")
    assert asked.against.difference == pytest.approx(-0.2, abs=0.002)
    alone = fill(TableLayout.from_dict(RATES), planned.cells, records).sections[0]
    p_alone, p_joined = (s.cells[1].to_baseline.p_holm for s in (alone, section))
    assert p_alone < p_joined


def test_a_further_pair_whose_other_row_is_not_planned_says_so() -> None:
    planned = sweep(RATES | {"compare": [[0.3, 3.0]]}, GRID)
    (section,) = fill(planned.layouts[0], planned.cells, InMemory()).sections
    assert section.asked[0].against.obstacle == "other row not planned"


def test_one_of_the_papers_tables_can_be_changed_in_part() -> None:
    planned = sweep({"name": "2d", "compare": [["ode", 1]], "margin": 0.01}, {"model.alignment": [0, 1, "ode"]})
    (layout,) = planned.layouts
    assert layout == TableLayout.from_dict(
        TABLES["2d"].model_dump(mode="json") | {"compare": [["ode", 1]], "margin": 0.01}
    )
    (section,) = fill(layout, planned.cells, InMemory()).sections
    assert [asked.name for asked in section.asked] == ["alignments ODE"]


def test_columns_make_sections_in_the_files_order() -> None:
    planned = sweep(RATES | {"columns": ["model.alignment"]}, GRID | {"model.alignment": ["ode", 0, 2]})
    table = fill(planned.layouts[0], planned.cells, InMemory())
    tasks = [section.label for section in table.sections]
    assert tasks == [f"5-way 1-shot, alignment {a}" for a in ("ode", 0, 2)]
    assert [len(section.cells) for section in table.sections] == [3, 3, 3]


def test_a_method_without_the_columns_parameter_has_a_section_of_its_own() -> None:
    grid = {"training.learning_rate": [0.1, 0.3], "model.method": ["dmf", "proto_net"]}
    planned = sweep(RATES | {"columns": ["model.alignment"]}, grid)
    labels = [section.label for section in fill(planned.layouts[0], planned.cells, InMemory()).sections]
    assert labels == ["5-way 1-shot, alignment ode", "5-way 1-shot, no alignment"]


def test_rows_of_components_carry_a_mark_for_each() -> None:
    own = {"name": "parts", "title": "Parts", "rows": ["model.dynamic_sampling", "model.last_pooling"]}
    grid = {"model.dynamic_sampling": [False, True], "model.last_pooling": [False, True]}
    planned = sweep(own | {"baseline": [False, True]}, grid)
    table = fill(planned.layouts[0], planned.cells, InMemory())
    assert table.components == ("dynamic sampling", "last pooling")
    marks = {cell.marks: cell for cell in table.sections[0].cells}
    assert set(marks) == {("✓", "✓"), ("✓", "–"), ("–", "✓"), ("–", "–")}
    assert [m for m, cell in marks.items() if cell.is_baseline] == [("–", "✓")]
    assert marks["✓", "–"].name == "dynamic sampling ✓, last pooling –"
    assert "| dynamic sampling | last pooling |" in to_markdown(table) and "| ✓ | – |" in to_markdown(table)
    assert "dynamic sampling ✓, last pooling –," in to_csv(table).replace('"', "")


def test_a_method_that_learns_nothing_or_lacks_the_parameter_is_a_reference() -> None:
    groups = TableLayout.from_dict({"name": "g", "title": "G", "rows": "model.groups", "baseline": 1})
    for method, reference in (("dmf", False), ("proto_net", True), ("raw_pixels", True)):
        cell = sweep("2a", {"model.method": [method]}).cells[0]
        assert groups.is_reference(cell.config) is reference


def test_a_file_may_use_its_table_in_several_parts() -> None:
    parts = [{"table": RATES, "grid": GRID}, {"table": "rates", "set": {"training.learning_rate": 3.0}}]
    planned = plan(spec_from({"name": "s", "parts": parts}))
    assert [layout.name for layout in planned.layouts] == ["rates"]
    assert len(planned.cells) == 4


def test_a_plan_keeps_its_tables(tmp_path) -> None:
    planned = sweep(RATES, GRID)
    planned.write(tmp_path / "plan.json")
    assert SweepPlan.read(tmp_path / "plan.json") == planned
    with pytest.raises(ValueError, match="no table is called rates; there are 1, 2a"):
        SweepPlan.from_dict(planned.model_dump(mode="json") | {"tables": []})


def test_lint_knows_the_baseline_of_a_described_table() -> None:
    without = spec(RATES, {"training.learning_rate": [0.3, 1.0]})
    (sentence,) = [told for told in lint(without, plan(without)) if "baseline" in told]
    assert sentence.startswith("table rates: its baseline learning rate 0.1 is not planned")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("rates", "parts.0.table: 'rates' is not a table; there are 1, 2a, 2b, 2c, 2d, or describe one"),
        (RATES | {"rows": "training.learning_rat"}, "not a parameter; did you mean training.learning_rate?"),
        (RATES | {"baseline": "high"}, "training.learning_rate cannot be 'high'"),
        (RATES | {"baseline": [0.1]}, "is not one value for each of"),
        (RATES | {"rows": ["model.groups", "model.alignment"]}, "is not one value for each of"),
        (RATES | {"columns": ["training.learning_rate"]}, "is in rows and in columns; keep one"),
        (RATES | {"compare": [[0.3, 0.3]]}, "compare has row 0.3 with itself"),
        (RATES | {"name": "../x"}, "parts.0.table.name: got"),
        (RATES | {"margin": 0.5}, "parts.0.table.margin: Input should be less than 0.5"),
        (RATES | {"rowz": 1}, "parts.0.table.rowz: no such name; did you mean rows?"),
        ({"name": "2d", "compare": [["ode", 7]]}, "model.alignment cannot be 7"),
    ],
)
def test_a_mistake_in_a_description_is_named(table: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:
        spec(table, {})
    assert told in str(error.value)
    assert "1 mistake:" in str(error.value)


def test_two_descriptions_of_one_name_are_refused() -> None:
    parts = [{"table": RATES, "grid": GRID}, {"table": RATES | {"baseline": 0.3}}]
    with pytest.raises(ValueError, match=r"parts.1.table: rates is described differently in another part"):
        spec_from({"name": "s", "parts": parts})


def test_the_papers_tables_come_first() -> None:
    assert in_order(["own", "2c", "1", "own", "other"]) == ["1", "2c", "own", "other"]


def test_true_is_not_one() -> None:
    assert is_same(1, 1.0) and is_same((True, 2), (True, 2))
    assert not is_same(True, 1) and not is_same((0, 2), (False, 2))


@pytest.mark.parametrize(
    ("accuracy", "margin"), [(0.5, 0.005), (0.95, 0.005), (0.951, 0.0049), (0.98, 0.002), (0.995, 0.0005), (1.0, 0.0)]
)
def test_the_margin_is_at_most_a_tenth_of_the_errors(accuracy: float, margin: float) -> None:
    assert margin_below(0.005, accuracy) == pytest.approx(margin, abs=1e-12)


def test_near_a_ceiling_the_table_uses_and_says_the_smaller_margin() -> None:
    cells = sweep(RATES, {"training.learning_rate": [0.1, 0.3]}).cells
    records = records_with(sweep(RATES, GRID), {0.1: 0.9, 0.3: 0.9, 1.0: 0.9}, "training.learning_rate")
    (section,) = fill(TableLayout.from_dict(RATES), cells, records).sections
    (against,) = [cell.to_baseline for cell in section.cells if cell.to_baseline]
    assert against.margin == pytest.approx(0.005)
    near = records_with(sweep(RATES, GRID), {0.1: 0.96, 0.3: 0.96, 1.0: 0.96}, "training.learning_rate")
    for record in near.evaluations.values():
        assert max(record.episode_accuracies) <= 1
    (section,) = fill(TableLayout.from_dict(RATES), cells, near).sections
    (against,) = [cell.to_baseline for cell in section.cells if cell.to_baseline]
    assert 0.0035 < against.margin < 0.0045


def test_rounds_of_one_pre_training_differ_in_rounds_alone() -> None:
    """The second round starts from the first one, which the number of rounds already says."""
    layout = TableLayout(name="rounds", title="Rounds", rows="model.rounds", baseline=1)
    first = ExperimentConfig().with_paths({"model.method": "ideme_net", "start.head": "linear"})
    second = first.with_paths({"model.rounds": 2})
    assert first.stage is not None and second.stage is not None and first.stage.key != second.stage.key
    assert layout.also_differs(second, first) == ()
    other = second.with_paths({"start.training.epochs": 7})
    assert layout.also_differs(other, first) == ("start",)
