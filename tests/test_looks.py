"""Sweeps that decide: what the file may name, what looks take and keep, and that a kill changes no decision."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmf.records.staleness import Today
from dmf.values import digest
from orchestrator.costs.describe import describe
from orchestrator.report import main as report_command
from orchestrator.running.deciding import decide_rows
from orchestrator.spec.file import read_spec, spec_from
from orchestrator.spec.plan import SweepPlan, Trial, plan
from orchestrator.status import main as status
from orchestrator.store.ledger import Ledger
from orchestrator.sweep import main
from orchestrator.sync import main as sync
from orchestrator.tracking.reader import MLflowRecords
from reports import words
from reports.cells import AgainstBaseline, Table
from reports.claims import Claim
from reports.deciding import take_look
from reports.fill import fill, gather
from reports.judge import Outcome, judge
from reports.layouts import TABLES
from reports.looks import Looks, agreed, asked_now, chance_spent, courses
from reports.render.data import to_csv
from reports.render.latex import to_latex_column
from reports.render.page import to_html
from reports.statistics.pairs import of_methods, paired
from reports.statistics.sequential import levels, repeated_interval
from reports.statistics.spread import pooled
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell
from tests.records_in_memory import InMemory
from tests.sites import unchecked
from tests.tiny import tiny_sweep

EPISODES = 400
SWEEP: dict[str, Any] = {
    "name": "looks",
    "set": {"data.name": "glyphs", "model.backbone": "conv64f", "training.device": "cpu"},
    "seeds": {"decide": "all", "at_most": 5},
    "evaluation": {"episodes": EPISODES},
    "parts": [
        {"table": "2c", "grid": {"model.groups": [1, 4, 16, 64]}},
        {"table": "2d", "grid": {"model.alignment": [0, 1, "ode"]}},
        {"table": "2d", "set": {"model.method": "raw_pixels"}},
    ],
}
GAIN = {1: 0.0, 4: 0.06, 16: -0.06}
"""By groups; 64 groups, which are in both tables, gain by their alignment."""


def spec_of(**changed: Any) -> Any:
    return spec_from({**SWEEP, **changed})


def deciding(decide: Any, at_most: int = 5, **changed: Any) -> SweepPlan:
    return plan(spec_of(seeds={"decide": decide, "at_most": at_most}, **changed))


class Trainer:
    """Leaves the records that trainings would: accuracies are drawn, the same ones for the same training."""

    def __init__(self, planned: SweepPlan, ledger: Ledger, ends_after: int | None = None) -> None:
        self.cells = {
            config.key: (cell, seed)
            for cell in planned.cells
            for seed, config in zip(cell.seeds, cell.trainings, strict=True)
        }
        self.ledger, self.left = ledger, ends_after
        self.rounds: list[list[str]] = []
        self.broken: set[str] = set()

    def __call__(self, trials: tuple[Trial, ...]) -> None:
        self.rounds.append([])
        for trial in trials:
            if self.left == 0:
                raise KeyboardInterrupt
            if trial.key in self.broken:
                continue
            self.left = None if self.left is None else self.left - 1
            self.rounds[-1].append(trial.key)
            records = InMemory()
            cell, seed = self.cells[trial.key]
            test = records.tested(cell, drawn(cell, seed), seed)
            self.ledger.write_training(records.trainings[trial.key])
            self.ledger.write_evaluation(test)

    def seeds_of(self, cell: PlannedCell) -> list[int]:
        """With which a cell was trained, in order."""
        keys = [key for keys in self.rounds for key in keys]
        return [seed for key in keys for same, seed in [self.cells[key]] if same.config == cell.config]


def drawn(cell: PlannedCell, seed: int) -> np.ndarray:
    model = cell.config.model
    groups, alignment = cell.config.flat().get("model.groups"), cell.config.flat().get("model.alignment")
    gain = -0.2 if model.method == "raw_pixels" else GAIN.get(groups, {1: 0.06, "ode": 0.01}.get(alignment, 0.0))
    hard = np.random.default_rng(0).normal(0, 0.08, EPISODES)
    own = np.random.default_rng(int(digest([cell.config.key, seed]), 16) % 2**32)
    return np.clip(0.5 + gain + own.normal(0, 0.01) + hard + own.normal(0, 0.05, EPISODES), 0, 1)


def run(planned: SweepPlan, store: Path, ends_after: int | None = None) -> Trainer:
    ledger = Ledger(store)
    ledger.write_plan(planned)
    trainer = Trainer(planned, ledger, ends_after)
    decide_rows(planned, ledger, accept_stale=True, train=trainer)
    return trainer


def table(planned: SweepPlan, ledger: Ledger, name: str = "2c", looks: Looks | None = None) -> Table:
    assert planned.rule is not None
    kept = agreed(planned.rule, looks or ledger.looks(planned.name))
    return fill(TABLES[name], asked_now(planned.cells, kept), ledger, None, kept)


def against(table: Table) -> dict[Any, AgainstBaseline]:
    (section,) = table.sections
    return {cell.label: cell.to_baseline for cell in section.cells if cell.to_baseline is not None}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepPlan, Path, Trainer]:
    """A sweep that ran to its end."""
    planned, store = deciding("all"), tmp_path_factory.mktemp("ended")
    return planned, store, run(planned, store)


@pytest.fixture
def copied(tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer]) -> tuple[SweepPlan, Ledger]:
    """A copy of its store."""
    planned, store, _ = ended
    return planned, Ledger(shutil.copytree(store, tmp_path / "store"))


def test_decide_names_tables_and_rows() -> None:
    def named(decide: Any) -> dict[str, list[str]]:
        rule = deciding(decide).rule
        assert rule is not None
        return {each.table: [question.said for question in each.questions] for each in rule.tables}

    everything = named("all")
    assert [len(rows) for rows in everything.values()] == [3, 2], "neither baselines nor raw pixels"
    assert everything["2d"][1] == "alignments ODE, glyphs, 5-way 1-shot"
    assert named(["2d"]) == {"2d": everything["2d"]}
    assert named(["2d: ODE", "2c"]) == {"2c": everything["2c"], "2d": everything["2d"][1:]}
    assert named([{"2d": 1}, "2d:alignments ODE"]) == {"2d": everything["2d"]}, "as YAML reads 2d: 1 without quotes"
    assert named(["2c: 64", "2c: 64 of 64 channels"]) == {"2c": everything["2c"][2:]}


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ({"decide": ["2e"], "at_most": 5}, "seeds.decide.0: '2e': '2e' is not a table of this sweep; there are 2c, 2d"),
        ({"decide": ["2c", "2d: OED"], "at_most": 5}, "seeds.decide.1: '2d: OED': no row of table 2d that can be"),
        ({"decide": ["2d: OED"], "at_most": 5}, "did you mean 2d: ODE? there are 1, ODE"),
        ({"decide": ["2d: 0"], "at_most": 5}, "that is the baseline, which other rows are compared with: 1, ODE"),
        ({"decide": ["2d: raw pixels, cosine"], "at_most": 5}, "no row of table 2d that can be decided"),
        ({"decide": [], "at_most": 5}, "seeds.decide: "),
        ({"decide": "2d", "at_most": 5}, "seeds.decide: "),
        ({"decide": [["2d"]], "at_most": 5}, "seeds.decide"),
        ({"decide": "all"}, "seeds.at_most: is missing"),
        ({"decide": "all", "at_most": 1}, "seeds.at_most: Input should be greater than or equal to 2, got 1"),
        ({"decide": "all", "at_most": "ten"}, "seeds.at_most: Input should be a valid integer, got 'ten'"),
        ({"decide": "all", "most": 5}, "seeds.most: no such name; did you mean at_most? there are decide, at_most"),
        ({}, "seeds.decide: is missing"),
    ],
)
def test_a_wrong_decide_is_refused_by_its_path(seeds: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:
        spec_of(seeds=seeds)
    assert told in str(error.value)
    assert "list[" not in str(error.value) and "function-" not in str(error.value)


def test_a_sweep_without_comparisons_decides_nothing() -> None:
    with pytest.raises(ValueError, match="no row of this sweep is compared with a baseline"):
        spec_of(parts=[{"table": "2c", "grid": {"model.groups": [1]}}])
    with pytest.raises(ValueError, match="a search takes one seed and decides no rows"):
        spec_from(
            {
                "name": "s",
                "seeds": {"decide": "all", "at_most": 3},
                "search": {"trials": 1, "parameters": {"model.groups": {"choice": [1, 64]}}},
            }
        )


def test_a_file_and_a_command_line_set_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    text = tiny_sweep("tiny", "", "  - table: 2d\n    grid: {model.alignment: [0, 1]}\n", epochs=1)
    path.write_text(text + "seeds: {decide: [2d: 1], at_most: 4}\n")
    assert read_spec(path).all_seeds == (0, 1, 2, 3)
    assert read_spec(path, ["seeds.at_most=7"]).all_seeds == tuple(range(7))
    assert read_spec(path, ["seeds=[3, 4]"]).deciding is None


def test_the_plan_keeps_the_rule_before_the_first_look(tmp_path: Path) -> None:
    planned = deciding(["2c", "2d: ODE"], at_most=6)
    ledger = Ledger(tmp_path)
    ledger.write_plan(planned)
    rule = ledger.plan("looks").rule
    assert rule == planned.rule and rule is not None and rule.at_most == 6
    assert [(each.table, each.margin, each.levels) for each in rule.tables] == [
        ("2c", 0.005, levels(6, 3)),
        ("2d", 0.005, levels(6, 1)),
    ]
    seeds = {(cell.table, cell.config.flat().get("model.alignment")): len(cell.seeds) for cell in planned.cells}
    assert {seeds["2c", "ode"], seeds["2d", "ode"], seeds["2d", 0]} == {6}
    assert seeds["2d", 1] == 2, "a row that is not to be decided"
    now = {len(cell.seeds) for cell in ledger.asked(planned).cells if cell.config.seeded}
    assert now == {2}


def test_undecided_rows_and_their_baseline_take_seeds_and_others_none(
    ended: tuple[SweepPlan, Path, Trainer],
) -> None:
    planned, store, trainer = ended
    looks = Ledger(store).looks("looks")
    assert looks is not None
    found = {course.question.said: course for name in ("2c", "2d") for course in courses(looks, name).values()}
    verdicts = {said.split(",")[0]: course.verdict for said, course in found.items()}
    assert verdicts["groups 4 of 64 channels"] is Verdict.BETTER
    assert verdicts["groups 16 of 64 channels"] is Verdict.WORSE
    assert verdicts["groups 64 of 64 channels"] is Verdict.UNDECIDED
    seeds = {
        (cell.table, str(cell.config.at("model.groups" if cell.table == "2c" else "model.alignment"))): cell
        for cell in planned.cells
        if cell.config.seeded
    }
    taken = {place: trainer.seeds_of(cell) for place, cell in seeds.items()}
    assert taken["2c", "1"] == taken["2c", "64"] == [0, 1, 2, 3, 4], "the baseline goes with the row that goes on"
    assert len(taken["2c", "4"]) < 5 and len(taken["2c", "16"]) < 5
    for course in found.values():
        assert course.answer is not None and course.asked == (5 if not course.decided else len(course.answer.seeds))
    decided_at = {
        row: n
        for n, look in enumerate(looks.taken)
        for row in [a.row for a in look.answers if a.verdict != "undecided"]
    }
    for row, number in decided_at.items():
        assert all(row not in [answer.row for answer in look.answers] for look in looks.taken[number + 1 :])
    assert len(trainer.rounds) == len(looks.taken) == 4
    assert chance_spent(looks, "2c") <= 0.05 + 1e-12


def test_the_first_look_by_hand(ended: tuple[SweepPlan, Path, Trainer]) -> None:
    planned, store, _ = ended
    looks = Ledger(store).looks("looks")
    assert looks is not None
    cells = [cell for cell in planned.cells if cell.table == "2c"]
    accuracies = [np.array([drawn(cell, seed) for seed in (0, 1)]) for cell in cells]
    others = [cell for cell in planned.cells if cell.table == "2d" and cell.config.at("model.method") == "dmf"][:2]
    means = [each.mean(axis=1) for each in accuracies]
    means += [np.array([drawn(cell, seed).mean() for seed in (0, 1)]) for cell in others]
    # Four rows with two seeds have 3 degrees of freedom, so the sweep's other two trainings count too: 5.
    spread = pooled([np.array(means)])
    assert spread.freedom == 5
    level = levels(5, 3)[0]
    for row, answer in enumerate(looks.taken[0].answers[:3], start=1):
        assert (answer.table, answer.seeds, answer.asked, answer.level) == ("2c", (0, 1), 2, pytest.approx(level))
        estimate = of_methods(paired(accuracies[row], accuracies[0]), spread)
        low, high = repeated_interval(estimate, level)
        assert (answer.difference, answer.low, answer.high) == pytest.approx((float(estimate.mean), low, high))
        assert (answer.error, answer.freedom) == pytest.approx((float(estimate.error), float(estimate.freedom)))


@pytest.mark.parametrize("killed_after", [0, 1, 7, 13, 14, 15, 17])
def test_a_kill_between_two_trainings_changes_no_decision(
    killed_after: int, tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer]
) -> None:
    planned, store, whole = ended
    with pytest.raises(KeyboardInterrupt):
        run(planned, tmp_path, ends_after=killed_after)
    again = run(planned, tmp_path)
    assert Ledger(tmp_path).looks("looks") == Ledger(store).looks("looks")
    assert killed_after + sum(map(len, again.rounds)) == sum(map(len, whole.rounds)), "nothing is trained twice"


@pytest.mark.parametrize("look", [1, 2, 4])
@pytest.mark.parametrize("written", [False, True])
def test_a_kill_around_a_look_changes_no_decision(
    look: int, written: bool, tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, store, _ = ended
    write: Callable[..., None] = Ledger.write_looks

    def dies(self: Ledger, name: str, looks: Looks) -> None:
        if written or len(looks.taken) < look:
            write(self, name, looks)
        if len(looks.taken) == look:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "write_looks", dies)
    with pytest.raises(KeyboardInterrupt):
        run(planned, tmp_path)
    monkeypatch.undo()
    run(planned, tmp_path)
    assert Ledger(tmp_path).looks("looks") == Ledger(store).looks("looks")
    done = run(planned, tmp_path)
    assert done.rounds == [], "a sweep that has ended trains and looks no more"
    assert Ledger(tmp_path).looks("looks") == Ledger(store).looks("looks")


def test_rows_wait_for_a_training_that_failed_and_catch_up(
    tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    planned, _, _ = ended
    ledger = Ledger(tmp_path)
    (broken,) = [cell for cell in planned.cells if cell.table == "2c" and cell.config.at("model.groups") == 16]
    trainer = Trainer(planned, ledger)
    trainer.broken = {broken.training_keys[1]}
    decide_rows(planned, ledger, accept_stale=True, train=trainer)
    assert "1 row waits for trainings that have not ended, its own or its baseline's: table 2c, groups 16" in (
        capsys.readouterr().out
    )
    looks = ledger.looks("looks")
    assert looks is not None and trainer.seeds_of(broken) == [0]
    row = next(row for row, course in courses(looks, "2c").items() if "groups 16" in course.question.said)
    assert courses(looks, "2c")[row].asked == 0
    assert against(table(planned, ledger))["16 of 64 channels"].obstacle == "no look yet"
    decide_rows(planned, ledger, accept_stale=True, train=Trainer(planned, ledger))
    looks = ledger.looks("looks")
    assert looks is not None and courses(looks, "2c")[row].verdict is Verdict.WORSE
    assert chance_spent(looks, "2c") <= 0.05 + 1e-12


def test_damaged_looks_concern_their_sweep_alone(
    tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    planned, store, _ = ended
    ledger = Ledger(shutil.copytree(store, tmp_path / "store"))
    first = spec_of(name="zeta", seeds=[0, 1], parts=[{"table": "2c", "grid": {"model.groups": [1, 4]}}])
    ledger.write_plan(plan(first))  # comes after the sweep `looks`
    path = ledger.sweep_folder("looks") / "looks.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    of_store = ["--store", str(ledger.store)]
    assert status([*of_store, "--accept-stale"]) == 1
    said = capsys.readouterr()
    assert "zeta: 4 trainings: 4 done" in said.out and "error: looks: " in said.err and str(path) in said.err
    assert report_command([*of_store, "--accept-stale", "--output", str(tmp_path / "out")]) == 2
    assert str(path) in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["zeta"]
    assert sync(of_store) == 2
    assert str(path) in capsys.readouterr().err
    uri = f"sqlite:///{ledger.store}/mlflow.db"
    mirrored = MLflowRecords(uri)
    assert mirrored.plan("zeta") == ledger.plan("zeta")
    assert all(mirrored.training(trial.key) == ledger.training(trial.key) for trial in plan(first).trials())
    path.write_bytes(whole)
    assert sync(of_store) == 0
    assert mirrored.plan("looks") == planned and "zeta: nothing to do" in capsys.readouterr().out


def test_seeds_that_are_there_already_are_not_seen_before_their_look(
    tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer]
) -> None:
    planned, store, _ = ended
    shutil.copytree(store / "trainings", tmp_path / "trainings")
    ledger = Ledger(tmp_path)
    Trainer(planned, ledger)(planned.trials())  # every seed of every row, as another sweep may have left them
    again = Trainer(planned, ledger)
    decide_rows(planned, ledger, accept_stale=True, train=again)
    assert again.rounds == [] and ledger.looks("looks") == Ledger(store).looks("looks")


def test_a_report_prints_what_the_looks_found(ended: tuple[SweepPlan, Path, Trainer]) -> None:
    planned, store, _ = ended
    ledger = Ledger(store)
    before = (store / "sweeps/looks/looks.json").read_bytes()
    printed = table(planned, ledger)
    rows, looks = against(printed), ledger.looks("looks")
    assert looks is not None and (store / "sweeps/looks/looks.json").read_bytes() == before
    for course in courses(looks, "2c").values():
        answer = course.answer
        shown = rows[course.question.said.split(",")[0].removeprefix("groups ")]
        assert answer is not None
        assert (shown.difference, shown.low, shown.high) == (answer.difference, answer.low, answer.high)
        assert (shown.verdict, shown.look_level, shown.seeds) == (answer.verdict, answer.level, answer.seeds)
        assert shown.p_holm is None and not shown.goes_on
    better = rows["4 of 64 channels"]
    assert better.low is not None and better.low > 0
    assert better.accuracy is not None, "the baseline has more seeds, so accuracies of the same ones are given"
    assert words.explained(rows["64 of 64 channels"]).startswith("undecided, about ")
    (rule,) = [note for note in printed.notes if "decided by looks" in note]
    assert "The comparisons of 3 rows are decided by looks" in rule and "up to 5" in rule
    assert f"{100 * levels(5, 3)[0]:.2g}, {100 * levels(5, 3)[1]:.2g}" in rule
    assert "Looks so far: 2 of 3 decided, 1 undecided with the most seeds." in printed.notes
    assert any("Seeds are blocks" in note and "as looks found them" in note for note in printed.notes)
    assert r"with the interval of its last look.}" in to_latex_column(printed)
    fields = {row["row"]: row["look_level"] for row in csv.DictReader(io.StringIO(to_csv(printed)))}
    assert {row: float(fields[row]) for row in rows} == pytest.approx(
        {row: each.look_level for row, each in rows.items()}, rel=5e-3
    )
    page = to_html([printed], "looks")
    assert "with the interval of its last look:" in page and "The band is the margin of 0.5 points, within" in page
    fixed = to_latex_column(fill(TABLES["2c"], asked_now(planned.cells, looks), ledger))
    assert "with its 95" in fixed and "last look" not in fixed


def test_a_report_without_a_look_has_no_verdict(tmp_path: Path) -> None:
    planned = deciding(["2c"])
    ledger = Ledger(tmp_path)
    Trainer(planned, ledger)(planned.trials())
    rows = against(table(planned, ledger))
    assert {row.obstacle for row in rows.values()} == {"no look yet"}
    assert {row.verdict for row in rows.values()} == {row.difference for row in rows.values()} == {None}


def test_rows_outside_the_rule_have_an_interval_and_no_verdict(tmp_path: Path) -> None:
    planned = deciding(["2c: 16"])
    run(planned, tmp_path)
    ledger = Ledger(tmp_path)
    rows = against(table(planned, ledger))
    aside, asked = rows["4 of 64 channels"], rows["16 of 64 channels"]
    assert (aside.verdict, aside.obstacle, aside.seeds) == (None, "not to be decided", (0, 1))
    assert aside.difference is not None and aside.low is not None
    assert asked.verdict is not None
    assert "with the interval of its last look, or its 95" in to_latex_column(table(planned, ledger))
    fields = {row["row"]: row["look_level"] for row in csv.DictReader(io.StringIO(to_csv(table(planned, ledger))))}
    assert asked.look_level is not None
    assert fields["16 of 64 channels"] == f"{asked.look_level:.3g}" and fields["4 of 64 channels"] == ""
    # A table of which nothing is to be decided has a fixed number of seeds, and the verdicts of one.
    free = against(table(planned, ledger, "2d"))
    assert all(row.p_holm is not None and row.verdict for row in free.values())


def test_a_training_that_has_changed_since_its_look_has_no_verdict(copied: tuple[SweepPlan, Ledger]) -> None:
    planned, ledger = copied
    (cell,) = [cell for cell in planned.cells if cell.table == "2c" and cell.config.at("model.groups") == 4]
    records = InMemory()
    ledger.write_evaluation(records.tested(cell, drawn(cell, 0) * 0.9, 0))
    shown = against(table(planned, ledger))["4 of 64 channels"]
    assert (shown.verdict, shown.difference) == (None, None)
    assert shown.obstacle == "its trainings have changed since the look"


def test_a_rule_is_not_changed_after_a_look_but_for_more_seeds_which_cost(
    copied: tuple[SweepPlan, Ledger], ended: tuple[SweepPlan, Path, Trainer]
) -> None:
    (planned, ledger), (_, store, _) = copied, ended
    with pytest.raises(ValueError, match="a rule that changes after a look decides nothing"):
        decide_rows(deciding(["2c"]), ledger, True, Trainer(planned, ledger))
    longer = deciding("all", at_most=7)
    trainer = Trainer(longer, ledger)
    decide_rows(longer, ledger, accept_stale=True, train=trainer)
    looks = ledger.looks("looks")
    assert looks is not None and (looks.rule.at_most, looks.at_most) == (5, 7)
    assert looks.rule == planned.rule and looks.taken[:4] == Ledger(store).looks("looks").taken  # type: ignore[union-attr]
    row = next(course for course in courses(looks, "2c").values() if "groups 64" in course.question.said)
    assert row.asked > 5 and [seeds for seeds, _ in row.account.looks][-1] > 5
    spent = chance_spent(looks, "2c")
    assert spent > chance_spent(Ledger(store).looks("looks") or looks, "2c")
    notes = table(longer, ledger).notes
    told = [note for note in notes if note.startswith("Looks with more than 5 seeds were not in the rule, and cost")]
    assert told and f"in up to {100 * spent:.2g} % of cases" in told[0]


def test_a_list_of_seeds_after_looks_is_told_what_they_cost(
    tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer]
) -> None:
    _, store, _ = ended
    ledger = Ledger(store)
    looks = ledger.looks("looks")
    assert looks is not None
    fixed = plan(spec_of(seeds=[0, 1, 2, 3, 4]))
    printed = fill(TABLES["2c"], fixed.cells, ledger, None, None, looks)
    (told,) = [note for note in printed.notes if "Those looks cost" in note]
    assert "after each of its first 5 seeds" in told
    assert f"in up to {100 * (chance_spent(looks, '2c') + 0.05):.2g} % of cases, not 5 %" in told
    assert all(row.look_level is None for row in against(printed).values())


def test_the_plan_says_what_is_expected_and_what_there_can_be(
    tmp_path: Path, ended: tuple[SweepPlan, Path, Trainer]
) -> None:
    planned, store, trainer = ended
    first = describe(spec_of(), planned, Ledger(tmp_path), Today(True))
    seeded = [cell for cell in planned.cells if cell.config.seeded]
    distinct = len({config.key for cell in seeded for config in cell.trainings})
    assert distinct == 5 * 6, "64 groups in table 2c are table 2d's ODE row"
    assert f"at most: {distinct + 1} trainings in all" in first
    assert "seeds 0, 1 and then one at a time up to 5, as looks decide" in first
    assert "table 2c: looks with 2 to 5 seeds, to decide 3 rows; levels, as long as none is decided: 0.67, " in first
    expected = int(first.partition("expected: ")[2].partition(" ")[0])
    assert 2 * 6 < expected <= distinct + 1
    after = describe(spec_of(), planned, Ledger(store), Today(True))
    taken = sum(map(len, trainer.rounds))
    assert f"expected: {taken} trainings in all, with differences found so far" in after
    assert f"at most: {taken} trainings in all" in after
    assert "table 2c: 2 of 3 rows decided, 0 to go on" in after


@pytest.mark.parametrize("option", [["--only", "seed=0"], ["--budget", "1h"]])
def test_options_that_choose_trainings_are_refused(
    option: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_sweep("tiny", "", "  - table: 2d\n    grid: {model.alignment: [0, 1]}\n", epochs=1)
    Path("tiny.yaml").write_text(text + "seeds: {decide: all, at_most: 3}\n")
    assert main(["tiny.yaml", *option]) == 2
    assert f"{option[0]}: tiny chooses its trainings by its looks; leave it out" in capsys.readouterr().err


def test_a_real_sweep_decides_reports_and_has_nothing_left_to_do(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_sweep("tiny", "", "  - table: 2d\n    grid: {model.alignment: [0, 1]}\n", epochs=1)
    Path("tiny.yaml").write_text(text + "seeds: {decide: [2d: 1], at_most: 3}\n")
    command = ["tiny.yaml", "--executor", "local"]
    assert main(command) == 0
    said, ledger = capsys.readouterr().out, Ledger(Path("runs").resolve())
    looks = ledger.looks("tiny")
    assert looks is not None and [len(look.answers) for look in looks.taken] == [1, 1]
    assert "tiny: 4 trainings, 0 done, 4 to run" in said and "tiny: 2 trainings, 0 done, 2 to run" in said
    assert "look 1, with 2 seeds:" in said and "look 2, with 3 seeds:" in said and "decided by looks" in said
    assert len(ledger.kept_keys()) == 6
    before = (ledger.store / "sweeps/tiny/looks.json").read_bytes()
    assert main(command) == 0
    assert "to run" not in capsys.readouterr().out
    assert (ledger.store / "sweeps/tiny/looks.json").read_bytes() == before
    assert status(["tiny"]) == 0
    assert "2 looks taken, at most 3 seeds" in capsys.readouterr().out
    uri = f"sqlite:///{ledger.store}/mlflow.db"
    assert MLflowRecords(uri).looks("tiny") == looks
    assert sync(["--store", "runs", "--tracking-uri", uri]) == 0
    assert "tiny: nothing to do" in capsys.readouterr().out
    assert report_command(["tiny", "--formats", "markdown", "--output", "again"]) == 0
    again = Path("again/tiny/table_2d.md").read_bytes()
    assert again == Path("results/tiny/table_2d.md").read_bytes()
    assert (ledger.store / "sweeps/tiny/looks.json").read_bytes() == before, "a report is no look"


def test_retraining_what_is_stale_begins_with_no_looks(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny_sweep("tiny", "", "  - table: 2d\n    grid: {model.alignment: [0, 1]}\n", epochs=1)
    Path("tiny.yaml").write_text(text + "seeds: {decide: all, at_most: 2}\n")
    assert main(["tiny.yaml", "--executor", "local"]) == 0
    ledger = Ledger(Path("runs").resolve())
    first = ledger.looks("tiny")
    for path in ledger.store.glob("trainings/*/training.json"):
        text = json.dumps(unchecked(path))
        path.write_text(re.sub(r'"code": ?"[^"]*"', '"code": "0000000000000000"', text))
    assert main(["tiny.yaml", "--executor", "local"]) == 1
    assert "for trainings that have not ended" not in capsys.readouterr().out, "it is decided or has the most seeds"
    assert ledger.looks("tiny") == first
    assert main(["tiny.yaml", "--executor", "local", "--retrain-stale"]) == 0
    assert "looks begin anew, since trainings that they saw are retrained" in capsys.readouterr().out
    (aside,) = ledger.store.glob("sweeps/tiny/looks-*.json")
    assert Looks.read(aside) == first and ledger.looks("tiny") == first, "the same code comes to the same look"


def test_decide_may_name_a_claim() -> None:
    def rows(*names: str, **changed: Any) -> list[str]:
        rule = deciding(list(names), **changed).rule
        assert rule is not None
        return [question.said.split(",")[0] for table in rule.tables for question in table.questions]

    assert rows("One alignment beats none.") == ["alignments 1"]
    assert rows("One group is worst") == [
        "groups 4 of 64 channels",
        "groups 16 of 64 channels",
        "groups 64 of 64 channels",
    ]
    own = [{"say": "Sixteen beat one.", "table": "2c", "above": [16, 1]}]
    assert rows("Sixteen beat one.", claims=own) == ["groups 16 of 64 channels"]
    with pytest.raises(
        ValueError, match="the claim compares ode with 1, but looks compare rows of table 2d with their"
    ):
        deciding(["The ODE is best."])


def test_claims_are_judged_by_the_intervals_of_the_looks(ended: tuple[SweepPlan, Path, Trainer]) -> None:
    planned, store, _ = ended
    ledger = Ledger(store)
    assert planned.rule is not None
    kept = agreed(planned.rule, ledger.looks(planned.name))
    gathered = gather(TABLES["2c"], asked_now(planned.cells, kept), ledger, None, kept)
    asked = [
        Claim.from_dict({"say": "x", "table": "2c", **kind})
        for kind in ({"above": [4, 1]}, {"above": [1, 4]}, {"above": [64, 4]})
    ]
    holds, fails, other = judge(asked, [gathered])
    better = against(table(planned, ledger))["4 of 64 channels"]
    assert (holds.ours, fails.ours, other.ours) == (Outcome.HOLDS, Outcome.FAILS, Outcome.NOT_TESTED)
    assert better.low is not None and better.high is not None
    assert words.interval(better.low, better.high) in holds.evidence
    assert words.interval(-better.high, -better.low) in fails.evidence
    assert "the looks do not compare them" in other.evidence


def test_a_claim_is_told_as_the_look_found_it_though_more_seeds_are_there() -> None:
    planned = deciding("all")
    assert planned.rule is not None
    kept = agreed(planned.rule, None)
    records = InMemory()

    def train() -> tuple[PlannedCell, ...]:
        cells = asked_now(planned.cells, kept)
        for cell in cells:
            for seed in cell.seeds:
                groups = cell.config.flat().get("model.groups")
                late = 0.06 if (groups, seed) == (16, 2) else 0.0
                own = np.random.default_rng([groups or 0, seed])
                records.tested(cell, 0.5 + late + own.normal(0, 0.004) + own.normal(0, 0.05, EPISODES), seed)
        return cells

    cells = train()
    ready = {(each.table, question.row) for each in planned.rule.tables for question in each.questions}
    kept = kept.model_copy(update={"taken": (take_look(kept, planned.layouts, cells, ready, records),)})
    cells = train()  # the third seeds, before the next look
    claim = Claim.from_dict({"say": "x", "table": "2c", "above": [16, 1]})
    (judged,) = judge([claim], [gather(TABLES["2c"], cells, records, None, kept)])
    (answer,) = (c.answer for c in courses(kept, "2c").values() if "16 of 64" in c.question.said)
    assert answer is not None and answer.difference is not None
    assert answer.low is not None and answer.high is not None
    told = f"{words.percent(answer.difference, signed=True)} {words.interval(answer.low, answer.high)}, goes on"
    assert (judged.ours, judged.more_seeds) == (Outcome.UNDECIDED, None)
    assert judged.evidence.endswith(told)


def test_a_claim_is_not_judged_by_a_look_at_other_trainings_or_before_the_first_one(
    copied: tuple[SweepPlan, Ledger],
) -> None:
    planned, ledger = copied
    assert planned.rule is not None
    kept = agreed(planned.rule, ledger.looks(planned.name))
    (cell,) = [cell for cell in planned.cells if cell.table == "2c" and cell.config.at("model.groups") == 4]
    ledger.write_evaluation(InMemory().tested(cell, drawn(cell, 0) * 0.5, 0))
    asked = [Claim.from_dict({"say": "x", "table": "2c", "above": pair}) for pair in ([4, 1], [16, 1])]

    def judged(looks: Looks) -> list[tuple[Outcome, str]]:
        gathered = gather(TABLES["2c"], asked_now(planned.cells, looks), ledger, None, looks)
        return [(each.ours, each.evidence.rpartition(": ")[2]) for each in judge(asked, [gathered])]

    changed, unchanged = judged(kept)
    assert changed == (Outcome.NOT_TESTED, "its trainings have changed since the look")
    assert unchanged[0] is Outcome.FAILS
    assert judged(Looks(rule=kept.rule)) == [(Outcome.NOT_TESTED, "no look yet")] * 2
