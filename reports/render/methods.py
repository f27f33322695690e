"""Writes docs/methods.md: `python -m reports.render.methods`.

The texts are the docstrings of the methods and the recipes; our numbers and costs are those of the tables in
`docs/tables/`, the JSON files that `python -m orchestrator.report` prints. The page's introduction is
`templates/methods.md.jinja`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from dmf.config import RECIPES, recipes_of
from dmf.config.other_recipes import Recipe
from dmf.methods import METHODS
from reports import published
from reports.cells import Cell, Table
from reports.layouts import TABLES, method_label
from reports.render import texts
from reports.words import percent

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
TABLE_FILES = PAGE.parent / "tables"
"""Folder of the tables whose numbers the page has; each file is named after its sweep."""
TEMPLATE = Path(__file__).with_name("templates") / "methods.md.jinja"
MINI = "mini_imagenet"
MOST_OF_TEXT = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Described:
    """What the page says of a method."""

    name: str
    label: str
    paper: str
    """Authors, title, venue."""
    paragraphs: tuple[str, ...]
    """What is implemented, and how released codes differ: its class's docstring."""
    recipes: tuple[tuple[str, Recipe], ...]
    published: str
    """1-shot and 5-shot accuracy on miniImageNet in the paper's Table 1, with the backbone."""
    ours: tuple[tuple[str, str, str, str], ...]
    """Sweep, what it is of, accuracy, cost."""


def page(tables: dict[str, Table] | None = None) -> str:
    """The text of docs/methods.md, with the numbers of `tables` by sweep; None: those of `TABLE_FILES`."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    found = shipped_tables() if tables is None else tables
    return template.render(methods=[describe(name, found) for name in METHODS], sweeps=list(found)) + "\n"


def shipped_tables() -> dict[str, Table]:
    """The tables of `TABLE_FILES`, by sweep."""
    return {path.stem: Table.read(path) for path in sorted(TABLE_FILES.glob("*.json"))}


def describe(name: str, tables: dict[str, Table]) -> Described:
    """What there is to say of the method called `name`."""
    module = importlib.import_module(f"dmf.methods.{name}.model")
    paper = inspect.getdoc(module) or ""
    text = inspect.getdoc(getattr(module, METHODS[name])) or ""
    return Described(
        name=name,
        label=method_label(name),
        paper=_line(paper.partition("\n\n")[0]),
        paragraphs=tuple(map(_line, MOST_OF_TEXT.split(text))),
        recipes=tuple((each, RECIPES[each]) for each in recipes_of(name)),
        published=_published(name),
        ours=tuple(_ours(name, tables)),
    )


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _published(method: str) -> str:
    row = next((each.published for each in TABLES["1"].values if each.value == method), None)
    told = []
    for name, backbone in published.methods_of_table_1() if row else ():
        numbers = [published.in_paper(name, backbone, MINI, 5, shot) for shot in (1, 5)] if name == row else []
        if any(numbers):
            accuracies = " / ".join(percent(number.accuracy) if number else texts.NOTHING for number in numbers)
            told.append(f"{accuracies} ({published.BACKBONES[backbone]})")
    return ", ".join(told) or texts.NOTHING


def _ours(method: str, tables: dict[str, Table]) -> Iterator[tuple[str, str, str, str]]:
    for sweep, table in tables.items():
        for section in table.sections:
            for cell in section.cells:
                if cell.value == method and cell.accuracy is not None:
                    where = f"{published.DATASETS.get(section.dataset, section.dataset)}, {section.label}"
                    yield sweep, f"{where}, {texts.backbone(cell)}", texts.ours(cell), _cost(cell)


def _cost(cell: Cell) -> str:
    """Parameters, times of training and pre-training, and time per test episode, as far as they are known."""
    costs: Sequence[tuple[str, str]] = (
        ("{} parameters", texts.parameters(cell)),
        ("training {}", texts.training_time(cell)),
        ("pre-training {}", texts.pre_training(cell)),
        ("{} ms per test episode", texts.episode_time(cell)),
    )
    return ", ".join(form.format(value) for form, value in costs if value != texts.NOTHING)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
