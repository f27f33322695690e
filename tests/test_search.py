"""Searches: the base is proposed first, what was tried is kept, the best is one trained to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmf.config import ExperimentConfig
from orchestrator.ledger import Ledger
from orchestrator.search import SearchResults, Tried, first_point, listing, results_path, resume
from orchestrator.spec import SweepSpec
from orchestrator.spec_file import spec_from
from orchestrator.sweep import main
from orchestrator.tracking import MLflowRecords, tracking_uri

YAML = """
name: look
set:
  data.name: glyphs
  data.image_size: 28
  data.channels: 1
  data.normalisation: half
  model.backbone: conv64f
  episodes.queries: 2
  training.epochs: 3
  training.warmup_epochs: 0
  training.episodes_per_epoch: 4
  training.validation_episodes: 4
  training.validate_every: 1
  training.device: cpu
evaluation: {episodes: 4}
search:
  trials: 4
  reduction: 2
  parameters:
    training.learning_rate: {choice: [0.35, 1.0e+30]}
    model.groups: {choice: [1, 64]}
"""


def spec(parameters: dict[str, Any], **more: Any) -> SweepSpec:
    return spec_from({"name": "look", "search": {"trials": 5, "parameters": parameters}, **more})


def tried(accuracy: float, outcome: Any = "finished", **values: Any) -> Tried:
    named = {path.replace("__", "."): value for path, value in values.items()}
    return Tried(values=named, key=f"key{accuracy}", accuracy=accuracy, epochs=1, outcome=outcome)


def test_the_base_is_the_first_proposal_if_the_ranges_hold_it() -> None:
    wide = spec({"training.learning_rate": {"loguniform": [0.01, 1.0]}, "model.groups": {"choice": [1, 64]}})
    assert wide.search is not None
    assert first_point(ExperimentConfig(), wide.search) == {"training.learning_rate": 0.35, "model.groups": 64}
    narrow = spec({"training.learning_rate": {"uniform": [0.01, 0.1]}})
    assert narrow.search is not None
    assert first_point(ExperimentConfig(), narrow.search) is None


def test_the_best_was_trained_to_its_end() -> None:
    results = SearchResults(
        base=ExperimentConfig(),
        parameters={},
        tried=(tried(0.5, model__groups=1), tried(0.9, "stopped", model__groups=64), tried(0.6, model__groups=2)),
    )
    assert results.best is not None and results.best.accuracy == 0.6
    lines = listing(results).splitlines()
    assert "groups=2" in lines[1] and "groups=64" in lines[3]
    assert "  model.groups: 2" in lines
    assert SearchResults(base=ExperimentConfig(), parameters={}).best is None


def test_a_search_goes_on_with_what_it_knows_but_not_with_another_s(tmp_path: Path) -> None:
    ledger, groups = Ledger(tmp_path), {"model.groups": {"choice": [1, 64]}}
    fresh = resume(spec(groups), ledger)
    assert fresh.tried == ()
    known = SearchResults(base=fresh.base, parameters=fresh.parameters, tried=(tried(0.5, model__groups=1),))
    known.write(results_path(ledger, "look"))
    assert resume(spec(groups), ledger) == known
    for other in (spec({"model.groups": {"choice": [1, 2]}}), spec(groups, base="paper")):
        with pytest.raises(ValueError, match="another base or other ranges"):
            resume(other, ledger)


def test_a_search_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "look.yaml"
    path.write_text(YAML)
    store = tmp_path / "runs"
    assert main([str(path), "--store", str(store)]) == 0, capsys.readouterr()
    results = SearchResults.read(store / "sweeps" / "look" / "search.json")
    assert len(results.tried) == 4
    assert {"training.learning_rate": 0.35, "model.groups": 64} in [trial.values for trial in results.tried]
    wild = [trial for trial in results.tried if trial.values["training.learning_rate"] > 1]
    assert all(trial.outcome in ("diverged", "stopped") for trial in wild)
    best = results.best
    assert best is not None and best.values["training.learning_rate"] == 0.35
    said = capsys.readouterr().out
    assert f"best: training {best.key}" in said and "test, 5-way 1-shot" in said
    records = MLflowRecords(tracking_uri(store, None))
    record = Ledger(store).training(best.key)
    assert record is not None and records.training(best.key) == record
    assert main([str(path), "--store", str(store)]) == 0
    assert SearchResults.read(store / "sweeps" / "look" / "search.json") == results
