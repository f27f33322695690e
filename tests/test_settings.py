"""Paths and values as users write them: `~` everywhere, text as it is, YAML 1.2's numbers in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dmf import train
from dmf.machine.paths import address_option, expanded
from orchestrator import archive, prune, report, status, sweep, sync
from orchestrator.spec.file import parse_yaml, read_spec
from tests.tiny import tiny_sweep

ROOTS = (
    "/data/set #2",
    " /data/set",
    "/data/set ",
    "@data",
    "[data]",
    "{data}",
    "data: x",
    "'data'",
    "1",
    "no",
    "~data",
)
"""Names of folders that YAML or JSON would read as something else."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, which is not where commands run."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def root_of(file: Path, setting: str) -> str | None:
    return read_spec(file, [setting]).config_for({}).data.root


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_is_taken_as_it_is(root: str, place: Path) -> None:
    (place / "s.yaml").write_text("name: s\nparts: [{table: 2c}]\n")
    given = root if not root.startswith("~") else f"./{root}"
    wanted = os.path.join(place, os.path.normpath(root)) if not root.startswith("/") else root
    assert root_of(place / "s.yaml", f"data.root={given}") == wanted
    assert train.assignment(f"data.root={given}") == ("data.root", given)
    of_tests = read_spec(place / "s.yaml", ["evaluation.data.name=cub", f"evaluation.data.root={given}"])
    assert of_tests.evaluation.data is not None and of_tests.evaluation.data.root == given


def test_no_root_is_null(place: Path) -> None:
    (place / "s.yaml").write_text("name: s\nset: {data.root: /data}\nparts: [{table: 2c}]\n")
    assert root_of(place / "s.yaml", "data.root=null") is None
    assert root_of(place / "s.yaml", "data.root=./null") == str(place / "null")
    with pytest.raises(ValueError, match=r"set\.data\.root: String should have at least 1 character, got ''"):
        read_spec(place / "s.yaml", ["data.root="])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.learning_rate=1e-3", 1e-3),
        ("training.epochs=10", 10),
        ("model.alignment=ode", "ode"),
        ("model.alignment=2", 2),
        ("augmentation.flip=no", False),
        ("augmentation.crop=none", "none"),
        ("data.name=null", "null"),
        ("data.name=no", "no"),
    ],
)
def test_a_value_is_read_by_the_type_of_its_parameter(setting: str, value: Any, place: Path) -> None:
    (place / "s.yaml").write_text("name: s\nparts: [{table: 2c}]\n")
    path = setting.partition("=")[0]
    read = read_spec(place / "s.yaml", [setting]).config_for({}).at(path)
    assert read == value and type(read) is type(value)


def test_own_keys_are_read_by_their_types_too(place: Path) -> None:
    (place / "s.yaml").write_text("name: s\nparts: [{table: 2c}]\n")
    spec = read_spec(place / "s.yaml", ["name=2024", "about=why: #1 [or 2]?", "seeds=[0, 1]", "resources.gpu=0.5"])
    assert (spec.name, spec.about, spec.all_seeds, spec.resources.gpu) == ("2024", "why: #1 [or 2]?", (0, 1), 0.5)


@pytest.mark.parametrize("setting", ["training.epochs=10 # few", "seeds=[0, 1] #2", "max_failures=# none"])
def test_a_comment_on_the_command_line_is_refused(setting: str, place: Path) -> None:
    (place / "s.yaml").write_text("name: s\nparts: [{table: 2c}]\n")
    with pytest.raises(ValueError, match="for a comment; leave it out"):
        read_spec(place / "s.yaml", [setting])


# Numbers in files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("-1.5e+3", -1500.0), (".5", 0.5), ("5.", 5.0), ("0", 0), ("-7", -7),
        ("+3", 3), ("0x1F", 31), ("0o17", 15), (".inf", float("inf")), ("-.INF", -float("inf")), ("0.50", 0.5),
        ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"), ("1:30.5", "1:30.5"), ("2026-01-02", "2026-01-02"),
        ("1e", "1e"), ("-", "-"), (".", "."), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(f"[{text}]" if text != "-" else "['-']", "s")[0]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("number", ["001", "010", "08", "-07", "00"])
