"""The sweeps of Table 1: planned as their headers say, nothing doubtful about them, and under their budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmf.config import METHODS, AnyTraining, ExperimentConfig, Pretraining
from orchestrator.spec.file import read_spec
from orchestrator.spec.lint import lint
from orchestrator.spec.plan import SweepPlan, labels, plan
from reports import published
from reports.layouts import TABLES
from reports.places import places_of

SWEEPS = Path(__file__).parents[1] / "sweeps"
OF_OTHER_SWEEPS = {"ideme_net", "fine_tuning", "centroid_alignment", "adversarial_alignment"}
"""Methods whose published protocols have sweeps of their own."""
MINI, TINY = "table1_mini_imagenet", "table1_tinyimagenet"
IMAGES = 55_440
"""Most images that a training of `table1_tinyimagenet` takes through its network, with its pre-training."""


def planned(name: str) -> SweepPlan:
    return plan(read_spec(SWEEPS / f"{name}.yaml", ["training.precision=fp32"]))


def images_of(config: AnyTraining) -> int:
    """Images that a training takes through its network, with those of its pre-training."""
    before = images_of(config.stage) if config.stage is not None else 0
    if not config.model.learns if isinstance(config, ExperimentConfig) else False:
        return before
    return before + config.training.epochs * config.batches_per_epoch * config.images_per_batch


@pytest.mark.parametrize("name", [MINI, TINY])
def test_every_method_is_there_with_one_and_five_shots_and_nothing_is_doubtful(name: str) -> None:
    spec, its = read_spec(SWEEPS / f"{name}.yaml"), planned(name)
    assert lint(spec, its) == ()
    found = {(cell.config.model.method, cell.evaluation.shot) for cell in its.cells}
    without = {"raw_pixels"} | OF_OTHER_SWEEPS if name == MINI else set()
    assert found == {(method, shot) for method in METHODS.keys() - without for shot in (1, 5)}
    assert {cell.evaluation.episodes for cell in its.cells} == {2000}
    assert {cell.evaluation.way for cell in its.cells} == {5}


@pytest.mark.parametrize(
    ("name", "cells", "trainings", "stages"), [(MINI, 44, 37, 8), (TINY, 54, 40, 6)], ids=[MINI, TINY]
)
def test_what_is_shared_is_trained_once(name: str, cells: int, trainings: int, stages: int) -> None:
    its = planned(name)
    configs = [trial.config for trial in its.trials()]
    assert len(its.cells) == cells
    assert sum(isinstance(config, Pretraining) for config in configs) == stages
    assert len(configs) - stages == trainings
    assert max(map(len, labels(configs).values())) < 200
    assert len(set(labels(configs).values())) == len(configs)


def test_methods_of_the_mini_imagenet_sweep_depart_from_their_recipes_in_the_common_data_only() -> None:
    for cell in planned(MINI).cells:
        paths = {each.partition("=")[0] for each in published.departures(cell.config, ["model.method"]) if "=" in each}
        assert paths <= {"data.resize", "data.normalisation"}


def test_its_table_has_two_sections_with_the_papers_other_rows() -> None:
    sections = places_of(TABLES["1"], planned(MINI).cells, None)
    assert [(places[0].column.way, places[0].column.shot) for places in sections] == [(5, 1), (5, 5)]
    for places in sections:
        rows = {(place.row.published, published.backbone_in_paper(place.row.backbone)): place for place in places}
        assert {"LEO", "TADAM", "E3BM"} <= {place.row.published for place in places if place.planned is None}
        can = rows["CAN", "resnet12"]
        assert can.planned is not None and can.planned.config.model.backbone_name == "resnet12_can"
        assert sum(place.row.published == "CAN" for place in places) == 1, "the paper's row and ours are one"
        maml = rows["MAML", "conv64f"]
        assert maml.planned is not None and maml.planned.config.model.backbone_name == "conv32f"
        groups = [published.backbone_in_paper(place.row.backbone) for place in places]
        assert len(list(dict.fromkeys(groups))) == sum(a != b for a, b in zip(groups, [None, *groups], strict=False))


def test_budgets_on_tiny_imagenet_are_equal() -> None:
    its = planned(TINY)
    spent = {cell.config.key: images_of(cell.config) for cell in its.cells if cell.config.model.method != "raw_pixels"}
    methods = {cell.config.key: cell.config.model.method for cell in its.cells}
    assert max(images for key, images in spent.items() if methods[key] not in OF_OTHER_SWEEPS) <= IMAGES
    assert max(spent.values()) <= 2 * IMAGES, "twice the budget"
    fewer = {"maml"} | OF_OTHER_SWEEPS  # these take longer in tests, or forward images several times
    assert min(images for key, images in spent.items() if methods[key] not in fewer) > 0.93 * IMAGES


def test_deformation_and_alignment_are_compared_with_the_same_embedding_and_the_same_head() -> None:
    its = planned(TINY)
    aligned = [cell for cell in its.cells if cell.config.model.method in METHODS and cell.config.model.reads_base]
    alone = [cell for cell in its.cells if cell.config.model.method == "fine_tuning"]
    assert {cell.config.stage for cell in aligned} == {cell.config.stage for cell in alone} and len(aligned) == 4
    assert {cell.evaluation.tested for cell in aligned} == {100}, "the first ones of those of the head alone"
    rounds = [cell.config for cell in its.cells if cell.table == "deformation"]
    first = [config for config in rounds if config.model.rounds == 1]
    assert len(rounds) == 6 and len({config.stage.key for config in first if config.stage}) == 1
