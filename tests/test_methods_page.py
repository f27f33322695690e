"""docs/methods.md is what docstrings, recipes and tables say."""

from __future__ import annotations

import numpy as np

from dmf.config import RECIPES, EvaluationConfig
from dmf.methods import METHODS
from orchestrator import documents
from reports.fill import fill
from reports.layouts import TABLES
from reports.render import texts
from reports.render.methods import describe
from tests.records_in_memory import InMemory, planned

TEXT = (documents.DOCS / "methods.md").read_text(encoding="utf-8")


def test_every_method_has_a_paper_and_every_recipe_is_there() -> None:
    for name in METHODS:
        told = describe(name, {})
        assert f"\n## {name}\n" in TEXT and told.paragraphs[0] in TEXT
        assert name in ("dmf", "raw_pixels") or " et al." in told.paper, told.paper
    for name, recipe in RECIPES.items():
        assert f"Recipe `{name}`, from {recipe.source}" in TEXT
        assert all(each in TEXT for each in recipe.differences)


def test_published_numbers_are_those_of_the_papers_table() -> None:
    assert describe("feat", {}).published == "65.10 / 81.11 (WRN-28), 66.78 / 82.05 (ResNet-12)"
    assert describe("can", {}).published == "63.85 / 79.44 (ResNet-12)"
    assert describe("rfs", {}).published == "–"


def test_our_numbers_and_costs_are_those_of_the_tables() -> None:
    four = EvaluationConfig(episodes=4)
    records, cell = InMemory(), planned("1", four, model__method="can", model__backbone="resnet12_can")
    records.tested(cell, np.array([0.25, 0.75, 0.5, 0.5]))
    table = fill(TABLES["1"], [cell], records)
    ((sweep, where, accuracy, cost),) = describe("can", {"some_sweep": table}).ours
    assert (sweep, where) == ("some_sweep", "miniImageNet, 5-way 1-shot, ResNet-12 of CAN")
    assert accuracy.startswith("50.00 ± ")
    assert cost == "1,000 parameters, training 0.2 core-min, 250 ms per test episode", "a second for 4 episodes"


def test_the_page_has_the_numbers_of_every_archive_that_compares_methods() -> None:
    found = list(documents.of_methods(documents.DOCS))
    assert found
    for told in found:
        for cell in told.table("1").sections[0].cells:
            if cell.accuracy is not None:
                ((row,),) = [
                    [line for line in TEXT.splitlines() if f"| {told.plan.name} |" in line and texts.ours(cell) in line]
                ]
                assert texts.training(cell) in row
