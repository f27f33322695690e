"""The standing of trials: every state, and what makes a record stale."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.sets import images_of
from dmf.records import provenance
from dmf.records.records import FORMAT, LAST, EvaluationRecord, Failure, Provenance, TrainingRecord
from dmf.records.staleness import Today
from orchestrator.running.trial import run_trial
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import standing
from tests.records_in_memory import evaluation_of
from tests.test_trial import CONFIG, TEST

TRIAL = Trial(CONFIG, (TEST,))
CODE = provenance.code_hash(CONFIG, "cpu")


def other_code(config: ExperimentConfig) -> dict[str, str]:
    """A provenance with other code than today's."""
    return {"cpu": "0" * 16}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    run_trial(CONFIG, (TEST,), store)
    return store


def test_a_trial_of_today_is_done(store: Path) -> None:
    stands = standing(TRIAL, Ledger(store), Today())
    assert (stands.state, stands.ended, stands.runs) == ("done", True, False)


def test_what_other_code_made_is_stale_unless_it_is_accepted(store: Path) -> None:
    ledger = Ledger(store)
    stands = standing(TRIAL, ledger, Today(code=other_code))
    assert stands.state == "stale" and not stands.ended and not stands.runs
    assert stands.why == f"made by other code ({CODE}, today's is {'0' * 16})"
    assert standing(TRIAL, ledger, Today(accept_stale=True, code=other_code)).state == "done"


def test_what_was_made_from_other_images_is_stale(tmp_path: Path) -> None:
    ledger, today = Ledger(tmp_path), Today()
    here = images_of(CONFIG).fingerprint
    ledger.write_training(finished(CONFIG, CODE, here))
    ledger.write_evaluation(evaluated(CODE, "f" * 64))
    assert standing(TRIAL, ledger, today).why == f"made from other images (ffffffff, today's are {here[:8]})"
    ledger.write_evaluation(evaluated(CODE, here))
    assert standing(TRIAL, ledger, today).state == "done"


def test_images_that_are_not_here_are_not_held_against_a_record(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    config = CONFIG.replace(data__name="mine", data__root=str(tmp_path / "nowhere"))
    ledger.write_training(finished(config, CODE, "f" * 64))
    assert standing(Trial(config, ()), ledger, Today()).state == "done"


def test_a_record_of_code_that_nobody_noted_is_stale(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write_training(finished(CONFIG, "", images_of(CONFIG).fingerprint))
    assert standing(Trial(CONFIG, ()), ledger, Today()).why == "made by unknown code"


def test_a_training_begun_by_other_code_is_stale_and_goes_on_where_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(epoch: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("dmf.training.run.code_hash", lambda *_: "0" * 16)
        run_trial(CONFIG, (), tmp_path, stop)
    ledger = Ledger(tmp_path)
    assert (ledger.folder(CONFIG.key) / LAST).is_file()
    assert standing(TRIAL, ledger, Today()).state == "stale"
    assert standing(TRIAL, ledger, Today(accept_stale=True)).state == "started"
    record = run_trial(CONFIG, (TEST,), tmp_path)
    assert record.provenance is not None and record.provenance.code == f"{'0' * 16}+{CODE}"
    assert standing(TRIAL, ledger, Today()).state == "stale"


def test_a_failed_training_does_not_go_on_under_other_code_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(epoch: object) -> None:
        raise OSError(errno.EIO, "the disk answers no more")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr("dmf.training.run.code_hash", lambda *_: "0" * 16)
        run_trial(CONFIG, (), tmp_path, fail)
    ledger = Ledger(tmp_path)
    assert ledger.state(TRIAL) == "failed"
    assert standing(TRIAL, ledger, Today(code=other_code)).again
    stands = standing(TRIAL, ledger, Today())
    assert stands.state == "stale" and not stands.runs and stands.why.startswith(f"made by other code ({'0' * 16},")
    assert standing(TRIAL, ledger, Today(accept_stale=True)).again


@pytest.mark.parametrize(("kind", "again"), [("error", False), ("memory", False), ("machine", True), ("disk", True)])
def test_what_failed_is_tried_again_by_itself_only_where_a_machine_was_at_fault(
    kind: str, again: bool, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    failure = Failure(reason="why", kind=kind)  # type: ignore[arg-type]
    ledger.write_training(
        TrainingRecord(format=FORMAT, key=CONFIG.key, config=CONFIG, outcome="failed", failure=failure)
    )
    stands = standing(TRIAL, ledger, Today())
    assert (stands.state, stands.why, stands.again, stands.runs) == ("failed", "why", again, again)
    elsewhere = Trial(CONFIG.replace(data__root="/elsewhere"), (TEST,))
    assert standing(elsewhere, ledger, Today()).runs


def test_a_checkpoint_that_can_not_be_read_is_told_and_made_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    folder = ledger.folder(CONFIG.key)
    folder.mkdir(parents=True)
    (folder / LAST).write_bytes(b"cut off")
    stands = standing(TRIAL, ledger, Today())
    assert stands.state == "damaged" and stands.runs and "is not a readable checkpoint" in stands.why
    run_trial(CONFIG, (TEST,), tmp_path)
    assert standing(TRIAL, ledger, Today()).state == "done"


def test_a_training_put_aside_is_kept_whole(store: Path, tmp_path: Path) -> None:
    run_trial(CONFIG, (), tmp_path)
    ledger = Ledger(tmp_path)
    files = {path.name for path in ledger.folder(CONFIG.key).iterdir()}
    there = ledger.supersede(CONFIG.key)
    assert {path.name for path in there.iterdir()} == files and ledger.state(TRIAL) == "missing"
    assert ledger.kept_keys() == []


def test_a_training_at_work_is_not_put_aside(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.holding(CONFIG.key):
        for drop in (ledger.supersede, ledger.forget):
            with pytest.raises(ValueError, match="another process works in .* wait for it or end it"):
                drop(CONFIG.key)
    assert ledger.folder(CONFIG.key).is_dir()


def finished(config: ExperimentConfig, code: str, images: str) -> TrainingRecord:
    provenance = Provenance(
        data_fingerprint=images, image_sizes="", git_commit=None, versions={}, device="cpu", threads=1, code=code
    )
    return TrainingRecord(format=FORMAT, key=config.key, config=config, outcome="finished", provenance=provenance)


def evaluated(code: str, images: str, config: EvaluationConfig = TEST) -> EvaluationRecord:
    return evaluation_of(CONFIG.key, config, data_fingerprint=images, code=code)
