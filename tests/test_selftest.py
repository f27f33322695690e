"""A short run of the selftest, which kills a sweep at random; `python -m orchestrator.selftest` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmf.config import ExperimentConfig
from dmf.records.records import FORMAT, LAST, TrainingRecord
from orchestrator.selftest.__main__ import main
from orchestrator.selftest.checks import differences
from orchestrator.selftest.sweeps import Site, Tracking

KILLS = 4


@pytest.mark.full
def test_a_disturbed_sweep_leaves_what_an_undisturbed_one_leaves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--kills", str(KILLS), "--seed", "1", "--folder", str(tmp_path / "work")]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.count("s after its start") == KILLS and "complete, nothing differs" in said
    assert "SIGKILL in MLflow's schema" in said and "of a first start on SQLite" in said


@pytest.mark.full
def test_other_faults_cost_the_touched_training_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--faults", str(KILLS), "--seed", "1", "--folder", str(tmp_path / "work")]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.count("s after its start") == KILLS and "complete, nothing differs" in said


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """Finds a record that differs, an extra one, a leftover file, a rewritten record, and a run missing in MLflow."""
    with Tracking(tmp_path / "tracking") as tracking:
        ours, theirs = (Site(tmp_path / name, tracking.uri) for name in ("ours", "theirs"))
        for site, accuracy in ((ours, 0.5), (theirs, 0.25)):
            for trial in site.trials:
                record = TrainingRecord(
                    format=FORMAT,
                    key=trial.key,
                    config=trial.config,
                    outcome="finished",
                    best_validation_accuracy=accuracy,
                )
                site.ledger.write_training(record)
        other = ExperimentConfig()
        ours.ledger.write_training(TrainingRecord(format=FORMAT, key=other.key, config=other, outcome="finished"))
        for name in (LAST, ".tmpA1b2C3"):
            (ours.ledger.folder(trial.key) / name).touch()
        wrong = differences(ours, theirs)
    assert sum("training.json differs" in each for each in wrong) == len(ours.trials)
    assert f"{other.key} was not asked for" in wrong and f"{trial.key}: {LAST} is left over" in wrong
    assert f"{trial.key}: .tmpA1b2C3 is left over" in wrong
    assert any(each.startswith("MLflow has runs {}, expected") for each in wrong)
    assert ours.between(0) == []
    ours.ledger.write_training(TrainingRecord(format=FORMAT, key=other.key, config=other, outcome="diverged"))
    assert [f"{ours.ledger.folder(other.key)}/training.json was written again"] == ours.between(0)
