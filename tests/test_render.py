"""All formats show the same content, each in its own syntax, and rendering is deterministic."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from rich.console import Console

from reports.cells import Table
from reports.fill import fill
from reports.layouts import TABLES
from reports.render.data import to_csv, to_json
from reports.render.latex import to_latex, to_latex_column
from reports.render.markdown import to_markdown
from reports.render.page import to_html
from reports.render.pivot import pivot
from reports.render.terminal import to_terminal
from reports.render.tex import latex_text
from reports.words import percent
from tests.filled import NASTY, TEN, cells_of_2c, hostile, of_methods, records_of, table_2c
from tests.records_in_memory import InMemory, episodes, planned


@pytest.fixture(scope="module")
def table() -> Table:
    return table_2c()


def test_percent_by_hand() -> None:
    assert percent(0.6776) == "67.76"
    assert percent(0.67185) == "67.19"
    assert percent(0.0046, signed=True) == "+0.46"
    assert percent(-0.0046, signed=True) == "−0.46"
    assert percent(-0.00001, signed=True) == percent(0.0, signed=True) == "0.00"
    assert percent(1.0) == "100.00"


def outputs(table: Table) -> dict[str, str]:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(to_terminal(table, 160))
    assert isinstance(console.file, io.StringIO)
    return {
        "terminal": console.file.getvalue(),
        "markdown": to_markdown(table),
        "latex": to_latex(table),
        "latex-column": to_latex_column(table),
        "csv": to_csv(table),
        "html": to_html([table], "Tables"),
        "json": to_json(table),
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
                printed = percent(abs(number))
                for name in ("terminal", "markdown", "latex", "csv", "html"):
                    assert printed in written[name], (name, cell.name, number)
                assert number in in_json


def test_the_same_table_is_the_same_bytes_whatever_the_order_it_came_in(table: Table) -> None:
    cells = cells_of_2c()
    again = fill(TABLES["2c"], list(reversed(cells)), records_of(cells))
    assert outputs(again) == outputs(table)


def test_the_sidecar_gives_the_table_back(table: Table, tmp_path) -> None:
    (tmp_path / "table.json").write_text(to_json(table))
    assert Table.read(tmp_path / "table.json") == table


def test_sidecar_holds_the_records_keys_and_unrounded_accuracies(table: Table) -> None:
    data = json.loads(to_json(table))
    cell = data["sections"][0]["cells"][0]
    assert len(cell["records"]) == 2 and all(re.fullmatch(r"[0-9a-f]{16}/[0-9a-f]{16}", key) for key in cell["records"])
    assert cell["accuracy"] == table.sections[0].cells[0].accuracy
    assert cell["published"]["source"].endswith("Table 2c")


def test_numbers_reach_the_printed_line(table: Table) -> None:
    cell = table.sections[0].cells[0]
    assert cell.accuracy is not None and cell.ci95 is not None and cell.seed_sd is not None
    line = next(line for line in to_markdown(table).splitlines() if line.startswith("| 1 |"))
    fields = [field.strip().strip("*") for field in line.strip("|").split("|")]
    assert fields[:2] == ["1", "66.48"]
    assert fields[3] == f"{100 * cell.accuracy:.2f} ± {100 * cell.ci95:.2f}"
    assert cell.total_ci95 is not None
    assert fields[4:6] == [f"{100 * cell.seed_sd:.2f} (n=2)", f"± {100 * cell.total_ci95:.2f}"]
    assert fields[6:8] == ["10", "2 of 2"]
    assert fields[9:] == ["–", "–", "–", "baseline", "1,000", "0.028", "67 core-min", "100", "1.5 GiB"]


@pytest.mark.parametrize("name", ["terminal", "markdown", "latex", "html"])
def test_empty_and_partial_cells_say_so(table: Table, name: str) -> None:
    text = outputs(table)[name]
    for said in ("diverged at step 7", "failed (see notes)", "missing", "1 of 2", "not planned"):
        assert said in text
    assert "seed 1: missing" in " ".join(text.split())


def test_markdown_rows_have_as_many_fields_as_their_heading(table: Table) -> None:
    for part, count in ((overview(table), 2 + 5), (sections(table), 2 * (2 + 5))):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(counts) == 1 and len(lines) == count


def overview(table: Table) -> str:
    """The part of the Markdown that has all sections beside each other."""
    return to_markdown(table).split("### ")[1]


def sections(table: Table) -> str:
    """The rest of it."""
    return "### ".join(to_markdown(table).split("### ")[2:])


def test_the_caption_of_one_column_tells_only_of_the_columns_that_are_there() -> None:
    """Rows that no paper has, without the baseline: neither a published number nor a difference."""
    records, cells = InMemory(), [planned("2c", TEN, (0, 1), model__groups=groups) for groups in (8, 32)]
    for number, cell in enumerate(cells):
        for seed in cell.seeds:
            records.tested(cell, episodes(0.5 + 0.1 * number, 10, seed), seed)
    layout = TABLES["2c"].replace(compare=((32, 8),), values=())
    (caption,) = [line for line in to_latex_column(fill(layout, cells, records)).splitlines() if "caption{" in line]
    assert "Ours: mean and 95" in caption and "Paper" not in caption and "Difference" not in caption
    (caption,) = [line for line in to_latex_column(table_2c()).splitlines() if "caption{" in line]
    assert "Paper: published numbers" in caption


def latex_grids(text: str) -> list[list[str]]:
    """The lines of each tabular that end a row."""
    bodies = re.findall(r"\\toprule(.*?)\\bottomrule", text, re.DOTALL)
    return [[line for line in body.splitlines() if line.endswith(r"\\")] for body in bodies]


@pytest.mark.parametrize(("write", "rows"), [(to_latex, [10, 8]), (to_latex_column, [10])])
def test_latex_is_balanced_and_rectangular(table: Table, write: Callable[[Table], str], rows: list[int]) -> None:
    text = write(table)
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
    grids = latex_grids(text)
    assert [len([row for row in grid if not row.startswith(r"\multicolumn")]) - 1 for grid in grids] == rows
    for heading, *others in grids:
        columns = len(re.findall(r"(?<!\\)&", heading)) + 1
        for row in others:
            if row.startswith(r"\multicolumn"):
                assert row.startswith(rf"\multicolumn{{{columns}}}{{@{{}}p")
            else:
                assert len(re.findall(r"(?<!\\)&", row)) == columns - 1


def test_latex_prints_special_characters_as_they_stand(table: Table) -> None:
    note = next(line for line in to_latex(table).splitlines() if "of GPU" in line)
    assert r"50\% of GPU\_0 \& $<$b$>$\#1$<$/b$>$ $|$ \{a\}\textasciicircum{}2 " in note
    assert r"\textasciitilde{} C:\textbackslash{}temp {[}x{]}" in note
    assert r"\$5" in note
    for text in (to_latex(table), to_latex_column(table), to_latex(hostile()), to_latex_column(hostile())):
        assert not re.search(r"[^\x20-\x7e\n]", text), "every sign is LaTeX's own"
    assert latex_text("日 é η → Å ﬁ") == r"{[}U+65E5{]} \'{e} $\eta$ $\to$ \r{A} {[}U+FB01{]}"
    assert r"\usepackage{booktabs,siunitx,tabularx}" in to_latex(table)


def test_the_column_for_a_paper_has_what_a_paper_shows(table: Table) -> None:
    ((heading, section, first, *_),) = latex_grids(to_latex_column(table))
    cell = table.sections[0].cells[0]
    assert heading == r"{groups} & {paper} & {ours} & {difference} \\"
    assert section.startswith(r"\multicolumn{4}{@{}p{\columnwidth}@{}}") and r"\emph{5-way 1-shot}" in section
    assert cell.accuracy is not None and cell.ci95 is not None
    number = rf"\num{{{percent(cell.accuracy)} +- {percent(cell.ci95)}}}"
    entry = rf"\textbf{{{number}}}" if cell.best else number
    assert first == rf"1 & 66.48 & {{{entry}}} & {{--}} \\"


def test_bold_in_latex_and_markdown_are_the_best(table: Table) -> None:
    best = sum(cell.best for section in table.sections for cell in section.cells)
    assert best > 0
    assert to_latex(table).count(r"\textbf{") == best
    assert len(re.findall(r"\| \*\*[0-9]", sections(table))) == best
    assert len(re.findall(r"\| \*\*[0-9]", overview(table))) == best
    assert to_html([table], "t").count("<strong>") == 2 * best  # in the overview and in the sections


def test_csv_is_one_line_for_each_cell_and_reads_back(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    cells = [cell for section in table.sections for cell in section.cells]
    assert [row["row"] for row in rows] == [cell.label for cell in cells]
    assert not any(None in row or None in row.values() for row in rows)
    assert rows[2]["reason"] == f"failed when last tried: {NASTY}"
    for row, cell in zip(rows, cells, strict=True):
        if cell.accuracy is None:
            assert row["accuracy_percent"] == ""
        else:
            assert float(row["accuracy_percent"]) == pytest.approx(100 * cell.accuracy, abs=0.00501)
    assert float(rows[3]["paper_percent"]) == 67.51


class Outline(HTMLParser):
    """Collects open tags, to check that each is closed, and text and addresses, to check the content."""

    VOID = {"meta", "br", "link", "img", "wbr"}

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
    text = to_html([table, table], "Tables & more", "About <this>")
    page = Outline()
    page.feed(text)
    assert page.open == []
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"link", "img", "iframe", "object"} & set(page.tags) and page.tags.count("script") == 1
    assert "http" not in text and not re.search(r"url\((?!#)", text) and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert NASTY in "".join(page.text), "a reason is text, not markup"
    assert "Tables & more" in "".join(page.text) and "About <this>" in "".join(page.text)


def test_rows_stand_under_their_backbones_in_the_papers_order() -> None:
    written = outputs(of_methods("resnet12", "conv64f"))
    rows = ["Conv4", "ProtoNet", "DMF", "ResNet-12", "ProtoNet", "DMF", "no backbone", "raw pixels, cosine"]
    start = {
        "terminal": "\n5-way 1-shot",
        "markdown": "### 5-way",
        "latex": r"\toprule",
        "latex-column": r"\toprule",
        "html": '<tr class="section">',
    }
    for name, first in start.items():
        text = written[name][written[name].index(first) :]
        assert re.search("(?s)" + ".*?".join(rf"\b{name}\b" for name in rows), text), name
    assert "| **Conv4** |" in written["markdown"] and "── Conv4\n" in written["terminal"]
    assert r"{\quad\emph{ResNet-12}} \\" in written["latex"] and "DMF, ResNet-12" not in written["latex-column"]
    lines = [line for line in written["markdown"].splitlines() if line.startswith("|")]
    assert "| backbone |" not in lines[0] and len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    page = Outline()
    page.feed(written["html"])
    assert page.open == [] and written["html"].count('<tr class="group">') == 2 * 3, "of results and of costs"
    assert {row["backbone"] for row in csv.DictReader(io.StringIO(written["csv"]))} == {"conv64f", "resnet12", ""}


def test_backbones_that_share_a_heading_have_a_column() -> None:
    text = to_markdown(of_methods("resnet12", "conv64f", "conv4_relu"))
    assert "| method | backbone |" in text and text.count("| **Conv4** |") == 1
    assert "| DMF | Conv4 with ReLU |" in text
    assert "| method | backbone |" in to_markdown(of_methods("conv64f", "conv4_relu"))
    one = to_markdown(of_methods("conv64f"))
    assert "**Conv4**" not in one and "| backbone |" not in one


def test_costs_are_minutes_of_cores_or_gpus_and_methods_have_them_everywhere() -> None:
    """CPU time where it is known; else wall time times 4 threads; wall time on a GPU."""
    written = outputs(of_methods("conv64f", "resnet12"))
    for name in ("terminal", "markdown", "latex", "html"):
        text = " ".join(re.sub("<[^>]*>", " ", written[name]).replace("\N{NO-BREAK SPACE}", " ").split())
        assert all(cost in text for cost in ("1.5 core-min", "40 core-min", "10 GPU-min")), name
        said = "core-minutes are CPU time, or wall time times threads where a record does not hold it; GPU-minutes are"
        assert said in text, name
    costs = [(row["training_minutes"], row["minutes_of"]) for row in csv.DictReader(io.StringIO(written["csv"]))]
    assert costs == [("1.5", "core"), ("40.0", "core"), ("10.0", "GPU"), ("10.0", "GPU"), ("40.0", "core")]
    assert "core-min" not in outputs(table_2c())["terminal"], "in other tables only where there is room"


def test_columns_without_anything_are_left_out() -> None:
    cells = [planned("2c", TEN, model__groups=g, data__name="glyphs", model__backbone="conv64f") for g in (1, 64)]
    text = to_markdown(fill(TABLES["2c"], cells, InMemory()))
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
    page = to_html([table], "t").replace("<wbr>", "")
    assert "not comparable (also differs: training.episodes_per_epoch)" in page
    (row,) = [row for row in csv.DictReader(io.StringIO(to_csv(table))) if row["also_differs"]]
    assert (row["row"], row["also_differs"]) == ("ODE", "training.episodes_per_epoch")
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_terminal(table, width))
    assert isinstance(console.file, io.StringIO)
    assert "…" not in console.file.getvalue(), "a path that is too long for its column goes on below"


def test_a_table_of_several_sections_has_an_overview() -> None:
    table = table_2c()
    seen = pivot(table)
    assert seen is not None and seen.sections == tuple(section.label for section in table.sections)
    accuracies = [cell.accuracy for section in table.sections for cell in section.cells if cell.accuracy is not None]
    for column, section in enumerate(table.sections):
        for cell in section.cells:
            (entry,) = [entries[column] for _, name, entries in seen.rows if name == cell.label]
            if cell.accuracy is None:
                assert entry.level is None
            else:
                assert entry.ours.startswith(percent(cell.accuracy))
                place = (cell.accuracy - min(accuracies)) / (max(accuracies) - min(accuracies))
                assert entry.level == pytest.approx(place)
            assert bool(entry.paper) is (cell.published is not None)
    assert "### All sections" in to_markdown(table)
    page = to_html([table], "Tables")
    assert page.count('class="heat"') == len(accuracies) and 'class="pivot"' in page


def test_one_section_needs_no_overview() -> None:
    table = fill(TABLES["2d"], [planned("2d", TEN)], InMemory())
    assert pivot(table) is None and "All sections" not in to_markdown(table)
