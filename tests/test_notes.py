"""A table's notes give the true counts and reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmf.config import EvaluationConfig
from dmf.records.records import Provenance, Started
from reports.cells import AgainstBaseline, Table
from reports.fill import fill, gather
from reports.layouts import TABLES
from reports.spreads import compare
from reports.statistics.pairs import PairedTest
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell
from reports.words import counted, explained, freedom, p_field, p_value
from tests.records_in_memory import InMemory, planned

TEST = EvaluationConfig(episodes=40)


def row(groups: int, seeds: tuple[int, ...]) -> PlannedCell:
    return planned("2c", TEST, seeds, model__groups=groups)


def records_of(cells: list[PlannedCell]) -> InMemory:
    """Rows that differ by a point, with luck of their own for each seed and episode."""
    records = InMemory()
    for number, cell in enumerate(cells):
        for seed in cell.seeds:
            random = np.random.default_rng([number, seed])
            luck = random.normal(0, 0.003) + random.normal(0, 0.03, 40)
            records.tested(cell, np.clip(0.6 + 0.01 * number + luck, 0, 1), seed)
    return records


def note_with(table: Table, text: str) -> str:
    (found,) = (note for note in table.notes if text in note)
    return found


def test_the_pairs_that_a_sweep_asks_for_are_counted() -> None:
    cells = [row(groups, (0, 1, 2)) for groups in (1, 64, 160, 320)]
    layout = TABLES["2c"].replace(compare=((160, 64), (320, 160), (320, 64)))
    assert "for the 6 comparisons of methods in this table and the two hypotheses of each" in note_with(
        fill(layout, cells, records_of(cells)), "Holm's method"
    )


def test_one_comparison_is_singular() -> None:
    cells = [row(groups, (0, 1, 2)) for groups in (1, 64)]
    assert "for the one comparison of methods in this table and its two hypotheses" in note_with(
        fill(TABLES["2c"], cells, records_of(cells)), "Holm's method"
    )


@pytest.mark.parametrize(
    ("seeds", "why"),
    [
        (((0,), (0,)), "no row here is trained with several seeds"),
        (((0,), (0, 1, 2)), "no two rows of a section are trained with two common seeds"),
    ],
)
def test_the_reason_for_an_assumed_spread_is_the_true_one(seeds: tuple[tuple[int, ...], ...], why: str) -> None:
    cells = [row(groups, each) for groups, each in zip((1, 64), seeds, strict=True)]
    assert f"which is assumed, because {why}." in note_with(fill(TABLES["2c"], cells, records_of(cells)), "One seed")


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (
            {"start__head": "linear", "start__seed": 0},
            "its pre-training has a fixed seed and nothing is trained after it",
        ),
        (
            {"model__weights": "/x/w.pt", "model__weights_sha256": "a" * 64},
            "its weights are those of a file and nothing is trained after them",
        ),
    ],
)
def test_why_a_row_is_a_single_training(paths: dict[str, Any], why: str) -> None:
    methods = [("proto_net", {}), ("classifier_baseline", paths)]
    cells = [planned("1", TEST, (0, 1, 2), model__method=method, **more) for method, more in methods]
    table = fill(TABLES["1"], cells, records_of(cells))
    assert [len(cell.seeds_done) for cell in table.sections[0].cells if cell.seeds_planned] == [3, 3]
    note = note_with(table, "A single training")
    assert f"A single training: {why}, so that further seeds would add nothing to it." in note
    assert "as found in this table's rows (2 degrees of freedom)" in note, "ProtoNet's cells spread, over three seeds"


def test_trainings_by_several_versions_of_the_code_are_named() -> None:
    """Records in an archive are not judged by today's code, so that a table may mix what several versions made."""
    cells = [row(groups, (0, 1)) for groups in (1, 64)]
    records = records_of(cells)
    first = next(iter(records.trainings))

    def with_code(key: str, **changed: Any) -> None:
        made = {"git_commit": "c" * 40, "code": "1" * 16, "device": "a CPU", "versions": {}, "threads": 1}
        images = {"data_fingerprint": "d" * 64, "image_sizes": "84x84"}
        records.trainings[key] = records.trainings[key].replace(provenance=Provenance(**made | images | changed))

    for key in records.trainings:
        with_code(key)
    assert not any(
        "versions of its code" in note or "GPUs" in note for note in fill(TABLES["2c"], cells, records).notes
    )
    with_code(first, code="2" * 16, git_commit="e" * 40)
    told = "Several versions of its code, whose numbers may differ for that, trained dmf (eeeeeeeeeeee, cccccccccccc)."
    assert note_with(fill(TABLES["2c"], cells, records), "Several versions") == told
    with_code(first, code="2" * 16, git_commit=None)
    assert "(an unknown commit, cccccccccccc)" in note_with(fill(TABLES["2c"], cells, records), "Several versions")
    with_code(first, code="2" * 16, device_type="cuda")  # other code runs there
    table = fill(TABLES["2c"], cells, records)
    assert not any("Several versions" in note for note in table.notes)
    assert note_with(table, "CPUs made") == "CPUs made 3 trainings and GPUs 1 training."
    also = [cell.replace(evaluation__shot=5) for cell in cells]
    for cell in also:
        for seed in cell.seeds:
            made = records.trainings[cell.of_seed(seed).key]
            records.tested(cell, np.full(40, 0.7), seed, bank="other")
            records.trainings[made.key] = made
    twice = fill(TABLES["2c"], [*cells, *also], records)
    assert note_with(twice, "CPUs made") == "CPUs made 3 trainings and GPUs 1 training.", "each counts once"


