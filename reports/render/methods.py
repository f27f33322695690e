"""What docs/methods.md says of each method: its paper, what is implemented, its recipes, and what came out.

The texts are the docstrings of the methods and the recipes; our numbers and costs are those of tables.
`python -m orchestrator.documents` writes the page.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dmf.config import RECIPES, recipes_of
from dmf.config.other_recipes import Recipe
from dmf.methods import METHODS
from reports import published
from reports.cells import Cell, Table
from reports.layouts import TABLES, method_label
from reports.render import texts
from reports.words import percent

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


def described(tables: Mapping[str, Table]) -> list[Described]:
    """All methods, in the order of `METHODS`; `tables` are Table 1 of sweeps, by the sweep's name."""
    return [describe(name, tables) for name in METHODS]


def describe(name: str, tables: Mapping[str, Table]) -> Described:
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


def _ours(method: str, tables: Mapping[str, Table]) -> Iterator[tuple[str, str, str, str]]:
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
        ("training {}", texts.training(cell)),
        ("pre-training {}", texts.pre_training(cell)),
        ("{} ms per test episode", texts.episode_time(cell)),
    )
    return ", ".join(form.format(value) for form, value in costs if value != texts.NOTHING)
