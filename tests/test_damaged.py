"""Damaged records, checkpoints and weights: each is a state of its training, and everything else goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dmf.evaluation.partial import Identity, PartialResults, Result
from dmf.records.checkpoints import read_checkpoint, read_state_of
from dmf.records.facts import Curves, Ended
from dmf.records.records import (
    BEST,
    DAMAGED_BEST,
    EVALUATIONS,
    LAST,
    RECORD,
    Epoch,
    Failure,
    Going,
    TrainingRecord,
)
from dmf.records.staleness import Today
from dmf.values import Damaged, unsealed
from orchestrator import report, status, sync
from orchestrator.costs.rates import Calibration, calibration_path
from orchestrator.running.trial import DamagedStage, run_trial
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import standing
from tests.sites import Site, empty_database, learnt, unchecked
from tests.test_image_cache import flip
from tests.test_stages import SWEEP as STAGES
from tests.test_stages import configs
from tests.test_sweep import SPEC
from tests.test_trial import CONFIG, TEST

TRIAL = Trial(CONFIG, (TEST,))
MORE = TEST.replace(episodes=3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with CONFIG trained and tested."""
    store = tmp_path_factory.mktemp("undisturbed")
    run_trial(CONFIG, (TEST,), store)
    return store


@pytest.fixture
def store(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(undisturbed, tmp_path / "store")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep of three trainings, the last of which diverged."""
    site = Site(tmp_path_factory.mktemp("swept"), SPEC)
    assert site.run() == 0, site.said
    return site.folder


@pytest.fixture
def site(swept: Path, tmp_path: Path) -> Site:
    """A copy of it, with a new MLflow database."""
    shutil.copytree(swept, tmp_path / "site")
    (tmp_path / "site" / "runs" / "mlflow.db").write_bytes(empty_database())
    shutil.rmtree(tmp_path / "site" / "runs" / "artifacts")
    return at(tmp_path / "site")


def at(folder: Path) -> Site:
    """The folder of an earlier `Site`."""
    site = Site.__new__(Site)
    site.folder, site.ledger, site.spec = folder, Ledger(folder / "runs"), folder / "tiny.yaml"
    site.output, site.paths = folder / "output.txt", ()
    return site


def started(store: Path) -> Ledger:
    """A store where CONFIG was stopped after its second epoch."""

    def stop(epoch: object) -> None:
        if read_state_of(Going, Ledger(store).folder(CONFIG.key) / LAST).history[-1].epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(CONFIG, (TEST,), store, stop)
    return Ledger(store)


@pytest.mark.parametrize("where", ["a weight", "the state", "the header's length", "the end"])
def test_a_bit_flipped_in_a_checkpoint_costs_the_epochs_and_not_the_result(
    where: str, tmp_path: Path, undisturbed: Path
) -> None:
    ledger = started(tmp_path)
    path = ledger.folder(CONFIG.key) / LAST
    data = path.read_bytes()
    if where == "the end":
        os.truncate(path, len(data) - 1)
    else:
        flip(
            path,
            {"a weight": len(data) - 8, "the state": data.index(b"learning_rate") + 18, "the header's length": 1}[
                where
            ],
        )
    with pytest.raises(Damaged, match=f"{LAST} is (damaged|not a)"):
        read_checkpoint(path)
    stands = standing(TRIAL, ledger, Today())
    assert stands.runs and stands.state == ("started" if where == "a weight" else "damaged")
    seen: list[int] = []
    record = run_trial(CONFIG, (TEST,), tmp_path, lambda epoch: seen.append(epoch.epoch))
    assert seen == [1, 2, 3] and learnt(record) == learnt(Ledger(undisturbed).training(CONFIG.key))
    assert "the training starts from its beginning" in (path.parent / "log.txt").read_text()


@pytest.mark.parametrize("when", ["while it trains", "between two starts"])
def test_damaged_best_weights_of_a_training_that_goes_on_start_it_again(
    when: str, tmp_path: Path, undisturbed: Path
) -> None:
    seen: list[int] = []
    best = Ledger(tmp_path).folder(CONFIG.key) / BEST

    def on_epoch(epoch: Epoch) -> None:
        seen.append(epoch.epoch)
        if when == "while it trains" and len(seen) == CONFIG.training.epochs:
            truncated(best)

    if when == "between two starts":
        started(tmp_path)
        flip(best, -5)
    record = run_trial(CONFIG, (TEST,), tmp_path, on_epoch)
    assert seen == ([1, 2, 3, 1, 2, 3] if when == "while it trains" else [1, 2, 3])
    expected = Ledger(undisturbed)
    assert learnt(record) == learnt(expected.training(CONFIG.key))
    tests = (ledger.evaluation(CONFIG.key, TEST.key) for ledger in (Ledger(tmp_path), expected))
    assert len({test.correct for test in tests if test}) == 1


def test_damaged_weights_are_not_tested_but_put_aside_until_they_are_made_again(store: Path) -> None:
    ledger = Ledger(store)
    flip(ledger.folder(CONFIG.key) / BEST, -5)
    assert standing(TRIAL, ledger, Today()).state == "done", "its test was made before"
    with pytest.raises(Damaged, match="best weights are damaged .* --retrain-damaged"):
        run_trial(CONFIG, (TEST, MORE), store)
    assert (ledger.folder(CONFIG.key) / DAMAGED_BEST).is_file() and not ledger.has_weights(CONFIG.key)
    stands = standing(Trial(CONFIG, (TEST, MORE)), ledger, Today())
    assert (stands.state, stands.runs) == ("damaged", False) and "--retrain-damaged" in stands.why
    assert standing(TRIAL, ledger, Today()).state == "done"
    with pytest.raises(ValueError, match="best weights are damaged"):
        run_trial(CONFIG, (TEST, MORE), store)


def test_whole_weights_of_another_training_s_end_are_not_tested(store: Path, tmp_path: Path) -> None:
    other = CONFIG.replace(training__seed=1)
    run_trial(other, (), tmp_path / "other")
    ledger = Ledger(store)
    record = ledger.training(CONFIG.key)
    assert record is not None
    ledger.write_training(record.replace(weights="0" * 64))
    with pytest.raises(ValueError, match="has other weights"):
        run_trial(CONFIG, (TEST, MORE), store)


def test_a_stage_with_damaged_weights_keeps_others_from_starting_until_it_is_made_again(place: Path) -> None:
    (place / "tiny.yaml").write_text(STAGES)
    config = configs()["proto_net"]
    stage = config.stage
    assert stage is not None
    ledger = Ledger(place / "runs")
    run_trial(stage, (), ledger.store)
    flip(ledger.folder(stage.key) / BEST, -5)
    with pytest.raises(DamagedStage, match=f"training {stage.key} has ended and its best weights are damaged"):
        run_trial(config, (), ledger.store)
    assert ledger.training(config.key) is None, "it has not failed itself"
    today = Today()
    assert standing(Trial(stage, (), starts_others=True), ledger, today).state == "damaged"
    stands = standing(Trial(config, ()), ledger, today)
    assert stands.state == "blocked" and f"its pre-training {stage.key} is damaged" in stands.why
    site = at(place)
    assert site.run() == 1 and "1 damaged, 3 blocked" in site.said
    assert site.run("--retrain-damaged") == 0, site.said
    assert "4 trainings: 4 done" in site.said


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def of_another(path: Path) -> None:
    path.write_text(json.dumps(unchecked(path) | {"key": "0" * 16}))


def a_digit(path: Path) -> None:
    """A flipped bit that leaves a valid record."""
    data = path.read_bytes()
    place = re.search(rb'"seconds": \d+\.\d', data)
    assert place is not None
    at = place.end() - 1
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert json.loads(path.read_bytes()) != json.loads(data)


def a_folder(path: Path) -> None:
    """Cannot be read, as with an I/O error."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncated, emptied, a_folder, a_digit])
@pytest.mark.parametrize("what", [RECORD, EVALUATIONS])
def test_one_damaged_record_is_told_by_every_command_and_stops_none(
    what: str, damage: Callable[[Path], None], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = site.trials()
    folder = site.ledger.folder(first.key)
    damage(folder / RECORD if what == RECORD else next(folder.glob(f"{EVALUATIONS}/*.json")))
    store = str(site.ledger.store)

    assert site.command("--plan") == 0 and "1 damaged" in site.said and "3 evaluations, 1 done" in site.said
    assert "--retrain-damaged puts them aside" in site.said
    assert status.main(["tiny.yaml", "--store", store][1:]) == 1
    assert "1 damaged, 1 diverged, 1 done" in capsys.readouterr().out
    assert status.main([first.key, "--store", store]) == 1
    assert "damaged: " in capsys.readouterr().out
    assert report.main(["--store", store, "--output", str(site.folder / "out")]) == 0
    assert "damaged" in (site.folder / "out" / "tiny" / "table_2c.csv").read_text()
    assert sync.main(["--store", store]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert site.run("--only", second.key) == 0, site.said
    assert site.run() == 1
    assert "3 trainings, 2 done, 0 to run, 1 left as they are" in site.said and "1 damaged" in site.said
    assert f"damaged: {folder}: " in site.said and "Traceback" not in site.said
    before = learnt(site.ledger.training(second.key))
    assert site.run("--retrain-stale") == 1
    assert site.run("--retrain-damaged") == 0, site.said
    assert f"{first.key}: moved to {site.ledger.store / 'superseded'}" in site.said
    assert [standing(trial, site.ledger, Today()).state for trial in site.trials()] == ["done", "done", "diverged"]
    assert learnt(site.ledger.training(second.key)) == before
    assert site.statuses()[first.key] == "FINISHED"


def test_a_record_of_another_training_is_damaged_too(site: Site) -> None:
    first = site.trials()[0]
    of_another(site.ledger.folder(first.key) / RECORD)
    with pytest.raises(Damaged, match="belongs to training 0"):
        site.ledger.training(first.key)


def test_every_bit_of_a_record_is_covered(undisturbed: Path, tmp_path: Path) -> None:
    """Of a short record, each one."""
    failure = Failure(reason="as it was", kind="machine")
    TrainingRecord(format=2, key=CONFIG.key, config=CONFIG, outcome="failed", failure=failure).write(tmp_path / "r")
    written = (tmp_path / "r").read_bytes()
    for kind in (TrainingRecord, Ended, Curves):
        for bit in range(8 * len(written)) if kind is Ended else range(8 * len(written) - 1000, 8 * len(written)):
            data = bytearray(written)
            data[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ValueError):
                kind.model_validate_json(unsealed(bytes(data), "it"))
        assert kind.model_validate_json(unsealed(written, "it"))


def test_records_without_a_checksum_are_read_as_they_were(undisturbed: Path, tmp_path: Path) -> None:
    ledger = Ledger(shutil.copytree(undisturbed, tmp_path / "store"))
    before = ledger.training(CONFIG.key), ledger.evaluation(CONFIG.key, TEST.key)
    for path in (ledger.folder(CONFIG.key) / RECORD, *ledger.folder(CONFIG.key).glob(f"{EVALUATIONS}/*.json")):
        assert path.read_text().rstrip("}\n").endswith('"') and "sha256" in path.read_text()[-90:]
        path.write_text(json.dumps(unchecked(path), indent=1) + "\n")
    assert (ledger.training(CONFIG.key), ledger.evaluation(CONFIG.key, TEST.key)) == before
    assert standing(TRIAL, ledger, Today()).state == "done"


def test_a_damaged_plan_is_left_out_and_written_again(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    plan = site.ledger.sweep_folder("tiny") / "plan.json"
    text = plan.read_text()
    truncated(plan)
    assert status.main(["--store", str(site.ledger.store)]) == 2
    assert "no sweep was started" in capsys.readouterr().err
    assert site.run() == 0, site.said
    assert plan.read_text() == text


def test_a_damaged_calibration_is_no_calibration(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    calibration_path(site.ledger.store).write_text("{")
    assert Calibration.of(site.ledger.store) == Calibration()
    assert "no calibration is used, measure again" in caplog.text
    assert site.command("--plan") == 0


def test_damaged_records_in_mlflow_leave_the_other_cells(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main(["--store", str(site.ledger.store)]) == 0
    shutil.move(site.ledger.store / "mlflow.db", site.folder / "mlflow.db")  # so that no store lies beside it
    first = site.trials()[0]
    paths = [path for path in site.ledger.store.rglob("artifacts/**/training.json") if first.key in path.read_text()]
    for path in paths:
        truncated(path)
    capsys.readouterr()
    out = site.folder / "out"
    assert report.main(["--tracking-uri", f"sqlite:///{site.folder}/mlflow.db", "--output", str(out)]) == 0
    said = (out / "tiny" / "table_2c.md").read_text()
    assert "damaged" in said and "done" in said.lower()


def test_partial_results_end_before_a_damaged_line(tmp_path: Path) -> None:
    identity = Identity(training_key="t", evaluation_key="e", weights="w", bank="b", data_fingerprint="d", code="c")
    partial = PartialResults(tmp_path / "e.partial", identity)
    answers = ((1, 2, 0), (2, 2, 1), (0, 0, 1))
    results = [
        Result(episode=n, correct=each, counts={}, seconds=1.0, cpu_seconds=1.0) for n, each in enumerate(answers)
    ]
    partial.begin()
    partial.add(results)
    assert list(partial.read().values()) == results
    flip(partial.path, partial.path.read_bytes().index(b"[2,2,1]") + 1)
    assert list(partial.read().values()) == results[:1]
    partial.begin()
    partial.add(results[1:])
    os.truncate(partial.path, partial.path.stat().st_size - 3)
    assert list(partial.read().values()) == results[:2]
