"""Sweep files: every mistake at once, expansion of parts, settings on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from dmf.config import METHODS
from orchestrator.spec.file import parse_yaml, read_spec, spec_from
from orchestrator.spec.model import Part, SweepSpec

SWEEPS = sorted((Path(__file__).resolve().parents[1] / "sweeps").glob("*.yaml"))


def one_of(names: Iterable[str]) -> str:
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}"


def spec(**fields: Any) -> SweepSpec:
    return spec_from({"name": "s", "parts": [{"table": "2c"}], **fields})


def choices(**fields: Any) -> list[dict[str, Any]]:
    return list(Part.from_dict({"table": "2c", **fields}).choices())


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_every_mistake_is_named_at_once_with_its_path(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
name: Not Good
bse: paper
set: {data.nam: x, training.learning_rate: 1_000, model: {groups: 3}, training.seed: 3}
evaluation: {episode: 3}
resources: {gpu: 1.5}
parts:
  - table: 1
    grid: {model.groups: 64, episodes.shot: [1, x]}
  - {table: 2c, grids: {}, grid: {model.groups: [63]}, zip: {episodes.shot: [1, 5], model.alignment: [0]}}
  - {table: 2d, trials: [{model.method: protonet}, {modle.groups: 3}]}
""",
    )
    with pytest.raises(ValueError) as error:
        read_spec(path)
    told = str(error.value)
    for line in (
        "name: got 'Not Good', expected at most 100 lower-case letters",
        "bse: no such name; did you mean base?",
        "set.data.nam: no such name; did you mean data.name?",
        "set.training.learning_rate: Input should be a valid number, got '1_000' (write 1000)",
        "set.model: no such name; write dotted paths, such as model.method",
        "set.training.seed: no such name; seeds belong to the whole sweep",
        "evaluation.episode: no such name; did you mean episodes?",
        "resources: gpu=1.5 is neither",
        'parts.0.table: Input should be a valid string, got 1 (YAML reads 1 as a number: write "1" in quotes)',
        "parts.0.grid.model.groups: Input should be a valid array, got 64 (a list: write [64])",
        "parts.0.grid.episodes.shot.1: Input should be a valid integer, got 'x'",
        "parts.1.grids: no such name; did you mean grid?",
        "parts.1: lists under zip go together and must be equally long; episodes.shot has 2, model.alignment has 1",
        f"parts.2.trials.0.model.method: Input should be {one_of(METHODS)}, got 'protonet'",
        "parts.2.trials.1.modle.groups: no such name; did you mean model.groups?",
    ):
        assert f"\n  {line}" in told, f"{line!r} is not in\n{told}"
    assert "15 mistakes" in told


def test_impossible_combinations_are_named_beside_wrong_names() -> None:
    with pytest.raises(ValueError) as error:
        spec(
            set={"data.nam": "x"},
            parts=[
                {"table": "2c", "grid": {"model.groups": [63, 1], "episodes.shot": [1, 5]}},
                {"table": "2c", "base": "nope"},
                {"table": "2d", "set": {"training.epochs": 3}},
            ],
        )
    told = str(error.value)
    assert told.count("groups=63 does not divide") == 1
    assert "parts.1.base: 'nope' is not a recipe; there are released, paper, released_tiered" in told
    assert "parts.2: training: warmup_epochs=5 has to be less than epochs=3" in told
    assert "set.data.nam" in told


def test_a_wrong_base_is_named_at_its_path_beside_the_other_mistakes() -> None:
    with pytest.raises(ValueError) as error:
        part = {"table": "2c", "set": {"training.epochs": 3}, "grid": {"model.groups": [63]}}
        spec(base="papr", seeds=[-1], parts=[part])
    lines = str(error.value).splitlines()[1:]
    assert lines[0].startswith("  base: 'papr' is not a recipe; did you mean paper? there are")
    assert lines[1:2] == ["  seeds.0: Input should be greater than or equal to 0, got -1"]
    assert "groups=63 does not divide" in lines[2] and len(lines) == 3  # paper has no warm-up: 3 epochs are possible


def test_where_it_runs_can_not_be_varied() -> None:
    with pytest.raises(ValueError) as error:
        spec(parts=[{"table": "2c", "grid": {"data.root": ["/a"]}, "trials": [{"training.threads": 2}]}])
    assert str(error.value).count("says where a training runs, not what is trained") == 2
    assert "parts.0.grid.data.root:" in str(error.value) and "parts.0.trials.0.training.threads:" in str(error.value)
    with pytest.raises(ValueError, match="search.parameters.training.device: says where"):
        spec_from({"name": "s", "search": {"trials": 1, "parameters": {"training.device": {"choice": ["cpu"]}}}})


