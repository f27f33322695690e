"""The report command reads a store and writes every table in every format."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dmf.config import EvaluationConfig
from orchestrator.report import FORMATS, NOTHING_FOUND, main, report
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from reports.cells import Table
from reports.tables import PlannedCell
from tests.filled import made
from tests.records_in_memory import InMemory, episodes, planned

TWENTY = EvaluationConfig(episodes=20)
ROOT = Path(__file__).resolve().parents[1]


def demo() -> SweepPlan:
    glyphs = {"data__name": "glyphs", "model__backbone": "conv64f"}
    cells = [planned("2c", TWENTY, model__groups=groups, **glyphs) for groups in (1, 4, 16, 64)]
    cells += [planned("2d", TWENTY, model__alignment=alignment, **glyphs) for alignment in (0, "ode")]
    return SweepPlan(name="demo", about="Two tables.", cells=tuple(cells))


def records_of(cells: tuple[PlannedCell, ...]) -> InMemory:
    records = InMemory()
    for index, cell in enumerate(cells):
        records.tested(cell, episodes(0.4 + 0.05 * index, 20))
    return records


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store as a sweep leaves it."""
    ledger, plan = Ledger(tmp_path / "runs"), demo()
    ledger.write_plan(plan)
    ledger.write_plan(SweepPlan(name="search", about="", cells=()))
    kept = records_of(plan.cells)
    for key, training in kept.trainings.items():
        ledger.write_training(training.replace(history=made(key)["history"]))
    for evaluation in kept.evaluations.values():
        ledger.write_evaluation(evaluation)
    return ledger.store


def test_report_writes_each_table_in_each_format_and_an_index(tmp_path: Path) -> None:
    plan = demo()
    console = Console(width=100, file=io.StringIO())
    paths = report(plan, records_of(plan.cells), tmp_path, console=console)
    suffixes = [*(suffix for suffix, _ in FORMATS.values()), "html"]
    names = {f"table_{table}.{suffix}" for table in ("2c", "2d") for suffix in suffixes} | {"index.html"}
    names |= {"claims.md", "claims.csv", "claims.json"}
    assert {path.name for path in paths} == names == {path.name for path in (tmp_path / "demo").iterdir()}
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "Table 2c: Number of groups, glyphs" in printed and "16 of 64 channels" in printed
    assert all(str(path) in printed for path in paths)
    index = (tmp_path / "demo" / "index.html").read_text()
    assert 'id="table-2c"' in index and 'id="table-2d"' in index and "Two tables." in index


def test_a_second_report_changes_no_byte(tmp_path: Path) -> None:
    plan = demo()
    quiet = Console(file=io.StringIO())
    first = {path: path.read_bytes() for path in report(plan, records_of(plan.cells), tmp_path, console=quiet)}
    again = {path: path.read_bytes() for path in report(plan, records_of(plan.cells), tmp_path, console=quiet)}
    assert first == again


def test_tables_and_formats_can_be_chosen(tmp_path: Path) -> None:
    plan = demo()
    quiet = Console(file=io.StringIO())
    paths = report(plan, records_of(plan.cells), tmp_path, ["2d"], ["csv", "latex"], console=quiet)
    assert sorted(path.name for path in paths) == ["claims.csv", "table_2d.csv", "table_2d.tex"]


