"""docs/sweep_files.md is what the types say, and its example is a sweep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.spec.document import OF_A_SWEEP, PAGE, page
from orchestrator.spec.file import parse_yaml, spec_from
from orchestrator.spec.model import PARAMETERS
from orchestrator.spec.plan import plan

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert page() == TEXT, "run python -m orchestrator.spec.document"


def test_every_parameter_is_there_once() -> None:
    told = re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE)
    assert sorted(name for name in told if "." in name) == sorted(PARAMETERS)


def test_every_key_of_a_file_has_a_meaning() -> None:
    keys = TEXT[TEXT.index("## Keys of the file") : TEXT.index("## Recipes")]
    rows = [line.strip("| ").split(" | ") for line in keys.splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row[0] for row in rows if len(row) < 4 or not row[3].strip()] == []


@pytest.mark.parametrize("title", OF_A_SWEEP)
def test_every_kind_of_key_has_a_table(title: str) -> None:
    assert f"## {title}\n" in TEXT


def test_the_example_is_a_sweep_with_the_cells_that_it_describes() -> None:
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert example is not None
    planned = plan(spec_from(parse_yaml(example[1], "the example")))
    assert len(planned.cells) == 8 and len(planned.trials()) == 24


def test_values_and_defaults_are_told_in_words() -> None:
    for line in (
        "| `model.alignment` | `0`, `1`, `2`, `3`, `ode` | `ode` | Number of alignments, or the neural ODE",
        "| `data.image_size` | whole number from 8 to 2048 | `84` | Side of the square images, in pixels. |",
        "| `training.learning_rate` | number above 0 | `0.35` |",
        "| `evaluation` | mapping | – | The test of every training. |",
        "| `margin` | number above 0 and below 0.5 | `0.005` |",
    ):
        assert f"\n{line}" in TEXT


def test_the_readme_points_to_it() -> None:
    assert "docs/sweep_files.md" in (Path(PAGE).parents[1] / "README.md").read_text()
