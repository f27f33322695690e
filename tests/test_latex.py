"""The LaTeX tables compile, fit the width of one or two columns of a CVPR paper, and print what they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dmf.records.records import Failure
from reports.cells import Table
from reports.fill import fill
from reports.layouts import TABLES
from reports.render.latex import to_latex, to_latex_column
from reports.words import percent
from tests.filled import TEN, hostile, large, of_methods, table_2c
from tests.records_in_memory import InMemory, episodes, planned

NEEDED = ("pdflatex", "kpsewhich", "pdftotext")
STYLES = ("booktabs.sty", "siunitx.sty", "tabularx.sty")


def missing() -> list[str]:
    programs = [program for program in NEEDED if not shutil.which(program)]
    if programs:
        return programs
    return [style for style in STYLES if subprocess.run(["kpsewhich", style], capture_output=True).returncode]


pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(missing()), reason=f"needs LaTeX with siunitx and pdftotext; not found: {missing()}"),
]

PAPER = r"""
\documentclass[10pt,twocolumn]{article}
\usepackage[paperwidth=8.5in,paperheight=11in,textwidth=6.875in,textheight=8.875in]{geometry}
\setlength{\columnsep}{0.375in}
\usepackage{times}
\usepackage{booktabs,siunitx,tabularx}
\hfuzz=0pt
\begin{document}
\makeatletter\typeout{COLUMN \the\columnwidth, TEXT \the\textwidth}\makeatother
%s
\clearpage
\end{document}
"""


def compiled(tables: str, place: Path) -> tuple[str, str]:
    """What LaTeX says of a paper with `tables`, each line unbroken, and the text of its pages."""
    (place / "paper.tex").write_text(PAPER % tables, encoding="ascii")
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(line, cwd=place, capture_output=True, env={"PATH": "/usr/bin:/bin", "max_print_line": "9999"})
    log = (place / "paper.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-600:]
    text = subprocess.run(["pdftotext", "-layout", "paper.pdf", "-"], cwd=place, capture_output=True, check=True).stdout
    return log, text.decode()


def one_of_each() -> Table:
    """Rows of every outcome, with a very long reason, over several data sets and backbones."""
    records, cells = InMemory(), []
    failure = Failure(reason="no room left on /a/" + "very/" * 40)
    for number, backbone in enumerate(("resnet12", "conv64f")):
        for alignment in (0, 1, 2, "ode"):
            for dataset in ("mini_imagenet", "tiered_imagenet"):
                model = {"model__alignment": alignment, "model__backbone": backbone, "data__name": dataset}
                cell = planned("2d", TEN, (0, 1, 2), **model)
                cells.append(cell)
                for seed in cell.seeds:
                    if alignment == 2:
                        records.ended(cell.of_seed(seed), "failed", failure)
                    else:
                        records.tested(cell, episodes(0.5 + 0.05 * number, 10, seed), seed)
    return fill(TABLES["2d"], cells, records)


TABLES_TO_PRINT: dict[str, Callable[[], Table]] = {
    "all states": table_2c,
    "all columns": one_of_each,
    "hostile": hostile,
    "methods": lambda: of_methods("resnet12", "conv64f", "conv4_relu"),
    "40 rows": lambda: large(40, 3),
}


@pytest.mark.parametrize("name", TABLES_TO_PRINT)
@pytest.mark.parametrize("write", [to_latex, to_latex_column])
def test_a_table_compiles_and_fits(name: str, write: Callable[[Table], str], tmp_path: Path) -> None:
    log, _ = compiled(write(TABLES_TO_PRINT[name]()), tmp_path)
    assert "COLUMN 234.8775pt, TEXT 496.85625pt" in log, "3.25 and 6.875 inches"
    complaints = [line for line in log.splitlines() if re.match(r"Overfull|! |.*(undefined|not defined|Missing)", line)]
    assert not complaints


def test_both_variants_print_their_numbers(tmp_path: Path) -> None:
    table = table_2c()
    _, text = compiled(to_latex(table) + to_latex_column(table), tmp_path)
    said = " ".join(text.split()).replace("−", "-")
    for section in table.sections:
        for cell in section.cells:
            if cell.accuracy is not None and cell.ci95 is not None:
                assert said.count(f"{percent(cell.accuracy)} ± {percent(cell.ci95)}") == 2
            if cell.to_baseline and cell.to_baseline.p_holm is not None:
                low, high = cell.to_baseline.low, cell.to_baseline.high
                assert low is not None and high is not None
                interval = f"[{percent(low, signed=True)}, {percent(high, signed=True)}]".replace("−", "-")
                assert said.count(interval) == 2
    for part in ("50% of GPU", "& <b>#1</b> | {a}", "C:\\temp [x] $5 *"):
        assert part in said


def test_an_overfull_box_would_be_found(tmp_path: Path) -> None:
    wide = to_latex_column(table_2c()).replace(r"\begin{tabularx}{\columnwidth}", r"\begin{tabularx}{1.02\columnwidth}")
    log, _ = compiled(wide, tmp_path)
    assert "Overfull" in log
