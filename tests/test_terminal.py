"""Tables in terminals keep within their width, break no word, and mark bold where there is none."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from reports.cells import Table
from reports.render.columns import Part, printed
from reports.render.terminal import MEANING, to_terminal
from reports.render.wrapping import narrowest, shared_out, words, wrapped
from reports.statistics.paper import PublishedVerdict
from reports.words import percent
from tests.filled import NASTY, hostile, large, table_2c

WIDTHS = [80, 100, 120, 140, 200]


def text_of(table: Table, width: int, plain: bool = True, styled: bool = False) -> str:
    file = io.StringIO()
    console = Console(width=width, file=file, color_system="standard" if styled else None, force_terminal=styled)
    console.print(to_terminal(table, width, plain))
    return file.getvalue()


@pytest.fixture(scope="module")
def table() -> Table:
    return table_2c()


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_keep_within_the_width_and_no_number_is_broken(table: Table, width: int) -> None:
    text = text_of(table, width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for section in table.sections:
        for cell in section.cells:
            if cell.accuracy is not None and cell.ci95 is not None:
                assert f"{percent(cell.accuracy)} ± {percent(cell.ci95)}" in text
    assert any(verdict in text for verdict in PublishedVerdict)
    assert "undecided" in text or "better" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_broken(table: Table, width: int) -> None:
    words = set(text_of(table, width).split())
    shown = [column for column in printed(table) if column.part is not Part.COST]
    texts = [column.text(cell) for column in shown for s in table.sections for cell in s.cells]
    texts += [column.heading for column in shown]
    texts += [*table.notes, table.verdict, *(section.label for section in table.sections)]
    whole = {word for text in texts for word in text.split()}
    signed = {f"*{word}" for word in whole}
    rules = {word for word in words if set(word) <= set("─-*")}
    assert words - whole - signed - rules - set(f"Table {table.name}: {table.title}".split()) <= set(MEANING.split())
    assert all(word in words or f"*{word}" in words for word in whole if len(word) <= 24)


def test_a_long_path_breaks_after_its_punctuation_only() -> None:
    path = "training.episodes_per_epoch=400"
    assert wrapped(f"differs: {path}", 20) == ["differs: training.", "episodes_per_epoch=", "400"]
    assert narrowest(path) == len("training.")
    assert narrowest("undecided, about") == len("undecided,")
    assert "".join(wrapped("x" * 90, 40)) == "x" * 90 and max(map(len, wrapped("x" * 90, 40))) == 40
    assert wrapped("日本" * 30, 40)[0] == "日本" * 10, "a wide character takes two columns"


def test_widths_are_shared_out_to_the_columns_that_lack_most() -> None:
    assert shared_out([5, 5], [5, 30], 20) == [5, 15]
    assert shared_out([5, 5], [10, 12], 40) == [10, 12]
    assert shared_out([5, 5], [20, 20], 21) == [11, 10]


@pytest.mark.parametrize("width", [80, 120])
def test_hostile_text_keeps_within_the_width(width: int) -> None:
    text = text_of(hostile(), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "\x07" not in text


def test_bold_has_a_sign_where_there_is_no_bold(table: Table) -> None:
    best = sum(cell.best for section in table.sections for cell in section.cells)
    plain, styled = text_of(table, 120), text_of(table, 120, plain=False, styled=True)
    assert len(re.findall(r"\*\d", plain)) == best > 0 and MEANING in plain
    assert "*" not in styled.replace(NASTY, "").replace("$5 *.", "") and MEANING not in styled
    assert len(re.findall(r"\x1b\[1m *\d\d\.\d\d ±", styled)) == best


def test_what_does_not_fit_goes_to_further_grids_with_the_rows_named(table: Table) -> None:
    for width, grids in ((80, 3), (120, 2), (200, 1)):
        lines = text_of(table, width).splitlines()
        assert sum(set(line) == {"─"} for line in lines) == grids, width
        assert sum(line.split()[:1] == ["groups"] for line in lines) == grids


def test_rows_with_only_their_name_are_left_out_of_a_grid(table: Table) -> None:
    lines = text_of(table, 80).splitlines()
    assert sum(line.split()[:1] == ["640"] for line in lines) < sum(line.split()[:1] == ["64"] for line in lines)


def test_a_thousand_rows_are_laid_out_in_seconds() -> None:
    assert len(text_of(large(1000, 1), 120).splitlines()) > 2000


def test_a_word_of_usual_length_stays_whole_however_short_the_pieces() -> None:
    assert [part for part, _ in words("parameters of (miniImageNet)", 16, 8)] == ["parameters", "of", "(miniImageNet)"]
    assert [part for part, _ in words("67.49\xa0±\xa00.68 next")] == ["67.49\xa0±\xa00.68", "next"]