def test_rows_that_start_from_other_weights_of_one_pre_training_are_named() -> None:
    """It was made anew on another kind of machine, say, after some of them were trained."""
    methods = ("classifier_baseline", "feat", "meta_baseline")
    cells = [planned("1", TEST, (0, 1), model__method=method, start__head="linear") for method in methods]
    records = records_of(cells)

    def starting(cell: PlannedCell, seed: int, weights: str) -> None:
        config = cell.of_seed(seed)
        assert config.stage is not None
        start = Started(key=config.stage.key, weights=weights * 64)
        records.trainings[config.key] = records.trainings[config.key].replace(start=start)

    for cell in cells:
        starting(cell, 0, "a")
        starting(cell, 1, "b")
    assert not any("made anew" in note for note in fill(TABLES["1"], cells, records).notes)
    starting(cells[1], 1, "c")
    told = "do not start from the same weights: FEAT against Classifier-Baseline, Meta-Baseline."
    assert note_with(fill(TABLES["1"], cells, records), "made anew").endswith(told)


def test_what_differences_are_from() -> None:
    """From the baseline, of the further pairs that a sweep asks for, or of both."""
    further = TABLES["2c"].replace(compare=((160, 64), (640, 320)))
    for groups, layout, told in (
        ((1, 64), TABLES["2c"], "from groups 1"),
        ((1, 64, 160), further, "from groups 1 and of further pairs of rows"),
        ((64, 160, 320, 640), further, "of further pairs of rows"),
    ):
        cells = [row(each, (0, 1, 2)) for each in groups]
        note = note_with(fill(layout, cells, records_of(cells)), "Holm's method")
        assert note.startswith(f"Differences {told} on the same episodes and seeds, with 95 % intervals in brackets.")


def test_the_freedom_of_a_spread_is_that_of_the_rows_that_show_it() -> None:
    seeds = tuple(range(5))
    cells = [*(row(groups, seeds) for groups in (1, 64, 160, 320)), row(640, (0,))]
    gathered = gather(TABLES["2c"], cells, records_of(cells))
    places = {place.row.value: place for place in gathered.sections[0] if place.planned}
    assert compare(places[640], places[1], gathered.spread).sd_freedom == 12.0  # of 4 rows and 5 seeds
    assert compare(places[64], places[1], gathered.spread).sd_freedom is None


@pytest.mark.parametrize(
    ("degrees", "told"),
    [
        (1.0, ", known poorly (1 degree of freedom)"),
        (9.5, ", known poorly (9.5 degrees of freedom)"),
        (36.0, " (36 degrees of freedom)"),
        (121.9, " (121.9 degrees of freedom)"),
    ],
)
def test_only_a_spread_of_few_degrees_of_freedom_is_known_poorly(degrees: float, told: str) -> None:
    numbers = dict.fromkeys(("difference", "low", "high", "method_low", "method_high"), 0.01)
    comparison = AgainstBaseline(
        baseline="it",
        test=PairedTest.TWO_MODELS,
        sd_used=0.002,
        sd_freedom=degrees,
        verdict=Verdict.UNDECIDED,
        **numbers,
    )
    assert f"by a seeds' sd of 0.20{told}" in explained(comparison)


def test_degrees_of_freedom_are_never_in_powers_of_ten() -> None:
    assert freedom(1234.0) == "1234 degrees of freedom"


@pytest.mark.parametrize(
    ("p", "told", "field"),
    [
        (0.0004, "<0.001", "0.0004"),
        (0.032, "0.032", "0.032"),
        (0.0494, "0.049", "0.0494"),
        (0.0496, "<0.05", "0.0496"),
        (0.049999, "<0.05", "0.049999"),
        (0.05, "0.050", "0.05"),
        (0.0504, "0.050", "0.0504"),
        (1.0, "1.000", "1"),
    ],
)
def test_a_p_below_the_level_does_not_read_as_the_level(p: float, told: str, field: str) -> None:
    assert (p_value(p), p_field(p)) == (told, field)


def test_one_is_singular() -> None:
    assert [counted(count, "look") for count in (0, 1, 2, 1200)] == ["0 looks", "1 look", "2 looks", "1,200 looks"]
    assert fill(TABLES["2c"], [row(1, (0,))], InMemory()).verdict.startswith("0 of 1 cell done")
