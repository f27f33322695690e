"""A store of record format 1, as an earlier version wrote it, is read, shown as stale, and not mixed with new ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dmf.records.staleness import Today
from orchestrator.report import main as report
from orchestrator.spec.plan import SweepPlan
from orchestrator.status import main as status
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import standing

OLD = "of record format 1, today's is 2"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("format_1"), tmp_path / "runs"))


@pytest.fixture
def plan(store: Path) -> SweepPlan:
    return Ledger(store).plan("format_1")


def test_records_are_read(store: Path, plan: SweepPlan) -> None:
    ledger = Ledger(store)
    keys = [key for cell in plan.cells for key in cell.training_keys]
    assert sorted(keys) == ledger.kept_keys() and len(keys) == 6
    for cell in plan.cells:
        for key in cell.training_keys:
            record, test = ledger.training(key), ledger.evaluation(key, cell.evaluation.key)
            assert record is not None and (record.format, record.outcome) == (1, "finished")
            assert record.config.model == cell.config.model
            assert test is not None and test.accuracy == pytest.approx(test.accuracies.mean())
            assert not test.correct and test.classes is None


def test_trainings_of_dmf_have_the_keys_that_they_had(plan: SweepPlan) -> None:
    for cell in plan.cells:
        assert bool(cell.former_keys) == (cell.config.model.method != "dmf")
        assert cell.former_keys or cell.config.keys(cell.seeds) == cell.training_keys


def test_they_stand_as_of_an_older_format(store: Path, plan: SweepPlan) -> None:
    ledger = Ledger(store)
    dmf = [trial for trial in plan.trials() if trial.config.model.method == "dmf"]
    assert len(dmf) == 4
    for trial in dmf:
        stands = standing(trial, ledger, Today())
        assert (stands.state, stands.why, stands.runs) == ("stale", OLD, False)
        assert standing(trial, ledger, Today(accept_stale=True)).state == "done"


def test_tables_leave_them_out_unless_they_are_accepted_and_say_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--store", str(store), "--output", str(tmp_path / "out")]
    report(["format_1", *output])
    table = (tmp_path / "out" / "format_1" / "table_2d.md").read_text()
    assert table.count(f"stale: {OLD}") >= 3
    assert report(["format_1", *output, "--accept-stale"]) == 0
    table = (tmp_path / "out" / "format_1" / "table_2d.md").read_text()
    assert OLD in table and "raw pixels" in table and "stale" not in table.split("raw pixels")[1].split("\n")[0]


def test_status_says_so(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["--store", str(store)]) == 1
    assert OLD in capsys.readouterr().out
