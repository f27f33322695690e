"""All formats show the same content, each in its own syntax, and rendering is deterministic."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from dmf.config import EvaluationConfig
from dmf.records.records import Failure
from reports import render
from reports.cells import Table
from reports.fill import fill
from reports.layouts import TABLES
from reports.statistics.paper import PublishedVerdict
from reports.tables import PlannedCell
from tests.records_in_memory import InMemory, episodes, planned

NASTY = r"50% of GPU_0 & <b>#1</b> | {a}^2 ~ C:\temp [x] $5 *"
TEN = EvaluationConfig(episodes=10)


def cells_of_2c() -> list[PlannedCell]:
    places = [(shot, groups) for shot in (1, 5) for groups in (1, 64, 160, 320)]
    return [planned("2c", TEN, (0, 1), model__groups=groups, episodes__shot=shot) for shot, groups in places]


def records_of(cells: list[PlannedCell]) -> InMemory:
    """A table with cells in all states: done, partial, failed, diverged, missing."""
    records = InMemory()
    for index, cell in enumerate(cells):
        for seed in cell.seeds:
            if index == 1 and seed == 1:
                continue
            if index == 2:
                records.ended(cell.trainings[seed], "failed", Failure(reason=NASTY))
            elif index == 3:
                records.ended(cell.trainings[seed], "diverged", Failure(reason="nan", step=7))
            elif index != 6:
                noise = np.random.default_rng(10 * index + seed).normal(0, 0.02, 10)
                records.tested(cell, np.clip(episodes(0.6 + 0.01 * index, 10) + noise, 0, 1), seed)
    return records


@pytest.fixture(scope="module")
def table() -> Table:
    cells = cells_of_2c()
    return fill(TABLES["2c"], cells, records_of(cells))


def test_percent_by_hand() -> None:
    assert render.percent(0.6776) == "67.76"
    assert render.percent(0.67185) == "67.19"
    assert render.percent(0.0046, signed=True) == "+0.46"
    assert render.percent(-0.0046, signed=True) == "−0.46"
    assert render.percent(-0.00001, signed=True) == render.percent(0.0, signed=True) == "0.00"
    assert render.percent(1.0) == "100.00"


def outputs(table: Table) -> dict[str, str]:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(render.to_terminal(table, 160))
    assert isinstance(console.file, io.StringIO)
    return {
        "terminal": console.file.getvalue(),
        "markdown": render.to_markdown(table),
        "latex": render.to_latex(table),
        "csv": render.to_csv(table),
        "html": render.to_html([table], "Tables"),
        "json": render.to_json(table),
    }


def test_all_outputs_hold_the_same_numbers(table: Table) -> None:
    written = outputs(table)
    in_json = {float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", written["json"])}
    for section in table.sections:
        for cell in section.cells:
            assert cell.published is not None
            numbers = [cell.published.accuracy, cell.accuracy, cell.ci95, cell.seed_sd, cell.total_ci95]
            if cell.to_published:
                numbers += [cell.to_published.difference, cell.to_published.ci95]
            if cell.to_baseline:
                numbers += [cell.to_baseline.difference, cell.to_baseline.low, cell.to_baseline.high]
                numbers += [cell.to_baseline.method_low, cell.to_baseline.method_high, cell.to_baseline.sd_used]
            for number in numbers:
                if number is None:
                    continue
                printed = render.percent(abs(number))
                for name in ("terminal", "markdown", "latex", "csv", "html"):
                    assert printed in written[name], (name, cell.name, number)
                assert number in in_json


def test_the_same_table_is_the_same_bytes_whatever_the_order_it_came_in(table: Table) -> None:
    cells = cells_of_2c()
    again = fill(TABLES["2c"], list(reversed(cells)), records_of(cells))
    assert outputs(again) == outputs(table)


def test_the_sidecar_gives_the_table_back(table: Table, tmp_path) -> None:
    (tmp_path / "table.json").write_text(render.to_json(table))
    assert Table.read(tmp_path / "table.json") == table


def test_sidecar_holds_the_records_keys_and_unrounded_accuracies(table: Table) -> None:
    data = json.loads(render.to_json(table))
    cell = data["sections"][0]["cells"][0]
    assert len(cell["records"]) == 2 and all(re.fullmatch(r"[0-9a-f]{16}/[0-9a-f]{16}", key) for key in cell["records"])
    assert cell["accuracy"] == table.sections[0].cells[0].accuracy
    assert cell["published"]["source"].endswith("Table 2c")


def test_numbers_reach_the_printed_line(table: Table) -> None:
    cell = table.sections[0].cells[0]
    assert cell.accuracy is not None and cell.ci95 is not None and cell.seed_sd is not None
    line = next(line for line in render.to_markdown(table).splitlines() if line.startswith("| 1 |"))
    fields = [field.strip().strip("*") for field in line.strip("|").split("|")]
    assert fields[:2] == ["1", "66.48"]
    assert fields[3] == f"{100 * cell.accuracy:.2f} ± {100 * cell.ci95:.2f}"
    assert cell.total_ci95 is not None
    assert fields[4:6] == [f"{100 * cell.seed_sd:.2f} (n=2)", f"± {100 * cell.total_ci95:.2f}"]
    assert fields[6:8] == ["10", "2 of 2"]
    assert fields[-1] == "baseline"


@pytest.mark.parametrize("name", ["terminal", "markdown", "latex", "html"])
def test_empty_and_partial_cells_say_so(table: Table, name: str) -> None:
    text = outputs(table)[name]
    for said in ("diverged at step 7", "failed (see notes)", "missing", "1 of 2", "not planned"):
        assert said in text
    assert "seed 1: missing" in " ".join(text.split())


def test_markdown_rows_have_as_many_fields_as_their_heading(table: Table) -> None:
    lines = [line for line in render.to_markdown(table).splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(counts) == 1 and len(lines) == 2 * (2 + 5)


def latex_rows(text: str) -> list[str]:
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    return [line for line in body.splitlines() if line.endswith(r"\\")]


def test_latex_is_balanced_and_rectangular(table: Table) -> None:
    text = render.to_latex(table)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    unescaped = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    columns = len(re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)[0])
    for row in latex_rows(text):
        if row.startswith(r"\multicolumn"):
            assert row.startswith(rf"\multicolumn{{{columns}}}{{l}}")
        else:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1
    assert len(latex_rows(text)) == 1 + 2 * (1 + 5)


def test_latex_prints_special_characters_as_they_stand(table: Table) -> None:
    note = next(line for line in render.to_latex(table).splitlines() if "of GPU" in line)
    assert r"50\% of GPU\_0 \& $<$b$>$\#1$<$/b$>$ | \{a\}\textasciicircum{}2 " in note
    assert r"\textasciitilde{} C:\textbackslash{}temp {[}x{]}" in note
    assert r"\$5" in note
    assert not re.search(r"[^\x00-\x7f]", render.to_latex(table)), "every sign is LaTeX's own"
    assert r"\usepackage{booktabs}" in render.to_latex(table)


def test_bold_in_latex_and_markdown_are_the_best(table: Table) -> None:
    best = sum(cell.best for section in table.sections for cell in section.cells)
    assert best > 0
    assert render.to_latex(table).count(r"\textbf{") == best
    assert len(re.findall(r"\| \*\*[0-9]", render.to_markdown(table))) == best
    assert render.to_html([table], "t").count("<strong>") == best


def test_csv_is_one_line_for_each_cell_and_reads_back(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(render.to_csv(table))))
    cells = [cell for section in table.sections for cell in section.cells]
    assert [row["row"] for row in rows] == [cell.label for cell in cells]
    assert not any(None in row or None in row.values() for row in rows)
    assert rows[2]["reason"] == f"failed: {NASTY}"
    for row, cell in zip(rows, cells, strict=True):
        if cell.accuracy is None:
            assert row["accuracy_percent"] == ""
        else:
            assert float(row["accuracy_percent"]) == pytest.approx(100 * cell.accuracy, abs=0.00501)
    assert float(rows[3]["paper_percent"]) == 67.51


class Outline(HTMLParser):
    """Collects open tags, to check that each is closed, and text and addresses, to check the content."""

    VOID = {"meta", "br", "link", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_one_closed_page_without_anything_from_outside(table: Table) -> None:
    text = render.to_html([table, table], "Tables & more", "About <this>")
    page = Outline()
    page.feed(text)
    assert page.open == []
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"script", "link", "img"} & set(page.tags)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert NASTY in "".join(page.text), "a reason is text, not markup"
    assert "Tables & more" in "".join(page.text) and "About <this>" in "".join(page.text)


def test_strips_lie_on_their_axis(table: Table) -> None:
    for section in table.sections:
        for cell, strip in zip(section.cells, render.strips(section), strict=True):
            assert (strip is None) == (cell.accuracy is None)
            if strip is not None:
                assert 0 <= strip.low <= strip.mean <= strip.low + strip.width <= 100.01
                assert strip.mean == pytest.approx(strip.low + strip.width / 2, abs=0.02)
                assert strip.paper is not None and 0 <= strip.paper <= 100


def test_backbones_are_told_when_there_are_several() -> None:
    one = fill(TABLES["2d"], [planned("2d", TEN)], InMemory())
    two = fill(TABLES["2d"], [planned("2d", TEN), planned("2d", TEN, model__backbone="conv64f")], InMemory())
    assert "| backbone |" not in render.to_markdown(one)
    assert "| backbone |" in render.to_markdown(two)


def test_columns_without_anything_are_left_out() -> None:
    cells = [planned("2c", TEN, model__groups=g, data__name="glyphs", model__backbone="conv64f") for g in (1, 64)]
    text = render.to_markdown(fill(TABLES["2c"], cells, InMemory()))
    assert "paper" not in text.splitlines()[4] and "LibFewShot" not in text
    assert "| 64 of 64 channels |" in text


@pytest.mark.parametrize("width", [80, 140])
def test_what_else_differs_from_the_baseline_is_printed_whole(width: int) -> None:
    cells = [planned("2d", TEN, training__episodes_per_epoch=400), planned("2d", TEN, model__alignment=0)]
    cells.append(planned("2d", TEN, model__alignment=1))
    records = InMemory()
    for cell in cells:
        records.tested(cell, episodes(0.6, 10))
    table = fill(TABLES["2d"], cells, records)
    assert "not comparable (also differs: training.episodes_per_epoch)" in render.to_html([table], "t")
    (row,) = [row for row in csv.DictReader(io.StringIO(render.to_csv(table))) if row["also_differs"]]
    assert (row["row"], row["also_differs"]) == ("ODE", "training.episodes_per_epoch")
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render.to_terminal(table, width))
    assert isinstance(console.file, io.StringIO)
    assert "…" not in console.file.getvalue(), "a path that is too long for its column goes on below"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_terminal_keeps_within_its_width_and_breaks_no_number(table: Table, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render.to_terminal(table, width))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    for section in table.sections:
        for cell in section.cells:
            if cell.accuracy is not None and cell.ci95 is not None:
                assert f"{render.percent(cell.accuracy)} ± {render.percent(cell.ci95)}" in text
    assert any(verdict in text for verdict in PublishedVerdict)
    assert "undecided" in text or "better" in text
