"""Documents say what their archives say, and no other number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dmf.config import EvaluationConfig
from dmf.records.records import Epoch, Provenance
from orchestrator import documents
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.archive import write_archive
from orchestrator.store.ledger import Ledger
from reports.layouts import TableLayout
from reports.tables import PlannedCell
from tests.records_in_memory import InMemory, episodes, planned

TEN = EvaluationConfig(episodes=10)
MADE = Provenance(
    data_fingerprint="0" * 64,
    image_sizes="84x84",
    git_commit="1234567" + "0" * 33,
    versions={"torch": "2.14"},
    device="a processor",
    threads=2,
)
TEMPLATE = """{% set it = sweep("s") %}
ODE {{ it.cell("2d", "ODE").accuracy | percent }} % ({{ it.made.done }} of {{ it.made.asked }}), {{ it.steps }} steps.
{{ it.made.sentence }}
{% set ode = it.cell("2d", "ODE") %}
{{ it.steps_of(ode) }}: {{ it.baseline("2d") | ours }}, {{ ode | word }}, {{ ode | verdict }}

{{ it.tables("2d", level=4) }}
"""


@pytest.mark.parametrize("name", sorted(path.name for path in documents.TEMPLATES.iterdir()))
def test_a_document_says_what_its_archives_say(name: str) -> None:
    texts = {path.name: (path, text) for path, text in documents.documents()}
    path, text = texts[name.removesuffix(".jinja")]
    assert path.read_text(encoding="utf-8") == text, "run python -m orchestrator.documents"


def test_figures_say_what_the_archives_say_and_no_other_is_left() -> None:
    figures = {path: text for path, text in documents.documents() if path.suffix == ".svg"}
    assert {path: path.read_text(encoding="utf-8") for path in figures} == figures
    assert set((documents.DOCS / documents.FIGURES).glob("*")) == set(figures)


def archive(cells: Sequence[PlannedCell], records: InMemory, path: Path, *tables: TableLayout) -> None:
    """An archive of the sweep `s`, with a store beside it that it is from."""
    ledger = Ledger(path.parent / "runs")
    ledger.write_plan(SweepPlan(format=2, name="s", about="", cells=tuple(cells), tables=tables))
    for record in records.trainings.values():
        ledger.write_training(record)
    for exam in records.evaluations.values():
        ledger.write_evaluation(exam)
    write_archive(ledger, ["s"], path)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of documents with one template, and an archive of two rows."""
    cells = [planned("2d", TEN, (0,), model__alignment=alignment) for alignment in (0, "ode")]
    records = InMemory()
    for cell, accuracy in zip(cells, (0.5, 0.75), strict=True):
        records.tested(cell, [accuracy] * 10)
    epoch = Epoch(epoch=1, loss=1.0, losses={}, learning_rate=0.1, seconds=90.0)
    for key, record in records.trainings.items():
        records.trainings[key] = record.replace(seconds=90.0, provenance=MADE, history=(epoch,))
    (tmp_path / "docs/templates").mkdir(parents=True)
    (tmp_path / "docs/templates/page.md.jinja").write_text(TEMPLATE)
    archive(cells, records, tmp_path / "docs/study/s.dmfa")
    return tmp_path / "docs"


def test_numbers_come_from_the_archive(docs: Path) -> None:
    ((path, text),) = documents.documents(docs)
    assert path == docs / "page.md"
    first, second, third, _, heading = text.splitlines()[:5]
    assert first == "ODE 75.00 % (2 of 2), 28500 steps."
    assert second == (
        "2 of 2 trainings are done (seeds 0), at commit 1234567, on a processor with PyTorch 2.14: 0.1 core-hours, 3.0 "
        "to 3.0 core-minutes each with validation."
    )
    assert third.startswith("28500: 50.00 ± 0.00, undecided, these two models: +25.00 [")
    assert heading.startswith("#### Table 2d") and "| 75.00 ± 0.00 |" in text.replace("**", "")


