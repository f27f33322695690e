"""Searches: the base is proposed first, what was tried is kept, the best one is fully trained."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from dmf.config import ExperimentConfig
from dmf.records.records import FORMAT, Failure, Provenance, TrainingRecord
from dmf.records.staleness import Today
from orchestrator.running.interrupts import Signals
from orchestrator.running.progress import Progress
from orchestrator.running.search import SearchWatch, check_fresh
from orchestrator.spec.file import spec_from
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger
from orchestrator.store.searches import SearchResults, Tried, first_point, kept, listing, results_path, resume
from orchestrator.sweep import main
from orchestrator.tracking.reader import MLflowRecords
from orchestrator.tracking.server import tracking_uri
from orchestrator.tracking.tracker import Tracker
from tests.sites import empty_database

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
    assert resume(spec(groups), ledger).tried == known.tried
    for other in (spec({"model.groups": {"choice": [1, 2]}}), spec(groups, base="paper")):
        with pytest.raises(ValueError, match="another base or other ranges"):
            resume(other, ledger)


def test_what_failed_is_not_known_and_tried_again(tmp_path: Path) -> None:
    ledger, sweep = Ledger(tmp_path), spec({"model.groups": {"choice": [1, 64]}})
    fresh = resume(sweep, ledger)
    good, bad = tried(0.5, model__groups=1), tried(0.0, "failed", model__groups=64)
    fresh.with_tried([good, bad]).write(results_path(ledger, "look"))
    assert resume(sweep, ledger).tried == (good,)
    assert kept(sweep, ledger).open == (bad,)


def test_what_other_code_made_is_no_part_of_a_search_unless_it_is_accepted(watch: SearchWatch) -> None:
    for outcome in ("finished", "running"):
        key = watch.key_of({"model.groups": 2})
        watch.started(key)
        config = watch.configs[key]
        assert config is not None and watch.results.tried[-1].outcome == "running" and len(watch.results.tried) == 1
        provenance = Provenance(
            data_fingerprint="d", image_sizes="", git_commit=None, versions={}, device="cpu", threads=1, code="0" * 16
        )
        record = TrainingRecord(format=FORMAT, key=key, config=config, outcome="finished", provenance=provenance)
        watch.ledger.write_training(record)
        if outcome == "finished":
            watch.ended(key, None)
            assert watch.results.tried[-1].outcome == "failed"
        known = kept(watch.spec, watch.ledger)
        assert [each.values for each in known.open] == [{"model.groups": 2}] and not resume(
            watch.spec, watch.ledger
        ).tried
        with pytest.raises(ValueError, match="was made by other code .* --accept-stale"):
            check_fresh(known, watch.ledger, Today())
        check_fresh(known, watch.ledger, Today(accept_stale=True))
        watch.results = watch.results.with_tried(())


def test_what_was_open_stays_open_until_it_is_tried_again(watch: SearchWatch) -> None:
    values = [{"model.groups": 1, "episodes.queries": queries} for queries in (2, 4, 8)]
    first, second, third = (watch.key_of(each) for each in values)
    watch.results = watch.results.with_tried(
        Tried(values=each, key=watch.key_of(each), accuracy=0.0, epochs=1, outcome=outcome)
        for each, outcome in zip(values, ("failed", "failed", "running"), strict=True)
    )
    watch.started(second)
    known = kept(watch.spec, watch.ledger)
    assert {each.key: each.outcome for each in known.open} == {first: "failed", second: "running", third: "running"}
    watch.ended(second, None)
    assert {each.key for each in kept(watch.spec, watch.ledger).open} == {first, third}


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[SearchWatch]:
    """The watch of a search in an empty store, with its mirror."""
    ledger, sweep = Ledger(tmp_path), spec({"model.groups": {"int": [1, 2]}, "episodes.queries": {"int": [1, 5000]}})
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    tracker = Tracker(tracking_uri(tmp_path, None), ledger, plan(sweep), {})
    with Progress("look", Console(file=StringIO())) as progress:
        yield SearchWatch(sweep, kept(sweep, ledger), ledger, tracker, Signals(), progress, Today())
    assert tracker.stop("FAILED") is None


def test_a_trial_of_a_search_that_lost_its_worker_is_on_record(watch: SearchWatch) -> None:
    for reason in ("the worker died", "it died again"):
        watch.key_of({"model.groups": 2})
        watch.before.update({key: watch.ledger.training(key) for key in watch.before})
        (key,) = watch.values
        watch.started(key)
        watch.ended(key, Failure(reason=reason, kind="machine"))
        record = watch.ledger.training(key)
        assert record is not None and record.failure is not None and record.failure.reason == reason
        assert watch.results.tried[-1].outcome == "failed"


def test_an_impossible_proposal_counts_as_tried_and_trains_nothing(watch: SearchWatch) -> None:
    key = watch.key_of({"model.groups": 3})
    watch.started(key)
    watch.ended(key, Failure(reason="ValueError: groups=3 does not divide"))
    (only,) = resume(watch.spec, watch.ledger).tried
    assert (only.outcome, only.accuracy, only.epochs) == ("impossible", 0.0, 0)
    assert watch.ledger.training(key) is None and watch.tracker.runs.children == {}


def test_a_conflict_is_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = tmp_path / "look.yaml", tmp_path / "runs"
    path.write_text(YAML)
    mine = spec_from(yaml.safe_load(YAML))
    results = resume(mine, Ledger(store)).with_tried([tried(0.5, model__groups=1)])
    results.write(results_path(Ledger(store), "look"))
    assert main([str(path), "--store", str(store), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "1 tried, 3 to try" in said and "50.00 %" in said and "groups=1" in said
    for more in (["--plan"], []):
        assert main([str(path), "--store", str(store), "base=paper", *more]) == 2
        assert "another base or other ranges" in capsys.readouterr().err
    assert not (store / "sweeps" / "look" / "plan.json").exists() and not (store / "mlflow.db").exists()


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