def test_command_reads_the_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store whose records do not name the code that made them; they count if the user accepts them."""
    arguments = ["demo", "--store", str(store), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert Table.read(tmp_path / "out/demo/table_2c.json").sections[0].cells[0].state == "stale"
    assert main([*arguments, "--accept-stale"]) == 0
    assert "Table 2d: Alignment" in capsys.readouterr().out
    table = Table.read(tmp_path / "out/demo/table_2c.json")
    cell = table.sections[0].cells[0]
    assert cell.doubts == ("made by unknown code",)
    assert cell.state == "done" and cell.records[0].startswith(demo().cells[0].trainings[0].key)
    assert cell.parameters == 1000


def test_without_names_every_sweep_that_has_tables_is_reported(store: Path, tmp_path: Path) -> None:
    assert main(["--store", str(store), "--output", str(tmp_path / "out"), "--table", "2c", "--formats", "json"]) == 0
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("[!.]*.*")}
    assert written == {Path("demo/table_2c.json"), Path("demo/claims.json")}


def test_claims_are_judged_together_whichever_tables_are_asked_for(store: Path, tmp_path: Path) -> None:
    """Adjusted for the claims about one table alone, more of them would hold."""
    written = []
    for arguments in ([], ["--table", "2d"], ["--table", "2c"]):
        console = io.StringIO()
        with contextlib.redirect_stdout(console):
            assert main(["demo", "--store", str(store), "--output", str(tmp_path), "--accept-stale", *arguments]) == 0
        written.append((tmp_path / "demo" / "claims.json").read_text())
        assert ("One group is worst." in console.getvalue()) == (arguments != ["--table", "2d"])
    assert len(set(written)) == 1
    (one_group,) = (each for each in json.loads(written[0]) if each["sentence"] == "One group is worst.")
    assert one_group["ours"] == "undecided"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no sweep 'nonsense'; there are demo, search"),
        (["demo", "--table", "7"], "none of demo has cells for table 7; there are 2c"),
        (["demo", "--table", "2a"], "none of demo has cells for table 2a"),
        (["search"], "none of search has cells for a table (searches fill none)"),
    ],
)
def test_a_wrong_question_is_answered(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([*arguments, "--store", str(store)]) == NOTHING_FOUND
    assert said in capsys.readouterr().err


def test_an_empty_store_says_what_was_looked_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.report", "--store", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    assert done.returncode == 2
    assert f"{tmp_path / 'none'}/sweeps/*/plan.json" in done.stderr and "orchestrator.sweep" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_record_that_contradicts_itself_is_told_in_its_cell(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, cell = Ledger(store), demo().cells[0]
    key = cell.trainings[0].key
    record = ledger.evaluation(key, cell.evaluation.key)
    assert record is not None
    ledger.write_evaluation(record.replace(accuracy=0.99))
    assert main(["--accept-stale", "--store", str(store), "--output", str(tmp_path / "out")]) == 0
    said = "".join(capsys.readouterr().out.split())
    assert "1damaged" in said and f"evaluation{key}/{cell.evaluation.key}saysaccuracy=0.99" in said


def test_a_plan_without_records_is_a_table_of_missing_cells(tmp_path: Path) -> None:
    Ledger(tmp_path / "runs").write_plan(demo())
    assert main(["--store", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/demo/table_2c.md").read_text().count("| missing |") >= 4


def test_mlflow_gives_the_same_tables(store: Path, tmp_path: Path) -> None:
    server = pytest.importorskip("orchestrator.tracking.server", reason="mlflow is not installed")
    from orchestrator.tracking.runs import SweepRuns

    ledger, plan = Ledger(store), demo()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, experiment = server.connect(uri, tmp_path / "artifacts")
    runs = SweepRuns(client, experiment, ledger, plan)
    runs.open()
    for trial in plan.trials():
        runs.mirror(trial.config, trial.evaluations, "label")
    outputs = [tmp_path / "from_store", tmp_path / "from_mlflow"]
    assert main(["demo", "--store", str(store), "--output", str(outputs[0])]) == 0
    assert main(["demo", "--tracking-uri", uri, "--output", str(outputs[1])]) == 0
    first, second = ({p.name: p.read_text() for p in (output / "demo").glob("[!.]*")} for output in outputs)
    assert "Validation accuracy by epoch" in first["index.html"]
    run = r", MLflow run <code>[0-9a-f]{32}</code>"
    assert len(re.findall(run, second["index.html"])) == len(plan.cells)
    assert first == {name: re.sub(run, "", text) for name, text in second.items()}