def test_a_figure_is_a_file_that_is_checked_like_a_document(tmp_path: Path) -> None:
    layout = TableLayout(name="longer", title="L", rows="model.alignment", columns=("training.epochs",), baseline=0)
    cells, records = [], InMemory()
    for epochs, gain in ((20, 0.0), (40, 0.08), (80, 0.2)):
        for alignment, accuracy in ((0, 0.5), (1, 0.5 + gain)):
            paths = {"training__epochs": epochs, "model__alignment": alignment}
            cells.append(planned("longer", TEN, (0,), **paths))
            records.tested(cells[-1], episodes(accuracy, 10))
    (tmp_path / "docs/templates").mkdir(parents=True)
    (tmp_path / "docs/templates/page.md.jinja").write_text('{{ sweep("s").along("longer") }}')
    archive(cells, records, tmp_path / "docs/study/s.dmfa", layout)
    (page, text), (path, figure) = documents.documents(tmp_path / "docs")
    assert text == "![5-way 1-shot: 1](figures/s-longer-0.svg)" and path == page.parent / "figures/s-longer-0.svg"
    assert "20: 0.00 " in figure and "40: +8.00 " in figure and "80: +20.00 " in figure


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (-0.06, "−5.00 points (p 0.013 for no change, by a t-test over 3 seeds)"),
        (0.0, "−3.00 points (p 0.188 for no change, by a t-test over 3 seeds)"),
    ],
)
def test_a_change_of_a_difference_is_tested_over_seeds(last: float, told: str, tmp_path: Path) -> None:
    """By hand: changes of −4, −5 and −6 points have mean −5 and sd 1, so t is −5 √3; of −4, −5 and 0 it is −1.96."""
    layout = TableLayout(name="longer", title="L", rows="model.alignment", columns=("training.epochs",), baseline=0)
    cells, records = [], InMemory()
    for epochs, gains in ((20, (0.1, 0.1, 0.1)), (40, (0.06, 0.05, 0.1 + last))):
        for alignment in (0, 1):
            paths = {"training__epochs": epochs, "model__alignment": alignment}
            cells.append(planned("longer", TEN, (0, 1, 2), **paths))
            for seed, gain in enumerate(gains):
                records.tested(cells[-1], [0.5 + 0.1 * seed + alignment * gain] * 10, seed)
    archive(cells, records, tmp_path / "s.dmfa", layout)
    change = documents.Told("s", tmp_path).change("longer", "1", 0, 1)
    assert change.by_seed == pytest.approx((-0.04, -0.05, last)) and change.sentence == told


def test_our_order_of_methods_is_compared_with_the_published_one(tmp_path: Path) -> None:
    """By hand: ranks 1, 2, 3 beside 1, 3, 2 have Spearman's correlation 1 - 6 (1 + 1) / (3 * 8)."""
    ours = {"proto_net": 0.5, "relation_net": 0.7, "matching_net": 0.6, "raw_pixels": 0.3}
    records, cells = InMemory(), []
    for method, accuracy in ours.items():
        paths = {"model__method": method} | ({"model__backbone": "conv64f"} if method != "raw_pixels" else {})
        cells.append(planned("1", TEN, (0,), **paths))
        records.tested(cells[-1], episodes(accuracy, 10))
    archive(cells, records, tmp_path / "s.dmfa")
    order = documents.Told("s", tmp_path).order("1")
    published = {cell.label: theirs.accuracy for cell, theirs in order.rows}
    assert published == {"RelationNet": 0.5044, "MatchingNet": 0.4356, "ProtoNet": 0.4942}
    assert list(published) == ["RelationNet", "MatchingNet", "ProtoNet"]
    assert order.sentence == "0.50 (p 0.667)"


def test_a_document_that_says_otherwise_is_told(
    docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(documents, "documents", lambda read=documents.documents: read(docs))
    assert documents.main(["--check"]) == documents.OUTDATED
    assert "page.md says otherwise than its archives" in capsys.readouterr().err
    assert not (docs / "page.md").exists()
    assert documents.main([]) == 0 and documents.main(["--check"]) == 0
    page = docs / "page.md"
    page.write_text(page.read_text().replace("75.00", "76.00", 1))
    assert documents.main(["--check"]) == documents.OUTDATED


@pytest.mark.parametrize(
    ("asked", "told"),
    [('sweep("s").table("2c")', "no table 2c"), ('sweep("s").cell("2d", "7")', "no row 7"), ('sweep("t")', "t.dmfa")],
)
def test_what_is_not_there_is_refused(docs: Path, asked: str, told: str) -> None:
    (docs / "templates/page.md.jinja").write_text("{{ " + asked + " }}")
    with pytest.raises((ValueError, OSError), match=told):
        list(documents.documents(docs))
