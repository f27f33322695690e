"""One trial on the embedded glyphs: completed from wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmf.config import DataConfig, EvaluationConfig, ExperimentConfig
from dmf.data.sets import DataSet, _opened, images_of, open_data
from dmf.records.records import Epoch
from orchestrator.running.trial import run_trial
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger

TINY = {
    "data.name": "glyphs",
    "data.image_size": 28,
    "data.channels": 1,
    "data.normalisation": "half",
    "model.backbone": "conv64f",
    "episodes.queries": 2,
    "training.epochs": 3,
    "training.warmup_epochs": 0,
    "training.episodes_per_epoch": 2,
    "training.episodes_per_step": 1,
    "training.validation_episodes": 2,
    "training.device": "cpu",
}
CONFIG = ExperimentConfig().with_paths(TINY)
TEST = EvaluationConfig(episodes=2, shot=1, queries=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with CONFIG trained and tested."""
    store = tmp_path_factory.mktemp("store")
    run_trial(CONFIG, (TEST,), store)
    return store


def test_a_trial_leaves_its_records_and_its_log(store: Path) -> None:
    ledger = Ledger(store)
    assert ledger.state(Trial(CONFIG, (TEST,))) == "done"
    record = ledger.training(CONFIG.key)
    assert record is not None and [epoch.epoch for epoch in record.history] == [1, 2, 3]
    test = ledger.evaluation(CONFIG.key, TEST.key)
    assert test is not None and len(test.correct) == TEST.episodes
    assert ExperimentConfig.read(ledger.folder(CONFIG.key) / "config.json") == CONFIG
    assert "glyphs" in (ledger.folder(CONFIG.key) / "log.txt").read_text()


def test_a_trial_that_is_done_trains_nothing_and_tests_only_what_is_new(store: Path) -> None:
    before = (Ledger(store).folder(CONFIG.key) / "training.json").stat().st_mtime_ns
    seen: list[Epoch] = []
    more = TEST.replace(episodes=3)
    run_trial(CONFIG, (TEST, more), store, seen.append)
    assert seen == []
    assert (Ledger(store).folder(CONFIG.key) / "training.json").stat().st_mtime_ns == before
    test = Ledger(store).evaluation(CONFIG.key, more.key)
    assert test is not None and len(test.correct) == 3


def test_a_checkpoint_that_a_kill_left_beside_the_record_goes(store: Path) -> None:
    left = Ledger(store).folder(CONFIG.key) / "last.safetensors"
    left.touch()
    run_trial(CONFIG, (TEST,), store)
    assert not left.exists() and Ledger(store).state(Trial(CONFIG, (TEST,))) == "done"


def test_an_exception_becomes_the_record_and_goes_up_and_the_next_start_goes_on(store: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop_after_two(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if epoch.epoch == 2:
            raise RuntimeError("the disk\nis full")

    with pytest.raises(RuntimeError, match="the disk"):
        run_trial(CONFIG, (TEST,), tmp_path, stop_after_two)
    failed = Ledger(tmp_path).training(CONFIG.key)
    assert failed is not None and failed.outcome == "failed" and failed.failure is not None
    assert failed.failure.reason == "RuntimeError: the disk is full"
    assert "stop_after_two" in failed.failure.traceback

    run_trial(CONFIG, (TEST,), tmp_path, lambda epoch: seen.append(epoch.epoch))
    assert seen == [1, 2, 3]
    whole, resumed = Ledger(store).training(CONFIG.key), Ledger(tmp_path).training(CONFIG.key)
    assert whole is not None and resumed is not None and resumed.outcome == "finished"
    assert [epoch.losses for epoch in resumed.history] == [epoch.losses for epoch in whole.history]


def test_one_that_diverges_has_a_record_and_is_not_tested(tmp_path: Path) -> None:
    config = CONFIG.replace(training__learning_rate=1e30, training__episodes_per_epoch=8)
    record = run_trial(config, (TEST,), tmp_path)
    assert record.outcome == "diverged" and record.failure is not None and record.failure.step is not None
    assert Ledger(tmp_path).state(Trial(config, (TEST,))) == "diverged"
    assert Ledger(tmp_path).evaluations(config.key) == ()


def test_images_that_are_not_there_are_a_failure_with_its_reason(tmp_path: Path) -> None:
    config = ExperimentConfig().replace(data__root=str(tmp_path / "nowhere"))
    with pytest.raises((ValueError, OSError)):
        run_trial(config, (TEST,), tmp_path / "store")
    record = Ledger(tmp_path / "store").training(config.key)
    assert record is not None and record.failure is not None and "nowhere" in record.failure.reason


def test_a_process_opens_a_data_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[DataConfig] = []

    def counted(config: DataConfig, full_size_training: bool) -> DataSet:
        opened.append(config)
        return open_data(config, full_size_training)

    monkeypatch.setattr("dmf.data.sets.open_data", counted)
    _opened.cache_clear()
    assert images_of(CONFIG) is images_of(CONFIG.replace(training__seed=1))
    assert len(opened) == 1
    turned = images_of(CONFIG.replace(data__rotations_as_classes=True))
    assert len(opened) == 2 and len(turned.train) == 4 * len(images_of(CONFIG).train)


def test_images_that_appear_later_are_found_by_the_next_trial(tmp_path: Path) -> None:
    config = ExperimentConfig().replace(data__root=str(tmp_path / "nowhere"), data__name="mine")
    for reason in ("nowhere", "found none of the known layouts"):
        with pytest.raises((ValueError, OSError), match=reason):
            images_of(config)
        (tmp_path / "nowhere").mkdir(exist_ok=True)


def test_tests_of_an_earlier_model_go_when_a_training_is_made_anew(tmp_path: Path) -> None:
    """Its record was damaged, and removed as the message says."""
    ledger = Ledger(tmp_path)
    run_trial(CONFIG, (TEST,), tmp_path)
    (before,) = ledger.evaluations(CONFIG.key)
    ledger.write_evaluation(before.replace(seconds=-1.0))
    (ledger.folder(CONFIG.key) / "training.json").unlink()
    run_trial(CONFIG, (TEST,), tmp_path)
    (after,) = ledger.evaluations(CONFIG.key)
    assert after.seconds > 0 and after.correct == before.correct
