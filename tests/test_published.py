"""Published numbers match their sources, and departures from the protocol are reported."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dmf.config import ExperimentConfig, recipe
from reports import published
from reports.layouts import TABLES

DATASETS = {"miniImageNet": "mini_imagenet", "tieredImageNet": "tiered_imagenet"}
BACKBONES = {
    "Conv4": "conv64f",
    "Conv64F": "conv64f",
    "Conv32F": "conv32f",
    "WRN-28": "wrn28",
    "ResNet12": "resnet12",
    "ResNet18": "resnet18",
}


def test_every_number_has_a_place_a_fraction_and_a_source() -> None:
    assert len(published.numbers()) > 100
    for number in published.numbers():
        assert 0.4 < number.accuracy < 0.9
        assert number.ci95 is None or 0 < number.ci95 < 0.02
        assert number.dataset in published.DATASETS and number.backbone in published.BACKBONES
        assert any(word in number.source for word in ("Table", "README", "a secondary source"))


def test_the_paper_gives_every_row_of_its_tables_once() -> None:
    ours = [n for n in published.numbers() if not n.source.startswith(published.LIBRARY)]
    places = [(n.method, n.backbone, n.dataset, n.way, n.shot) for n in ours]
    assert len(set(places)) == len(places)
    for layout in TABLES.values():
        for method in [row.published for row in layout.values] if layout.components else ():
            for shot in (1, 5):
                number = published.in_paper(method, *reversed(published.ABLATED), 5, shot)
                assert number is not None and number.source.endswith(f"Table {layout.name}")


def test_numbers_are_those_of_the_paper(shared: Path) -> None:
    with open(shared / "facts/published_dmf_paper.csv") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"].startswith("DMF paper")]
    for row in rows:
        place = (BACKBONES[row["backbone"]], DATASETS[row["dataset"]], int(row["way"]), int(row["shot"]))
        number = published.in_paper(row["method"], *place)
        assert number is not None
        assert number.accuracy == pytest.approx(float(row["accuracy"]) / 100, abs=1e-12)
        assert (number.ci95 or 0) == pytest.approx(float(row["ci95"] or 0) / 100, abs=1e-12)
        assert number.source.endswith(row["source"].removeprefix("DMF paper "))
    assert len(rows) == sum(n.source.startswith("Xu et al.") for n in published.numbers())


def test_libfewshots_numbers_are_all_those_of_its_pages(shared: Path) -> None:
    same = {"Proto": "ProtoNet", "ProtoNet†": "ProtoNet", "RFS": "RFS-simple", "NegCos": "Net-Cosine"}
    expected: dict[tuple, list[float]] = {}
    with open(shared / "facts/published_libfewshot.csv") as lines:
        for row in csv.DictReader(lines):
            method, backbone = same.get(row["method"], row["method"]), BACKBONES.get(row["backbone"], "")
            place = (method, backbone, DATASETS.get(row["dataset"], ""), 5, int(row["shot"]))
            if row["libfewshot_acc"] and (method, backbone) in _methods_kept():
                expected.setdefault(place, []).append(float(row["libfewshot_acc"]) / 100)
    for place, accuracies in expected.items():
        assert sorted(n.accuracy for n in published.in_library(*place)) == pytest.approx(sorted(accuracies))
    assert sum(map(len, expected.values())) == sum(n.source.startswith("LibFewShot") for n in published.numbers())


def _methods_kept() -> set[tuple[str, str]]:
    return {(n.method, n.backbone) for n in published.numbers() if n.source.startswith(published.LIBRARY)}


def test_papers_numbers_that_libfewshot_quotes_are_those_of_its_pages(shared: Path) -> None:
    quoted = [n for n in published.numbers() if "as quoted in LibFewShot" in n.source]
    with open(shared / "facts/published_libfewshot.csv") as lines:
        theirs = [row for row in csv.DictReader(lines) if row["paper_acc"]]
    for number in quoted:
        found = {
            float(row["paper_acc"]) / 100
            for row in theirs
            if (row["method"], row["shot"]) == (number.method, str(number.shot))
            and published.backbone_in_paper(BACKBONES.get(row["backbone"], "")) == number.backbone
        }
        assert [*found] == pytest.approx([number.accuracy])
    assert len(quoted) == 10


def test_every_method_with_a_published_number_has_it_in_its_row() -> None:
    named = {row.published for row in TABLES["1"].values}
    assert {method for method, _ in _methods_kept()} <= named
    shipped = published.in_paper("IDeMe-Net", "resnet18_imagenet", "mini_imagenet", 5, 1)
    assert shipped is not None and shipped.accuracy == 0.5914 and "IDeMe-Net" in named


def test_pages_that_disagree_are_both_kept() -> None:
    found = published.in_library("ProtoNet", "resnet12", "mini_imagenet", 5, 1)
    assert {number.accuracy for number in found} == {0.5861, 0.5425}


def test_table_2_borrows_the_interval_of_table_1() -> None:
    number = published.in_paper("DMF groups=64", "resnet12", "mini_imagenet", 5, 5)
    assert number is not None and number.ci95 is None
    assert published.assumed_ci95(number) == 0.0031
    feat = published.in_paper("FEAT", "resnet12", "mini_imagenet", 5, 1)
    assert feat is not None and published.assumed_ci95(feat) == 0.0020


def test_the_recipes_depart_from_nothing() -> None:
    for name in ("released", "paper", "released_tiered"):
        assert published.departures(recipe(name), ["model.alignment"]) == ()
    five = recipe("released").replace(episodes__shot=5, model__groups=160, training__seed=3, training__threads=8)
    assert published.departures(five, ["model.last_pooling"]) == ()


def test_departures_are_what_differs_from_the_nearest_recipe() -> None:
    short = recipe("paper").replace(training__epochs=9, model__alignment=1)
    assert published.departures(short, ["model.alignment"]) == ("training.epochs=9",)
    assert set(published.departures(short, ["model.groups"])) == {"training.epochs=9", "model.alignment=1"}


def test_groups_are_the_row_in_2c_and_a_departure_elsewhere() -> None:
    config = ExperimentConfig().replace(model__groups=640)
    assert published.departures(config, ["model.groups"]) == ()
    assert published.departures(config, ["model.alignment"]) == ("model.groups=640",)
