"""The index of the records: it saves reading them, and always agrees with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records import facts
from dmf.records.records import FORMAT, EvaluationRecord, TrainingRecord
from dmf.values import Value
from orchestrator.report import main
from orchestrator.spec.plan import Trial
from orchestrator.store import index
from orchestrator.store.ledger import Ledger
from reports.statistics.cells import mean_ci95
from tests.test_report import demo, records_of

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ExperimentConfig()
TEST = EvaluationConfig(episodes=4, shot=1)
LONG_AGO = 10**18
"""A modification time in nanoseconds; a file older than `SETTLED_NS` gets a row."""
TRAINING = f"trainings/{CONFIG.key}/training.json"
EVALUATION = f"trainings/{CONFIG.key}/evaluations/{TEST.key}.json"


def evaluated(accuracies: tuple[float, ...]) -> EvaluationRecord:
    accuracy, ci95 = mean_ci95(accuracies)
    return EvaluationRecord(
        format=FORMAT,
        training_key=CONFIG.key,
        evaluation_key=TEST.key,
        config=TEST,
        accuracy=accuracy,
        ci95=ci95,
        episode_accuracies=accuracies,
        bank="b",
        data_fingerprint="d" * 64,
        epoch=1,
        seconds=1.0,
        code="c",
    )


def write(path: Path, record: Value, modified_ns: int = LONG_AGO) -> None:
    record.write(path)
    os.utime(path, ns=(modified_ns, modified_ns))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """One training and one evaluation, written long ago and in the index."""
    ledger = Ledger(tmp_path)
    ended = TrainingRecord(
        format=FORMAT, key=CONFIG.key, config=CONFIG, outcome="finished", seconds=7.0, best_validation_accuracy=0.5
    )
    write(tmp_path / TRAINING, ended)
    write(tmp_path / EVALUATION, evaluated((0.2, 0.4, 0.4, 1 / 3)))
    assert ended_and_tested(ledger) == (7.0, [0.2, 0.4, 0.4, 1 / 3])
    ledger.index._rows.flush()
    assert rows(tmp_path) == {TRAINING, EVALUATION}
    return Ledger(tmp_path)


def ended_and_tested(ledger: Ledger) -> tuple[float, list[float]]:
    ended, tested = ledger.how_ended(CONFIG.key), ledger.how_tested(CONFIG.key, TEST.key)
    assert ended is not None and tested is not None
    return ended.seconds, tested.accuracies.tolist()


def rows(store: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(store / index.FILE)) as database:
        return {name for (name,) in database.execute("select name from records")}


def unreadable(store: Path) -> None:
    """Other contents with the same size and time: shows whether a file is read again."""
    for name in (TRAINING, EVALUATION):
        path = store / name
        path.write_bytes(b"?" * path.stat().st_size)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


def test_what_is_in_the_index_is_not_read_from_its_file(ledger: Ledger) -> None:
    fresh = Ledger(ledger.store)
    tested = fresh.how_tested(CONFIG.key, TEST.key)
    unreadable(ledger.store)
    assert ended_and_tested(ledger) == (7.0, [0.2, 0.4, 0.4, 1 / 3])
    ended = ledger.how_ended(CONFIG.key)
    assert ended and (ended.outcome, ended.best_validation_accuracy, ended.data_root) == ("finished", 0.5, None)
    made, again = ledger.evaluation_made_by(CONFIG.key, TEST.key), ledger.how_tested(CONFIG.key, TEST.key)
    assert made and (made.code, made.data_fingerprint) == ("c", "d" * 64)
    assert tested and again and np.array_equal(tested.accuracies, again.accuracies)
    assert (again.name, again.config_key, again.ci95) == (f"{CONFIG.key}/{TEST.key}", TEST.key, tested.ci95)


def test_a_row_has_the_sums_per_class(ledger: Ledger) -> None:
    record = evaluated((0.2, 0.4, 0.4, 1 / 3)).replace(
        episode_accuracies=(), classes=8, correct=((3, 3, 3, 3, 3), (6,) * 5, (10, 5, 5, 5, 5), (15, 5, 5, 0, 0))
    )
    write(ledger.store / EVALUATION, record)
    expected = facts.Tested.of(record)
    assert len(expected.class_sums) == 8 and sum(expected.class_sums) == 5 * (15 + 30 + 30 + 25)
    assert ledger.how_tested(CONFIG.key, TEST.key).class_sums == expected.class_sums
    ledger.index._rows.flush()
    unreadable(ledger.store)
    assert Ledger(ledger.store).how_tested(CONFIG.key, TEST.key).class_sums == expected.class_sums


def test_without_its_file_a_row_does_not_count(ledger: Ledger) -> None:
    (ledger.store / EVALUATION).unlink()
    assert ledger.how_tested(CONFIG.key, TEST.key) is None and ledger.evaluation_made_by(CONFIG.key, TEST.key) is None
    shutil.rmtree(ledger.folder(CONFIG.key))
    assert ledger.how_ended(CONFIG.key) is None


@pytest.mark.parametrize("later_ns", [1, 999_999_999, -1])
def test_a_file_that_was_replaced_is_read_again(ledger: Ledger, later_ns: int) -> None:
    before = (ledger.store / EVALUATION).stat().st_size
    write(ledger.store / EVALUATION, evaluated((0.4, 0.2, 0.4, 1 / 3)), LONG_AGO + later_ns)
    assert (ledger.store / EVALUATION).stat().st_size == before, "the size alone would not tell"
    assert ended_and_tested(ledger)[1] == [0.4, 0.2, 0.4, 1 / 3]
    ledger.index._rows.flush()
    assert ended_and_tested(Ledger(ledger.store))[1] == [0.4, 0.2, 0.4, 1 / 3]


def test_a_file_of_another_size_is_read_again(ledger: Ledger) -> None:
    write(ledger.store / EVALUATION, evaluated((0.5, 0.25, 0.5, 0.25)))
    assert ended_and_tested(ledger)[1] == [0.5, 0.25, 0.5, 0.25]


def test_what_has_just_been_written_gets_no_row(ledger: Ledger) -> None:
    """On a file system that counts in seconds, the second of two files could have the first's time and size."""
    now_ns = time.time_ns() // 10**9 * 10**9
    for accuracies in ((0.6, 0.2, 0.4, 1 / 3), (0.2, 0.6, 0.4, 1 / 3)):
        write(ledger.store / EVALUATION, evaluated(accuracies), now_ns)
        assert ended_and_tested(ledger)[1] == list(accuracies)
        ledger.index._rows.flush()