def test_a_number_that_starts_with_0_is_refused_in_its_line(number: str) -> None:
    with pytest.raises(ValueError, match=rf"{number} starts with 0.*write -?\d+[\s\S]*line 2, column 9"):
        parse_yaml(f"name: s\nseeds: [{number}, 3]\n", "s")


def test_a_time_is_no_number(place: Path) -> None:
    (place / "s.yaml").write_text("name: s\nset: {training.epochs: 1:30}\nparts: [{table: 2c}]\n")
    with pytest.raises(ValueError, match=r"set\.training\.epochs: Input should be a valid integer, got '1:30'"):
        read_spec(place / "s.yaml")


def test_hints_can_be_pasted(place: Path) -> None:
    for text, told in (
        ("name: no\nparts: [{table: 2c}]", "got False (YAML reads no, off and false as false: use quotes)"),
        ("name: 7\nparts: [{table: 2c}]", '(YAML reads 7 as a number: write "7" in quotes)'),
        ("name: s\nparts: {table: 2c, grid: {model.groups: [1]}}", "(a list: write [{table: 2c, grid: {model.groups:"),
        ("name: s\nparts: [{table: 2c, grid: {model.groups: }}]", "(a list, which has one item at least: write [...])"),
        ("name: s\nset: {training.epochs: 1_000}\nparts: [{table: 2c}]", "(write 1000)"),
    ):
        (place / "s.yaml").write_text(text)
        with pytest.raises(ValueError) as error:
            read_spec(place / "s.yaml")
        assert told in str(error.value)


def test_anchors_have_a_place_in_a_sweep_file(place: Path) -> None:
    (place / "s.yaml").write_text(
        "name: s\nanchors:\n  short: &short {training.epochs: 10}\n  any: [1, {x: 2}]\n"
        "parts:\n  - {table: 2c, set: {<<: *short, model.backbone: conv64f}}\n  - {table: 2d, set: *short}\n"
    )
    spec = read_spec(place / "s.yaml")
    assert [spec.config_for({}, part).training.epochs for part in spec.parts] == [10, 10]
    (place / "s.yaml").write_text("name: s\nparts: [{table: 2c, anchors: {}}]\n")
    with pytest.raises(ValueError, match=r"parts\.0\.anchors: no such name"):
        read_spec(place / "s.yaml")


# Homes ---------------------------------------------------------------------------------------------------------------


def test_a_home_is_expanded_and_nothing_else(home: Path) -> None:
    assert expanded("~/x") == f"{home}/x" and expanded("~") == str(home)
    for path in ("./~/x", "a~", "a/~/b", "s3://bucket/~x"):
        assert address_option(path) == path
    with pytest.raises(ValueError, match=r"--root=~nobody-has-it/x: ~nobody-has-it is no user's home.*write ./~nobody"):
        expanded("~nobody-has-it/x", "--root")


def test_every_option_that_is_a_path_knows_the_home(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "tiny.yaml").write_text(
        tiny_sweep("tiny", "Homes.", "  - {table: 2c, grid: {model.groups: [1]}}\n", epochs=1)
    )
    given = ["~/tiny.yaml", "--store=~/runs", "--results=~/tables", "--executor", "local"]
    assert sweep.main(given) == 0
    assert sorted(path.name for path in home.iterdir() if path.name[0] != ".") == ["runs", "tables", "tiny.yaml"]
    for command, arguments in (
        (status.main, ["--store=~/runs"]),
        (status.main, ["~/runs"]),
        (report.main, ["--store=~/runs", "--output=~/other"]),
        (report.main, ["--diff", "~/runs", "~/runs", "--output=~/other"]),
        (prune.main, ["--store=~/runs"]),
        (sync.main, ["--store=~/runs"]),
        (archive.main, ["export", "--store=~/runs", "--output=~/whole.dmfa"]),
    ):
        assert command(arguments) == 0, capsys.readouterr().err
    assert [*Path.cwd().iterdir()] == [], "no folder named ~"
    with pytest.raises(SystemExit):
        sweep.main(["~/tiny.yaml", "--store=~nobody-has-it/runs"])
    assert "argument --store: ~nobody-has-it/runs: ~nobody-has-it is no user's home" in capsys.readouterr().err
    assert sweep.main(["~/tiny.yaml", "data.root=~nobody-has-it/x", "--plan"]) == 2
    assert "data.root=~nobody-has-it/x: ~nobody-has-it is no user's home" in capsys.readouterr().err
