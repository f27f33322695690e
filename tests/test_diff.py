"""`report --diff A B`: which cells of two stores belong together, what changed, and what is said of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.records import Failure, Provenance
from orchestrator.differences import FORMATS_OF_DIFF, Source, report_diff
from orchestrator.report import NOTHING_FOUND, main
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from reports.diff.compare import Asked, diff
from reports.diff.formats import outcome, summary, to_csv, to_json, to_markdown, to_terminal, what_differs
from reports.diff.values import Change, DiffRow, DiffTable
from reports.layouts import TABLES
from reports.owners import Owner
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell
from reports.words import percent
from tests.records_in_memory import InMemory, episodes, planned

TEST = EvaluationConfig(episodes=40)
ADAPTED = ExperimentConfig().replace(
    data__name="glyphs", model__method="centroid_alignment", model__backbone="conv64f", start__head="arc"
)


def cell(groups: int, seeds: tuple[int, ...] = (0,), **paths: object) -> PlannedCell:
    return planned("2c", TEST, seeds, model__groups=groups, data__name="glyphs", model__backbone="conv64f", **paths)


def table_of(
    a: Sequence[PlannedCell], b: Sequence[PlannedCell], in_a: InMemory, in_b: InMemory, table: str = "2c"
) -> DiffTable:
    (found,) = diff([Asked("s", TABLES[table], tuple(a), tuple(b))], in_a, in_b)
    return found


def row_of(a: PlannedCell, b: PlannedCell, in_a: InMemory, in_b: InMemory) -> DiffRow:
    (row,) = table_of([a], [b], in_a, in_b).rows
    return row


def noise(count: int, seed: int, scale: float = 0.02) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, count)


def test_the_same_records_are_identical() -> None:
    a, b = InMemory(), InMemory()
    for records in (a, b):
        records.tested(cell(4), episodes(0.5, 40))
    row = row_of(cell(4), cell(4), a, b)
    assert (row.change, row.difference, outcome(row), row.differs) == (Change.IDENTICAL, None, "identical", ())
    assert row.a is not None and row.a.accuracy == pytest.approx(episodes(0.5, 40).mean())
    assert summary(table_of([cell(4)], [cell(4)], a, b)) == "1 cell: 1 identical."


def test_with_one_seed_the_models_are_compared_by_a_paired_t_test() -> None:
    a, b = InMemory(), InMemory()
    before = episodes(0.5, 40)
    after = before + 0.03 + noise(40, 1)
    a.tested(cell(4), before)
    b.tested(cell(4), after)
    row = row_of(cell(4), cell(4), a, b)
    found, expected = row.difference, stats.ttest_rel(after, before)
    assert found is not None and (found.of, found.seeds, found.verdict) == ("models", (0,), Verdict.BETTER)
    assert found.difference == pytest.approx((after - before).mean())
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert outcome(row) == "these two models: better; method: undecided (1 seed)"


def test_with_several_seeds_the_methods_are_compared_by_their_own_variance() -> None:
    seeds = (0, 1, 2)
    a, b = InMemory(), InMemory()
    for seed, shift in zip(seeds, (-0.060, -0.064, -0.056), strict=True):
        a.tested(cell(4, seeds), episodes(0.6, 40, seed=9), seed)
        b.tested(cell(4, seeds), episodes(0.6, 40, seed=9) + shift, seed)
    found = row_of(cell(4, seeds), cell(4, seeds), a, b).difference
    assert found is not None and (found.of, found.seeds, found.verdict) == ("methods", seeds, Verdict.WORSE)
    assert found.difference == pytest.approx(-0.06)
    # No episode differs from another, so the seeds' variance is all: a t-test of three differences.
    assert found.p == pytest.approx(stats.ttest_1samp([-0.060, -0.064, -0.056], 0).pvalue)


def test_p_is_adjusted_for_all_cells_and_a_training_in_two_tables_counts_once() -> None:
    a, b = InMemory(), InMemory()
    cells = [cell(groups) for groups in (1, 4, 16)]
    for number, each in enumerate(cells):
        a.tested(each, episodes(0.5, 40))
        b.tested(each, episodes(0.5, 40) + 0.004 * (number + 1) + noise(40, number))
    alone = [row_of(each, each, a, b).difference for each in cells]
    together = [row.difference for row in table_of(cells, cells, a, b).rows]
    p = sorted(each.p for each in alone if each)
    adjusted = sorted(each.p_holm for each in together if each)
    assert adjusted[0] == pytest.approx(3 * p[0]) and adjusted[-1] >= p[-1]
    also = tuple(each.replace(table="2d") for each in cells)
    tables = diff([Asked("s", TABLES["2c"], tuple(cells), tuple(cells)), Asked("s", TABLES["2d"], also, also)], a, b)
    assert [row.difference for row in tables[0].rows] == together
    assert "3 in all tables" in " ".join(tables[0].notes)


def test_differences_that_are_all_equal_decide_nothing() -> None:
    a, b = InMemory(), InMemory()
    a.tested(cell(4), np.full(40, 0.5))
    b.tested(cell(4), np.full(40, 0.75))
    found = row_of(cell(4), cell(4), a, b).difference
    assert found is not None and (found.p, found.verdict) == (1.0, Verdict.UNDECIDED)


def test_a_small_difference_is_the_same() -> None:
    a, b = InMemory(), InMemory()
    a.tested(cell(4), episodes(0.5, 40))
    b.tested(cell(4), episodes(0.5, 40) + noise(40, 0, 0.001))
    row = row_of(cell(4), cell(4), a, b)
    assert outcome(row) == "these two models: same within 0.5; method: undecided (1 seed)"


def test_a_changed_key_says_which_settings_differ() -> None:
    longer = cell(4, training__epochs=120)
    a, b = InMemory(), InMemory()
    a.tested(cell(4), episodes(0.5, 40))
    b.tested(longer, episodes(0.5, 40) + noise(40, 0))
    row = row_of(cell(4), longer, a, b)
    assert row.change is Change.TESTED and row.differs == ("training.epochs: 95 -> 120",)


def test_other_code_and_images_are_named() -> None:
    a, b = InMemory(), InMemory()
    for records, code, images in ((a, "aaaaaaaaaa", "0" * 64), (b, "bbbbbbbbbb", "1" * 64)):
        records.tested(cell(4), episodes(0.5, 40), code=code, data_fingerprint=images)
        made = Provenance(
            data_fingerprint=images, image_sizes="", git_commit=None, versions={}, device="cpu", threads=1, code=code
        )
        (key,) = cell(4).training_keys
        records.trainings[key] = records.trainings[key].replace(provenance=made)
    row = row_of(cell(4), cell(4), a, b)
    assert row.change is Change.UNTESTED and outcome(row) == "not paired: other episodes or images"
    assert row.differs == (
        "training's code: aaaaaaaa -> bbbbbbbb",
        "test's code: aaaaaaaa -> bbbbbbbb",
        "images: 00000000 -> 11111111",
    )


def test_only_the_seeds_that_both_have_are_compared() -> None:
    a, b = InMemory(), InMemory()
    for seed in (0, 1):
        a.tested(cell(4, (0, 1)), episodes(0.5, 40, seed), seed)
    for seed in (1, 2):
        b.tested(cell(4, (1, 2)), episodes(0.5, 40, seed) + noise(40, seed), seed)
    found = row_of(cell(4, (0, 1)), cell(4, (1, 2)), a, b).difference
    assert found is not None and found.seeds == (1,)
    assert found.difference == pytest.approx(noise(40, 1).mean())
    other = row_of(cell(4, (0,)), cell(4, (2,)), a, b)
    assert outcome(other) == "not paired: other seeds"


def test_more_seeds_of_the_same_are_no_change_that_could_be_tested() -> None:
    a, b = InMemory(), InMemory()
    for records, seeds in ((a, (0,)), (b, (0, 1))):
        for seed in seeds:
            records.tested(cell(4, seeds), episodes(0.5, 40, seed), seed)
    row = row_of(cell(4), cell(4, (0, 1)), a, b)
    assert outcome(row) == "identical in seed 0, the others are in one only" and row.difference is None


def of_fewer_episodes(records: InMemory, few: int | None, end: float) -> PlannedCell:
    """A row that is tested on the first `few` of 200 episodes, or on all; the last 150 are `end` harder."""
    test = EvaluationConfig(episodes=200, adapted_episodes=few).resolve(ADAPTED)
    found = PlannedCell(table="1", config=ADAPTED, evaluation=test, seeds=(0, 1))
    for seed in found.seeds:
        accuracies = episodes(0.6, 200, seed)
        accuracies[50:] -= end
        records.tested(found, accuracies[: test.tested], seed)
    return found


def test_a_test_on_more_episodes_is_not_identical() -> None:
    a, b = InMemory(), InMemory()
    fewer, whole = of_fewer_episodes(a, 50, 0.04), of_fewer_episodes(b, None, 0.04)
    (row,) = table_of([fewer], [whole], a, b, "1").rows
    assert row.a is not None and row.b is not None and (row.a.episodes, row.b.episodes) == (50, 200)
    assert (row.change, row.difference) == (Change.UNTESTED, None)
    assert outcome(row) == "identical in the first 50 episodes, the others are in one only"


def test_a_difference_on_shared_episodes_names_them_with_both_accuracies() -> None:
    a, b = InMemory(), InMemory()
    fewer, whole = of_fewer_episodes(a, 50, 0.0), of_fewer_episodes(b, None, 0.0)
    for seed in whole.seeds:
        accuracies = episodes(0.6, 200, seed) + 0.02 + noise(200, seed, 0.005)
        accuracies[50:] -= 0.1
        b.tested(whole, accuracies, seed)
    (row,) = table_of([fewer], [whole], a, b, "1").rows
    found = row.difference
    assert found is not None and row.a is not None and row.b is not None
    firsts = [b.evaluations[key, whole.evaluation.key].episode_accuracies[:50] for key in whole.training_keys]
    assert (found.episodes, found.a, found.b) == (50, row.a.accuracy, pytest.approx(np.mean(firsts)))
    assert found.difference == pytest.approx(found.b - found.a) and row.b.accuracy < row.a.accuracy < found.b
    assert outcome(row).endswith(f" (on the first 50 episodes: {percent(found.b)} − {percent(found.a)})")


def test_origins_are_compared_between_equal_seeds_and_for_all_of_them() -> None:
    ones, others = cell(4, (0, 1, 2)), cell(4, (1, 2, 3))
    a, b = InMemory(), InMemory()
    for records, each, changed in ((a, ones, 3), (b, others, 2)):
        for seed in each.seeds:
            code = "bbbbbbbbbb" if seed >= changed else "aaaaaaaaaa"
            records.tested(each, episodes(0.5, 40, seed), seed, code=code)
    assert row_of(ones, others, a, b).differs == ("test's code: aaaaaaaa -> bbbbbbbb (seed 2)",)
    alone = row_of(cell(4, (0, 1)), cell(4, (2, 3)), a, b)  # no seed in common
    assert alone.differs == ("test's code: aaaaaaaa -> bbbbbbbb",)


def test_cells_that_only_one_has_say_why() -> None:
    a, b = InMemory(), InMemory()
    for records in (a, b):
        records.tested(cell(1), episodes(0.5, 40))
    a.tested(cell(4), episodes(0.5, 40))
    b.ended(cell(4).config, "failed", Failure(reason="out of memory"))
    b.tested(cell(16), episodes(0.5, 40))
    table = table_of([cell(1), cell(4), cell(64)], [cell(1), cell(4), cell(16), cell(64)], a, b)
    assert [(row.label, outcome(row)) for row in table.rows] == [
        ("1 of 64 channels", "identical"),
        ("4 of 64 channels", "only in A; B: failed when last tried: out of memory"),
        ("16 of 64 channels", "only in B; A: not planned"),
        ("64 of 64 channels", "no number; A: missing; B: missing"),
    ]
    assert summary(table) == "4 cells: 1 identical; 1 only in A; 1 only in B; 1 no number."


def test_rows_that_are_told_apart_in_one_store_only_find_their_partner() -> None:
    """In A two trainings share the row of 4 groups; B has one of them, and its row needs no settings in its name."""
    long, short = cell(4, training__epochs=120), cell(4, training__epochs=60)
    a, b = InMemory(), InMemory()
    for records, cells in ((a, (short, long)), (b, (long,))):
        for each in cells:
            records.tested(each, episodes(0.5, 40))
    table = table_of([short, long], [long], a, b)
    assert sorted((row.label, row.change) for row in table.rows) == [
        ("4 of 64 channels", Change.IDENTICAL),
        ("4 of 64 channels, training.epochs=60", Change.ONLY_A),
    ]


def test_what_differs_in_all_rows_is_told_once() -> None:
    a, b = InMemory(), InMemory()
    before = [cell(groups) for groups in (1, 4)]
    after = [cell(1, training__epochs=120), cell(4, training__epochs=120, training__learning_rate=0.1)]
    for records, cells in ((a, before), (b, after)):
        for each in cells:
            records.tested(each, episodes(0.5, 40))
    assert what_differs(table_of(before, after, a, b)) == [
        "training.epochs: 95 -> 120",
        "training.learning_rate: 0.35 -> 0.1 (in 4 of 64 channels)",
    ]


def changed() -> DiffTable:
    """A table with every outcome."""
    a, b, both = InMemory(), InMemory(), (0, 1, 2)
    before = [cell(1), cell(2), cell(4, both), cell(8)]
    after = [cell(1), cell(2, training__epochs=120), cell(4, both), cell(16)]
    for seed in both:
        a.tested(before[2], episodes(0.5, 40, seed), seed)
        b.tested(before[2], episodes(0.5, 40, seed) + 0.05 + noise(40, seed, 0.001), seed)
    for records, cells in ((a, before), (b, after)):
        records.tested(cells[0], episodes(0.5, 40))
        records.tested(cells[3], episodes(0.5, 40))
    a.tested(before[1], episodes(0.5, 40))
    b.tested(after[1], episodes(0.5, 40) + noise(40, 5))
    return table_of(before, after, a, b)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_breaks_no_number_and_no_word(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(to_terminal(changed(), width))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    words = " ".join(printed.split())
    for expected in ("+5.0", "identical", "better", "undecided", "only in A", "training.epochs: 95 -> 120"):
        assert expected in words
    for row in changed().rows:
        assert all(word in printed for word in outcome(row).split())
    assert ("p (Holm)" in printed) == (width == 120)


def test_files_hold_every_row_and_the_same_values() -> None:
    table = changed()
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(lines) == len(table.rows) == 5
    by_row = {line["row"]: line for line in lines}
    four = by_row["4 of 64 channels"]
    assert (four["verdict"], four["of"], four["a_seeds"]) == ("better", "methods", "0 1 2")
    assert float(four["b_minus_a"]) == pytest.approx(5, abs=0.1) and float(four["low"]) > 4
    assert by_row["8 of 64 channels"]["b_state"] == "not planned"
    assert DiffTable.model_validate_json(to_json(table)) == table
    text = to_markdown(table)
    assert all(row.label in text for row in table.rows) and r"p \(Holm)" not in text
    pipes = [line.count("|") - line.count(r"\|") for line in text.splitlines() if line.startswith("|")]
    assert len(pipes) == 7 and len(set(pipes)) == 1


def stores(folder: Path) -> tuple[Path, Path]:
    """Two stores with sweep `both`; A also has `old`."""
    for name, shift in (("a", 0.0), ("b", 0.05)):
        ledger, records = Ledger(folder / name), InMemory()
        cells = [cell(1), cell(4)]
        ledger.write_plan(SweepPlan(name="both", about="", cells=tuple(cells)))
        if name == "a":
            ledger.write_plan(SweepPlan(name="old", about="", cells=tuple(cells)))
        records.tested(cells[0], episodes(0.5, 40))
        records.tested(cells[1], episodes(0.5, 40) + shift + noise(40, 3, 0.01) * (name == "b"))
        for training in records.trainings.values():
            ledger.write_training(training)
        for evaluation in records.evaluations.values():
            ledger.write_evaluation(evaluation)
    return folder / "a", folder / "b"


def test_the_command_compares_two_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, stores(tmp_path))
    output = tmp_path / "out"
    assert main(["--diff", a, b, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert f"A: {a}\nB: {b}\n" in said and "sweeps only in A: old" in said
    folder = output / "diff" / "both"
    assert {path.name for path in folder.glob("table_*")} == {
        f"table_2c.{suffix}" for suffix, _ in FORMATS_OF_DIFF.values()
    }
    rows = json.loads((folder / "table_2c.json").read_text())["sections"][0]["rows"]
    assert [row["change"] for row in rows] == ["identical", "tested"]
    first = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["--diff", a, b, "--output", str(output), "--formats", "csv", "json"]) == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == first
    assert main(["--diff", a, a, "old", "--output", str(output)]) == 0
    assert "2 cells: 2 identical." in capsys.readouterr().out


def test_anything_with_plans_and_records_can_be_compared(tmp_path: Path) -> None:
    """Such as an archive: it needs no more than `Records` and its plans."""
    records, cells = InMemory(), (cell(1),)
    records.tested(cells[0], episodes(0.5, 40))
    source = Source("memory", {"s": SweepPlan(name="s", about="", cells=cells)}, records, Owner(name="memory"))
    console = Console(width=100, file=io.StringIO())
    (path,) = report_diff(source, source, tmp_path, formats=["json"], console=console)
    assert DiffTable.read(path).rows[0].change is Change.IDENTICAL


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--store", "x"], "--store: --diff reads the two stores that it names"),
        (["--accept-stale"], "--accept-stale: --diff reads the two stores"),
        (["--tracking-uri", "http://x"], "--tracking-uri: --diff reads"),
        (["--formats", "html", "csv"], "--formats html: --diff writes markdown, csv, json; choose of these"),
        (["old"], "no sweep 'old' in B ("),
        (["--table", "2d"], "neither A nor B has cells for table 2d in both"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    a, b = map(str, stores(tmp_path))
    assert main(["--diff", a, b, "--output", str(tmp_path / "out"), *more]) == NOTHING_FOUND
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_stores_without_a_common_sweep_or_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = map(str, stores(tmp_path))
    Ledger(tmp_path / "c").write_plan(SweepPlan(name="other", about="", cells=(cell(1),)))
    assert main(["--diff", a, str(tmp_path / "c")]) == NOTHING_FOUND
    said = capsys.readouterr().err
    assert "no sweep has the same name in both" in said and "in A there are: both, old; in B: other" in said
    assert main(["--diff", a, str(tmp_path / "nowhere")]) == NOTHING_FOUND
    assert "there is no store" in capsys.readouterr().err