def test_a_half_written_record_is_an_error_and_gets_no_row(ledger: Ledger) -> None:
    path = ledger.store / EVALUATION
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    os.utime(path, ns=(LONG_AGO + 1, LONG_AGO + 1))
    for _ in range(2):
        with pytest.raises(ValueError, match=str(path)):
            ledger.how_tested(CONFIG.key, TEST.key)
    path.write_bytes(whole)
    assert ended_and_tested(ledger)[1] == [0.2, 0.4, 0.4, 1 / 3]


def foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(
            "create table records (id integer primary key autoincrement, name text); create view seen as select 1;"
            "insert into records (name) values ('a')"
        )


BROKEN = {
    "no database": lambda path: path.write_text("no database at all, " * 1000),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "header only": lambda path: path.write_bytes(path.read_bytes()[:100] + b"\xff" * 9000),
    "foreign": foreign,
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_or_foreign_index_is_made_again(ledger: Ledger, broken: str) -> None:
    BROKEN[broken](ledger.store / index.FILE)
    for _ in range(2):
        again = Ledger(ledger.store)
        assert ended_and_tested(again) == (7.0, [0.2, 0.4, 0.4, 1 / 3])
        again.index._rows.flush()
    # Zeros at the end of a file that was cut off can read as a row without a name, which stands for no file.
    assert rows(ledger.store) - {None} == {TRAINING, EVALUATION}


@pytest.mark.parametrize("many", [1, 500])
@pytest.mark.parametrize(
    ("there", "damaged"),
    [
        (np.array([0.4]).tobytes(), np.array([0.9]).tobytes()),
        (b'"seconds":7.0', b'"seconds":8.0'),
        (b'"outcome":"finished"', b'"outcome":"\xff\xff\xff\xff\xff\xff\xff\xff"'),
    ],
)
def test_a_row_that_was_damaged_on_the_disk_is_not_believed(
    ledger: Ledger, there: bytes, damaged: bytes, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MANY", many)
    path = ledger.store / index.FILE
    assert path.read_bytes().count(there) == 1 and len(there) == len(damaged)
    path.write_bytes(path.read_bytes().replace(there, damaged))
    assert ended_and_tested(ledger) == (7.0, [0.2, 0.4, 0.4, 1 / 3])
    ledger.index._rows.flush()
    unreadable(ledger.store)
    assert ended_and_tested(Ledger(ledger.store)) == (7.0, [0.2, 0.4, 0.4, 1 / 3]), "the row was made again"


@pytest.mark.parametrize("column", ["levels", "places", "value", "seal", "size"])
def test_a_row_of_other_kinds_of_values_is_not_believed(ledger: Ledger, column: str) -> None:
    with contextlib.closing(sqlite3.connect(ledger.store / index.FILE)) as database, database:
        database.execute(f"update records set {column} = null")
    assert ended_and_tested(ledger) == (7.0, [0.2, 0.4, 0.4, 1 / 3])


def test_many_rows_are_read_at_once_and_say_the_same(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MANY", 3)
    unreadable(ledger.store)
    for _ in range(3):
        assert ended_and_tested(ledger) == (7.0, [0.2, 0.4, 0.4, 1 / 3])
    write(ledger.store / EVALUATION, evaluated((0.1, 0.2, 0.3, 0.4)), LONG_AGO + 5)
    for _ in range(2):
        assert ended_and_tested(ledger)[1] == [0.1, 0.2, 0.3, 0.4]
        ledger.index._rows.flush()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run without root's right to write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("has_index", [True, False])
def test_a_store_that_can_not_be_written_is_read(ledger: Ledger, has_index: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        store = Path(place, "store")
        shutil.copytree(ledger.store, store)
        if not has_index:
            (store / index.FILE).unlink()
        write(store / EVALUATION, evaluated((0.1, 0.2, 0.3, 0.4)), LONG_AGO + 5)
        for path in [Path(place), store, *store.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = sorted(store.rglob("*"))
        with unprivileged():
            reader = Ledger(store)
            for _ in range(2):
                assert ended_and_tested(reader) == (7.0, [0.1, 0.2, 0.3, 0.4])
                reader.index._rows.flush()
        assert sorted(store.rglob("*")) == before
        for path in [Path(place), store, *(path for path in store.rglob("*") if path.is_dir())]:
            path.chmod(0o755)


MANY_READ = """
import sys
from pathlib import Path
from orchestrator.store import index
from orchestrator.store.ledger import Ledger
index.ROWS_AT_ONCE = 2
ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for key in ledger.kept_keys():
    ended = ledger.how_ended(key)
    assert ended is not None and ended.seconds == int(key, 16), key
"""


def test_several_processes_fill_one_index(tmp_path: Path) -> None:
    keys = [f"{number:016x}" for number in range(100)]
    for number, key in enumerate(keys):
        record = TrainingRecord(format=FORMAT, key=key, config=CONFIG, outcome="finished", seconds=float(number))
        write(tmp_path / "trainings" / key / "training.json", record)
    command = [sys.executable, "-c", MANY_READ, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert rows(tmp_path) == {f"trainings/{key}/training.json" for key in keys}


def test_a_report_is_the_same_with_and_without_the_index(tmp_path: Path) -> None:
    ledger, plan = Ledger(tmp_path / "runs"), demo()
    ledger.write_plan(plan)
    kept = records_of(plan.cells[:-1])
    for training in kept.trainings.values():
        write(ledger.folder(training.key) / "training.json", training)
    for (key, asked), evaluation in kept.evaluations.items():
        write(ledger.folder(key) / "evaluations" / f"{asked}.json", evaluation)
    found = []
    for output in ("without", "adding", "with"):
        if output == "without":
            (ledger.store / index.FILE).mkdir()  # can be neither read nor written
        arguments = ["demo", "--store", str(ledger.store), "--output", str(tmp_path / output), "--accept-stale"]
        assert main(arguments) == 0
        files = sorted((tmp_path / output).rglob("[!.]*.*"))
        found.append({path.name: path.read_bytes() for path in files})
        if output == "without":
            (ledger.store / index.FILE).rmdir()
    assert len(found[0]) == 16 and found[0] == found[1] == found[2]
    assert len(rows(ledger.store)) == len(kept.trainings) + len(kept.evaluations)


@pytest.mark.parametrize("levels", [1, 256, 257, 70_000])
def test_accuracies_come_back_bit_by_bit_however_many_differ(tmp_path: Path, levels: int) -> None:
    values = tuple(np.random.default_rng(levels).permutation(np.arange(levels) / levels).tolist())
    write(tmp_path / EVALUATION, evaluated(values))
    for _ in range(2):
        ledger = Ledger(tmp_path)
        tested = ledger.how_tested(CONFIG.key, TEST.key)
        assert tested is not None and tuple(tested.accuracies.tolist()) == values
        ledger.index._rows.flush()
    assert rows(tmp_path) == {EVALUATION}


def test_a_sweep_adds_a_training_once_its_files_have_settled(tmp_path: Path) -> None:
    ledger, trial = Ledger(tmp_path), Trial(CONFIG, (TEST,))
    write(tmp_path / TRAINING, TrainingRecord(format=FORMAT, key=CONFIG.key, config=CONFIG, outcome="finished"))
    write(tmp_path / EVALUATION, evaluated((0.1, 0.2, 0.3, 0.4)), time.time_ns())
    assert not ledger.indexed(trial)
    os.utime(tmp_path / EVALUATION, ns=(LONG_AGO, LONG_AGO))
    assert ledger.indexed(trial)
    ledger.index._rows.flush()
    assert rows(tmp_path) == {TRAINING, EVALUATION}
    assert ledger.indexed(Trial(CONFIG.replace(training__seed=9), (TEST,))), "of one that left nothing there is no row"