@pytest.mark.parametrize("resource", ["cpu", "gpu"])
def test_resources_are_finite(resource: str) -> None:
    with pytest.raises(ValueError, match=f"resources.{resource}: Input should be a finite number"):
        spec(resources=parse_yaml(f"{resource}: .inf", ""))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\n[b]: 2", "a list or mapping cannot be a key(.|\n)*line 2"),
        ("a: 1\n? {b: 1}\n: 2", "a list or mapping cannot be a key(.|\n)*line 2"),
        ("a: &a [*a]", "sweep.yaml is not plain data; an anchor may contain itself"),
        ("!!timestamp 2026-01-01: 1", "sweep.yaml is not plain data"),
        ("[" * 5000, "sweep.yaml is nested too deeply"),
    ],
)
def test_yaml_that_is_no_plain_data_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_yaml(text, "sweep.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ValueError, match="s.yaml is not UTF-8 text: invalid start byte at byte 6"):
        read_spec(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("parts", "setting", "told"),
    [
        ("3", "data.root=/x", "parts: Input should be a valid array"),
        ("[{trials: 3}]", "data.root=/x", "parts.0.trials: Input should be a valid array"),
        ("[3]", "parts.0.data.root=/x", "parts.0 is not a mapping"),
    ],
)
def test_settings_over_a_file_that_is_wrong_itself(tmp_path: Path, parts: str, setting: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_spec(write(tmp_path, f"name: s\nparts: {parts}\n"), [setting])


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'grid' is given twice"):
        parse_yaml("grid: {a: 1}\ngrid: {b: 1}", "sweep.yaml")


def test_yaml_can_not_make_objects() -> None:
    with pytest.raises(ValueError, match="is not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "sweep.yaml")


def test_a_part_is_zip_rows_times_grid_times_trials() -> None:
    got = choices(
        zip={"episodes.shot": [1, 5], "model.groups": [64, 160]},
        grid={"model.dynamic_sampling": [False, True]},
        trials=[{"model.alignment": 0}, {"model.last_pooling": True}],
    )
    assert len(got) == len({str(choice) for choice in got}) == 2 * 2 * 2
    assert {(choice["episodes.shot"], choice["model.groups"]) for choice in got} == {(1, 64), (5, 160)}
    assert all(("model.alignment" in choice) != ("model.last_pooling" in choice) for choice in got)


def test_a_part_without_choices_is_one_configuration() -> None:
    assert choices() == [{}]


def test_a_path_is_given_in_one_place() -> None:
    with pytest.raises(ValueError, match="model.groups is given 2 times"):
        choices(set={"model.groups": 1}, grid={"model.groups": [1, 64]})


def test_settings_go_from_base_over_sweep_and_part_to_the_choice() -> None:
    sweep = spec(
        base="paper",
        set={"training.epochs": 20, "model.groups": 1, "model.alignment": 1},
        seeds=[7],
        parts=[{"table": "2c", "set": {"model.groups": 2}}, {"table": "2c", "base": "released_tiered"}],
    )
    config = sweep.config_for({"model.alignment": 3}, sweep.parts[0])
    assert (config.model.solver, config.training.epochs, config.training.seed) == ("dopri5", 20, 7)
    assert (config.model.groups, config.model.alignment) == (2, 3)
    assert sweep.config_for({}, sweep.parts[1]).data.name == "tiered_imagenet"


def test_a_choice_can_make_possible_what_set_alone_is_not() -> None:
    sweep = spec(parts=[{"table": "2c", "set": {"training.epochs": 3}, "grid": {"training.warmup_epochs": [0, 1]}}])
    configs = [combination.config for combination in sweep.resolved]
    assert [(c.training.epochs, c.training.warmup_epochs) for c in configs] == [(3, 0), (3, 1)]
    with pytest.raises(ValueError, match="warmup_epochs=5 has to be less than epochs=3 .at training.warmup_epochs=5.$"):
        spec(parts=[{"table": "2c", "set": {"training.epochs": 3}, "grid": {"training.warmup_epochs": [0, 5]}}])


def test_parts_or_search_but_not_both_and_not_none() -> None:
    for fields in ({"parts": []}, {"search": {"trials": 1, "parameters": {"model.groups": {"choice": [1]}}}}):
        with pytest.raises(ValueError, match="give either parts .* or search"):
            spec(**fields)


@pytest.mark.parametrize(
    ("range_", "told"),
    [
        ({"loguniform": [0.0, 1.0]}, "loguniform needs low > 0"),
        ({"uniform": [2.0, 1.0]}, "needs \\[low, high\\] with low < high"),
        ({"uniform": [0.1, 1.0], "choice": [1]}, "give one of"),
        ({"loguniform": [0.1, 1.0], "steps": 3}, "steps: no such name"),
        ({"int": [0, 3]}, "greater than or equal to 1"),
        ({"uniform": [1.0, float("inf")]}, "finite number"),
    ],
)
def test_ranges_of_a_search_are_checked(range_: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        spec_from({"name": "s", "search": {"trials": 1, "parameters": {"episodes.queries": range_}}})


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"model.groups": {"int": [1, 4]}}, "groups=3 does not divide .*at model.groups=3.; 1 of 4 are impossible"),
        (
            {"model.kernel_size": {"choice": [1, 3]}, "model.solver": {"choice": ["exact", "rk4"]}},
            "at model.kernel_size=3, model.solver=exact.; 1 of 4 are impossible",
        ),
        ({"model.groups": {"int": [1, 4]}, "training.seed": {"int": [0, 5000]}}, "seeds belong to the whole sweep"),
        ({"model.groups": {"int": [1, 4]}, "episodes.queries": {"int": [1, 5000]}}, "1 of 4 are impossible"),
    ],
)
def test_every_value_between_the_ends_is_checked(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        spec_from({"name": "s", "search": {"trials": 1, "parameters": parameters}})


def test_settings_of_the_command_line_win_over_every_set(tmp_path: Path) -> None:
    text = "name: s\nset: {data.root: /a}\nparts: [{table: 2c, set: {data.root: /b}}, {table: 2c}]\n"
    path = write(tmp_path, text)
    sweep = read_spec(path, ["data.root=/x", "parts.1.data.root=/y", "seeds=[0, 1]", "evaluation.episodes=600"])
    assert [sweep.config_for({}, part).data.root for part in sweep.parts] == ["/x", "/y"]
    assert sweep.seeds == (0, 1)
    assert sweep.evaluation.configs()[0].episodes == 600
    assert read_spec(path, ["resources.gpu=0.5"]).resources.gpu == 0.5


def test_the_command_line_does_not_collapse_what_is_varied(tmp_path: Path) -> None:
    path = write(tmp_path, "name: s\nparts: [{table: 2c, grid: {model.groups: [1, 64]}}]\n")
    for override in ("model.groups=1", "parts.0.model.groups=1"):
        with pytest.raises(ValueError, match="varies"):
            read_spec(path, [override])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.root", "write key=value"),
        ("data.rot=/x", "did you mean data.root"),
        ("sedes=[1]", "did you mean seeds"),
        ("seed=1", "did you mean seeds"),
        ("alignment=2", "alignment: no such name; did you mean model.alignment?"),
        ("alignmnt=2", "did you mean model.alignment"),
        ("gpu=1", "did you mean resources.gpu"),
        ("data.name=Grocery", "got 'Grocery', expected lower-case letters, digits and _, beginning with a lower-case "),
        ("data.name=my set", "such as 'my_set'"),
        (
            "name=Grocery",
            "name: got 'Grocery', expected at most 100 lower-case letters, digits, - and _, beginning with",
        ),
        ("parts.3.data.root=/x", "with N from 0 to 0"),
        ("parts.².data.root=1", "parts.².data.root.: write parts.N.data.root with N from 0 to 0"),
        ("seeds=&a [*a]", "seeds=&a .* not plain data"),
        ("model.alignment=on", "model.alignment: got true, which is not a number"),
        ("training.learning_rate=1_000", "write 1000"),
    ],
)
def test_mistakes_of_the_command_line(tmp_path: Path, override: str, told: str) -> None:
    path = write(tmp_path, "name: s\nparts: [{table: 2c}]\n")
    with pytest.raises(ValueError, match=told):
        read_spec(path, [override])


