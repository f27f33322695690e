"""Sweeps that keep only records: weights are deleted once everything is tested, and later tests are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmf import evaluate
from dmf.evaluation.evaluate import evaluate_folder
from dmf.records.records import BEST, EvaluationRecord
from dmf.records.staleness import Today
from orchestrator import status
from orchestrator.running.trial import run_trial
from orchestrator.spec.file import spec_from
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import standing
from tests.sites import Site
from tests.test_sweep import SPEC
from tests.test_trial import CONFIG, TEST

MORE = TEST.replace(episodes=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with CONFIG trained and tested, and its weights deleted."""
    store = tmp_path_factory.mktemp("store")
    run_trial(CONFIG, (TEST,), store, keep_weights=False)
    return store


def test_only_records_are_kept(store: Path) -> None:
    assert list(store.rglob("*.safetensors")) == []
    assert Ledger(store).state(Trial(CONFIG, (TEST,))) == "done"
    run_trial(CONFIG, (TEST,), store, keep_weights=False)
    assert standing(Trial(CONFIG, (TEST,)), Ledger(store), Today()).state == "done"


def test_another_test_is_refused_with_what_to_do(store: Path) -> None:
    ledger = Ledger(store)
    with pytest.raises(ValueError, match="weights were not kept .*; remove its folder .* to train it anew"):
        run_trial(CONFIG, (TEST, MORE), store)
    record = ledger.training(CONFIG.key)
    assert record is not None and record.outcome == "finished" and len(ledger.evaluations(CONFIG.key)) == 1
    stands = standing(Trial(CONFIG, (TEST, MORE)), ledger, Today())
    assert (stands.state, stands.runs, stands.ended) == ("no weights", False, False)
    assert stands.why.endswith("its weights were not kept; --retrain-lost puts it aside and retrains it")


def test_the_command_that_tests_says_the_same(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(Ledger(store).folder(CONFIG.key)), "--episodes", "3"]) == 2
    assert "its weights were not kept" in capsys.readouterr().err


def test_weights_stay_until_everything_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that is stopped before the second of two evaluations."""
    ledger = Ledger(tmp_path)

    def stopped(*arguments: Any) -> EvaluationRecord:
        if ledger.tested(CONFIG.key, TEST.key):
            raise KeyboardInterrupt
        return evaluate_folder(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("orchestrator.running.trial.evaluate_folder", stopped)
        run_trial(CONFIG, (TEST, MORE), tmp_path, keep_weights=False)
    assert (ledger.folder(CONFIG.key) / BEST).is_file() and ledger.tested(CONFIG.key, TEST.key)
    assert standing(Trial(CONFIG, (TEST, MORE)), ledger, Today()).state == "untested"
    run_trial(CONFIG, (TEST, MORE), tmp_path, keep_weights=False)
    assert not (ledger.folder(CONFIG.key) / BEST).exists() and ledger.tested(CONFIG.key, MORE.key)


def test_of_a_training_that_diverged_no_weights_stay(tmp_path: Path) -> None:
    config = CONFIG.replace(training__learning_rate=1e30, training__episodes_per_epoch=8)
    assert run_trial(config, (TEST,), tmp_path, keep_weights=False).outcome == "diverged"
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_sweep_keeps_records_only_and_tells_why_it_can_not_test_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(tmp_path, SPEC + "keep_weights: false\n")
    assert site.run() == 0, site.said
    trials = site.ledger.plan("tiny").trials()
    assert len(trials) == 3 and list(site.ledger.store.rglob("*.safetensors")) == []
    assert site.run("evaluation.episodes=5") == 1
    assert "3 trainings: 2 no weights, 1 diverged" in site.said
    assert f"{trials[0].key}: tests are missing, and its weights were not kept" in site.said
    assert "no weights: put them aside and retrain them with --retrain-lost" in site.said
    assert "Traceback" not in site.said
    assert status.main(["tiny", "--store", str(site.ledger.store)]) == 1
    assert "2 no weights, 1 diverged" in capsys.readouterr().out
    assert site.run() == 0, site.said
    assert site.run("evaluation.episodes=5", "--retrain-lost") == 0, site.said
    assert len(list((site.ledger.store / "superseded").iterdir())) == 2


def test_a_search_can_not_do_without_weights() -> None:
    search = {"trials": 2, "parameters": {"model.groups": {"choice": [1, 64]}}}
    with pytest.raises(ValueError, match="keeps all weights, .*; remove keep_weights"):
        spec_from({"name": "look", "keep_weights": False, "search": search})
