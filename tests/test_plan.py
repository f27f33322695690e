"""The plan of a sweep: cells, distinct trainings, evaluations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.file import read_spec, spec_from
from orchestrator.spec.plan import SweepPlan, labels, plan, shortened

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"


def planned(**fields: Any) -> SweepPlan:
    return plan(spec_from({"name": "s", "parts": [{"table": "2c"}], **fields}))


def test_table_2_is_22_trainings_a_seed_for_28_cells() -> None:
    table2 = plan(read_spec(SWEEPS / "table2.yaml"))
    assert Counter(cell.table for cell in table2.cells) == {"2a": 4, "2b": 4, "2c": 10, "2d": 10}
    trials = table2.trials()
    assert (len(table2.cells), table2.trainings_asked, len(trials)) == (28, 3 * 28, 3 * 22)
    full = [trial for trial in trials if len(trial.tables) > 1]
    assert [sorted(trial.tables) for trial in full] == [["2a", "2b", "2c", "2d"]] * 2 * 3
    for trial in full:
        model = trial.config.model
        assert (model.alignment, model.dynamic_sampling, model.last_pooling) == ("ode", True, False)
        assert model.groups == {1: 64, 5: 160}[trial.config.episodes.shot]


@pytest.mark.parametrize("name", ["ablation_groups", "ablation_align", "ablation_sampling", "ablation_pooling"])
def test_an_ablation_alone_shares_its_trainings_with_table_2(name: str) -> None:
    alone = {trial.key for trial in plan(read_spec(SWEEPS / f"{name}.yaml")).trials()}
    assert alone < {trial.key for trial in plan(read_spec(SWEEPS / "table2.yaml")).trials()}


def test_seeds_multiply_trainings_but_not_cells() -> None:
    sweep = planned(seeds=[0, 3], parts=[{"table": "2c", "grid": {"model.groups": [1, 64]}}])
    assert [cell.seeds for cell in sweep.cells] == [(0, 3), (0, 3)]
    assert sorted(trial.config.training.seed for trial in sweep.trials()) == [0, 0, 3, 3]


def test_several_shots_test_one_training_several_times() -> None:
    sweep = planned(evaluation={"shots": [1, 5]})
    (trial,) = sweep.trials()
    assert [evaluation.shot for evaluation in trial.evaluations] == [1, 5]
    assert len(sweep.cells) == 2


def test_without_a_shot_the_test_is_as_the_training() -> None:
    sweep = planned(parts=[{"table": "2c", "grid": {"episodes.shot": [1, 5]}}])
    assert [cell.evaluation.shot for cell in sweep.cells] == [1, 5]


def test_more_episodes_change_evaluations_and_no_training() -> None:
    few, many = planned(evaluation={"episodes": 10}), planned(evaluation={"episodes": 20})
    assert [trial.key for trial in few.trials()] == [trial.key for trial in many.trials()]
    assert few.trials()[0].evaluations[0].key != many.trials()[0].evaluations[0].key


def test_a_cell_asked_for_twice_is_there_once() -> None:
    part = {"table": "2c", "grid": {"model.groups": [64]}}
    assert len(planned(parts=[part, part]).cells) == 1
    assert len(planned(parts=[part, {**part, "table": "2d"}]).cells) == 2


def test_duplicates_within_a_part_are_counted() -> None:
    sweep = planned(seeds=[0, 1], parts=[{"table": "2c", "grid": {"model.groups": [64, 1, 64]}}])
    assert (len(sweep.cells), sweep.trainings_asked, len(sweep.trials())) == (2, 6, 4)


def test_where_it_runs_is_no_other_training() -> None:
    parts = [{"table": "2c", "set": {"training.threads": 1}}, {"table": "2c", "set": {"data.root": "/b"}}]
    assert len(planned(parts=parts).trials()) == 1


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    sweep = plan(read_spec(SWEEPS / "table1_dmf.yaml"))
    sweep.write(tmp_path / "plan.json")
    assert SweepPlan.read(tmp_path / "plan.json") == sweep


def test_labels_name_what_differs() -> None:
    sweep = planned(parts=[{"table": "2c", "grid": {"episodes.shot": [1, 5], "model.groups": [1, 64]}}])
    told = labels(trial.config for trial in sweep.trials())
    assert sorted(told.values()) == ["shot=1 groups=1", "shot=1 groups=64", "shot=5 groups=1", "shot=5 groups=64"]


def test_a_label_names_no_setting_that_its_method_lacks() -> None:
    grid = {"model.alignment": [0, "ode"]}
    parts = [{"table": "2d", "grid": grid}, {"table": "1", "set": {"model.method": "raw_pixels"}}]
    told = labels(trial.config for trial in planned(parts=parts, seeds=[0, 1]).trials())
    pixels = [label for label in told.values() if "raw_pixels" in label]
    assert pixels == ["method=raw_pixels"], "once, whatever the seeds"
    assert sum("alignment=ode" in label for label in told.values()) == 2


def test_ten_thousand_trainings_are_planned_as_few_are() -> None:
    """The thirteenth of 10,000 learning rates and of 125 seeds is the same training as on its own."""
    rates = [round(0.01 + number / 10_000, 6) for number in range(10_000)]
    many = planned(parts=[{"table": "2c", "grid": {"training.learning_rate": rates}}]).trials()
    alone = planned(parts=[{"table": "2c", "set": {"training.learning_rate": rates[12]}}]).trials()
    assert len(many) == len({trial.key for trial in many}) == 10_000
    assert many[12] == alone[0] and many[12].key == alone[0].key
    grid = {"model.groups": [1, 64, 160, 320], "model.alignment": [0, 1, 2, 3, "ode"], "episodes.shot": [1, 5]}
    seeded = planned(seeds=list(range(125)), parts=[{"table": "2c", "grid": grid}]).trials()
    assert len(seeded) == (4 * 4 + 1) * 2 * 125  # without alignment the number of groups is not read
    only = {"model.groups": 160, "model.alignment": 3, "episodes.shot": 5}
    (twelfth,) = planned(seeds=[12], parts=[{"table": "2c", "set": only}]).trials()
    assert twelfth in seeded


def test_long_lists_are_shortened() -> None:
    lines = [str(number) for number in range(50)]
    assert shortened(lines[:40]) == lines[:40]
    assert shortened(lines) == [*lines[:40], "... and 10 more"]