@pytest.mark.parametrize("data", [None, [], "name: s", 3])
def test_plain_data_that_is_no_mapping(data: Any) -> None:
    with pytest.raises(ValueError, match="the sweep: expected a mapping with name and parts or search, got"):
        spec_from(data)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_is_sound_and_opens_with_its_command(path: Path) -> None:
    assert read_spec(path).name == path.stem
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"python -m orchestrator.sweep sweeps/{path.name}" in line for line in comments)


OWN_TERMS = {"demo": 2, "aa": 6, "search": 1, "glyphs_5shot": 1, "glyphs_anil": 1, "glyphs_short": 8}
"""Seeds of sweeps with other numbers of them: a demo of six minutes, an A/A test, a search, one seed, fresh seeds."""


@pytest.mark.parametrize("path", [*SWEEPS, *sorted(SWEEPS[0].parent.glob("study/*.yaml"))], ids=lambda path: path.stem)
def test_sweeps_about_methods_have_three_seeds_and_name_the_cheap_look(path: Path) -> None:
    if path.stem.startswith("table1_"):
        pytest.skip("Table 1 has a file for each of its questions, with seeds of its own")
    spec = read_spec(path)
    assert len(spec.all_seeds) == OWN_TERMS.get(path.stem, 3)
    head = path.read_text().split("\nname:")[0]
    own = path.stem in ("aa", "search") or path.parent.name == "study"
    assert own or "seeds=[0]" in head, "how to look at it with one seed"
    assert path.stem == "search" or any(unit in head for unit in ("hour", "minute")), "what it costs"
