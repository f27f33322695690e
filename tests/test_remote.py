"""A store in an S3 server on this machine: uploads and downloads, and what a kill or an outage leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.sets import open_for
from dmf.records.checkpoints import read_checkpoint, write_checkpoint
from dmf.records.records import BEST, CONFIG, LAST, RECORD, STACKS, Epoch, Going, Kept, TrainingRecord
from dmf.records.staleness import Today
from dmf.training.run import close, train
from orchestrator.spec.plan import SweepPlan, Trial
from orchestrator.status import rows
from orchestrator.store.bucket import training as remote_training
from orchestrator.store.bucket.lease import DRIVER, Claim, Lease, LeaseLost
from orchestrator.store.bucket.mirror import EVERYTHING, GOING, RemoteStore
from orchestrator.store.bucket.objects import Found, Seen, _profile, sha256
from orchestrator.store.bucket.training import RemoteTraining, TakenOver
from orchestrator.store.ledger import BucketLedger, Ledger
from orchestrator.store.standing import standing
from reports.tables import PlannedCell
from tests.s3_server import ENVIRONMENT, Gate, free_port, s3_server, uri
from tests.test_trial import TINY

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 120
CONFIGURATION = ExperimentConfig().with_paths(TINY)
KEY = CONFIGURATION.key
UNDER = f"trainings/{KEY}"
TRAINING = """
import sys
from pathlib import Path
from dmf.config import ExperimentConfig
from dmf.data.sets import open_for
from dmf.training.run import train
from orchestrator.store.bucket.mirror import RemoteStore
from orchestrator.store.bucket.training import RemoteTraining

config = ExperimentConfig.read(sys.argv[1])
training = RemoteTraining(RemoteStore.at(sys.argv[2]), Path(sys.argv[3]), config.key)
training.fetch()
train(config, open_for(config), training.folder / training.under, lambda epoch: training.epoch())
"""
DRIVING = """
import sys, time
from orchestrator.store.bucket.mirror import RemoteStore

with RemoteStore.at(sys.argv[1]).lease(sys.argv[2], float(sys.argv[3])) as lease:
    print("has it", flush=True)
    while True:
        lease.check()
        time.sleep(0.1)
"""


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, _credentials: None) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture
def remote(port: int, tmp_path: Path) -> RemoteStore:
    """An empty store."""
    return RemoteStore.at(uri(port, tmp_path.name))


@pytest.fixture
def gate(port: int) -> Iterator[Callable[..., Gate]]:
    """Makes gates in front of the server."""
    gates: list[Gate] = []

    def make(pattern: bytes, into: int, cut: bool = False) -> Gate:
        gates.append(Gate(port, pattern, into, cut))
        return gates[-1]

    yield make
    for each in gates:
        each.close()


def write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def checkpoint(folder: Path, epochs: int) -> bytes:
    """Write a checkpoint after this many epochs; return its bytes."""
    history = tuple(Epoch(epoch=n + 1, loss=1.0, losses={}, learning_rate=0.1, seconds=1.0) for n in range(epochs))
    state = Going(key=KEY, threads=1, data="d", seconds=1.0, history=history, code="c")
    path = folder / UNDER / LAST
    write_checkpoint(path, {"model.weight": torch.full((3,), float(epochs))}, state.model_dump(mode="json"))
    return path.read_bytes()


def best_weights(folder: Path, epoch: int) -> None:
    state = Kept(key=KEY, epoch=epoch, data="d")
    write_checkpoint(folder / UNDER / BEST, {"model.weight": torch.ones(3)}, state.model_dump(mode="json"))


def files(folder: Path) -> dict[str, bytes]:
    """The files of a store's folder, without those that begin with a dot."""
    paths = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def contents(remote: RemoteStore, name: str) -> bytes:
    """Of an object that is there."""
    found = remote.find(name)
    assert found is not None
    return found.data


def start(script: str, *arguments: object, output: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    where = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stderr": subprocess.STDOUT}
    if output is None:
        return subprocess.Popen(command, stdout=subprocess.PIPE, **where)
    with open(output, "wb") as file:
        return subprocess.Popen(command, stdout=file, **where)


def test_what_is_brought_there_comes_back_and_only_once(remote: RemoteStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    given = {
        "sweeps/tiny/plan.json": b"{}",
        f"{UNDER}/log.txt": b"",
        f"{UNDER}/{LAST}": os.urandom(3_000_000),
        f"{UNDER}/evaluations/a.json": b"[1]",
        f"{UNDER}/{RECORD}": b"[2]",
    }
    for name, data in given.items():
        write(here, name, data)
    remote.push(here, list(given))
    assert remote.names().keys() == given.keys()
    assert remote.pull(there) == 3
    assert files(there) == {name: data for name, data in given.items() if name.endswith(".json")}
    assert remote.pull(there, UNDER, EVERYTHING) == 2
    assert files(there) == given
    before = {path: path.stat().st_mtime_ns for path in there.rglob("[!.]*")}
    assert remote.pull(there, suffixes=EVERYTHING) == 0
    assert {path: path.stat().st_mtime_ns for path in there.rglob("[!.]*")} == before


def test_what_changes_there_or_here_is_brought_again(remote: RemoteStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    names = [f"trainings/{letter}/{RECORD}" for letter in "abc"]
    for turn in range(20):  # of one size, and often within a second
        for name in names:
            write(here, name, b"%02d" % turn)
            remote.push(here, [name])
            remote.pull(there)
            assert files(there)[name] == b"%02d" % turn
    write(there, names[0], b"99")
    assert remote.pull(there) == 1
    assert files(there) == files(here)


def test_what_goes_there_goes_here_unless_it_is_ones_own(remote: RemoteStore, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    names = [f"{UNDER}/{name}" for name in (CONFIG, RECORD, LAST)] + ["trainings/other/training.json"]
    for name in names:
        write(here, name, b"[]")
    remote.push(here, names)
    remote.pull(there, suffixes=EVERYTHING)
    write(there, names[0], b"[1]")
    write(there, "sweeps/mine/plan.json", b"{}")
    remote.delete(names)
    remote.delete(names)
    assert remote.names() == {} and not [name for name in remote.listed() if LAST in name]
    remote.pull(there, UNDER)
    assert files(there).keys() == {names[0], names[2], names[3], "sweeps/mine/plan.json"}
    remote.pull(there, suffixes=EVERYTHING)
    assert files(there).keys() == {names[0], "sweeps/mine/plan.json"}


@pytest.mark.parametrize(("size", "pattern"), [(4_000_000, rb"PUT .*/last"), (25_000_000, rb"partNumber=2")])
def test_an_upload_killed_midway_leaves_the_former_file(
    remote: RemoteStore, gate: Callable[..., Gate], tmp_path: Path, size: int, pattern: bytes
) -> None:
    name = f"{UNDER}/{LAST}"
    former, newer = os.urandom(1000), os.urandom(size)
    write(tmp_path / "here", name, former)
    remote.push(tmp_path / "here", [name])
    write(tmp_path / "here", name, newer)
    held = gate(pattern, 100_000)
    script = "import sys; from pathlib import Path; from orchestrator.store.bucket.mirror import RemoteStore\n"
    script += "RemoteStore(sys.argv[1]).push(Path(sys.argv[2]), [sys.argv[3]])"
    process = start(script, uri(held.port, tmp_path.name), tmp_path / "here", name, output=tmp_path / "said")
    assert held.reached.wait(PATIENCE_SECONDS), (tmp_path / "said").read_text()
    process.kill()
    process.wait()
    held.close()
    time.sleep(1)  # for the server to see the end of the connection
    remote.pull(tmp_path / "there", suffixes=EVERYTHING)
    assert files(tmp_path / "there") == {name: former}
    remote.push(tmp_path / "here", [name])
    remote.pull(tmp_path / "there", suffixes=EVERYTHING)
    assert files(tmp_path / "there") == {name: newer}
    assert remote.listed().keys() == {name}, "a killed upload left something"


@pytest.mark.parametrize(
    ("size", "pattern"),
    [(4_000_000, rb"PUT .*/last"), (25_000_000, rb"partNumber=2"), (25_000_000, rb"POST .*uploadId=")],
)
def test_an_upload_that_loses_the_network_raises_and_leaves_the_former_file(
    remote: RemoteStore, gate: Callable[..., Gate], tmp_path: Path, size: int, pattern: bytes
) -> None:
    name = f"{UNDER}/{LAST}"
    former = os.urandom(1000)
    write(tmp_path / "here", name, former)
    remote.push(tmp_path / "here", [name])
    write(tmp_path / "here", name, os.urandom(size))
    cut = gate(pattern, 50, cut=True)
    with pytest.raises(OSError) as raised:
        RemoteStore(uri(cut.port, tmp_path.name)).push(tmp_path / "here", [name])
    said = str(raised.value)
    assert cut.reached.is_set() and ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in said and "\n" not in said
    remote.pull(tmp_path / "there", suffixes=EVERYTHING)
    assert files(tmp_path / "there") == {name: former}


def test_a_checkpoint_that_has_not_changed_is_not_sent_again(
    remote: RemoteStore, gate: Callable[..., Gate], tmp_path: Path
) -> None:
    name, cut = f"{UNDER}/{LAST}", gate(rb"PUT ", 0, cut=True)
    write(tmp_path, name, b"123456")
    remote.push(tmp_path, [name])
    RemoteStore(uri(cut.port, tmp_path.name)).push(tmp_path, [name])
    write(tmp_path, name, b"123457")
    with pytest.raises(OSError):
        RemoteStore(uri(cut.port, tmp_path.name)).push(tmp_path, [name])


def test_a_file_that_is_not_what_was_written_is_not_used_and_the_others_are(
    remote: RemoteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{UNDER}/{LAST}"
    remote._store.put(name, b"123", attributes={"sha256": sha256(b"123456")})
    remote.write("trainings/other/training.json", b"{}")
    remote.pull(tmp_path / "there", suffixes=EVERYTHING)
    assert files(tmp_path / "there") == {name: b"", "trainings/other/training.json": b"{}"}
    assert f"{name} at {remote.uri} is damaged: its SHA-256 does not match; delete it" in caplog.text
    remote.delete(["trainings/other/training.json"])
    remote._store.put(name, b"123")  # by hand
    remote.pull(tmp_path / "there", suffixes=EVERYTHING)
    assert files(tmp_path / "there") == {name: b"123"}


def test_stores_and_mirrors_of_earlier_versions_are_refused(remote: RemoteStore, tmp_path: Path) -> None:
    write(tmp_path / "mirror", ".remote.json", b"{}")
    with pytest.raises(ValueError, match="mirror was written by an earlier version; remove trainings, sweeps and"):
        remote.pull(tmp_path / "mirror")
    remote.write(f"{UNDER}/{BEST}.9f86d081884c7d65", b"weights")
    remote.write(f"{UNDER}/{BEST}.at", b"{}")
    with pytest.raises(ValueError, match=f"was written by an earlier version.*: {UNDER}/{BEST}.at names the other one"):
        remote.pull(tmp_path / "there")


def test_a_mirror_whose_rows_are_damaged_says_what_to_remove(remote: RemoteStore, tmp_path: Path) -> None:
    write(tmp_path, ".copies.db", b"no database" * 1000)
    with pytest.raises(OSError, match=".copies.db cannot be used: file is not a database; if it is damaged, remove it"):
        remote.pull(tmp_path)


@pytest.mark.parametrize("when", ["before the listing", "after the listing"])
def test_a_record_that_the_driver_writes_while_another_process_lists_stays(
    when: str, remote: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` beside a driver, in one mirror: it deleted the driver's fresh record."""
    name = f"{UNDER}/{RECORD}"
    listed = RemoteStore.names

    def driver_writes() -> None:
        monkeypatch.setattr(RemoteStore, "names", listed)
        write(tmp_path, name, b"{}")
        remote.push(tmp_path, [name])
        remote.pull(tmp_path, UNDER)

    def names(self: RemoteStore, under: str = "") -> dict[str, Seen]:
        if when == "before the listing":
            driver_writes()
            return listed(self, under)
        found = listed(self, under)
        driver_writes()
        return found

    monkeypatch.setattr(RemoteStore, "names", names)
    remote.pull(tmp_path)
    assert files(tmp_path) == {name: b"{}"}
    remote.pull(tmp_path)
    assert files(tmp_path) == {name: b"{}"}
    remote.delete([name])
    remote.pull(tmp_path)
    assert files(tmp_path) == {}, "its row was kept"


def test_a_record_that_the_driver_replaces_while_another_process_reads_it_stays(
    remote: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{UNDER}/{RECORD}"
    remote.write(name, b"[1]")
    find = RemoteStore.find

    def found(self: RemoteStore, name: str) -> Found | None:
        old = find(self, name)
        write(tmp_path, name, b"[2]")  # the driver, which is about to push it
        return old

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "find", found)
        remote.pull(tmp_path)
    assert files(tmp_path) == {name: b"[2]"}


@pytest.mark.parametrize("now", [b"[1, 2]", b"[]", None])
def test_what_changes_while_it_is_asked_for_is_read_as_it_is_then(
    remote: RemoteStore, gate: Callable[..., Gate], tmp_path: Path, now: bytes | None
) -> None:
    held = gate(rb"GET .*/a\.json", 0)
    remote.write("a.json", b"[1]")
    there = RemoteStore(uri(held.port, tmp_path.name))
    with ThreadPoolExecutor() as pool:
        pulling = pool.submit(there.pull, tmp_path)
        assert held.reached.wait(PATIENCE_SECONDS)
        remote.delete(["a.json"]) if now is None else remote.write("a.json", now)
        held.mend()
        assert pulling.result(PATIENCE_SECONDS) == (now is not None)
    assert files(tmp_path) == ({} if now is None else {"a.json": now})
    assert there.pull(tmp_path) == 0


@pytest.mark.parametrize(("name", "size"), [(f"{UNDER}/{BEST}", 1_000_000), (f"{UNDER}/{RECORD}", 1_000)])
def test_who_reads_while_a_file_is_replaced_gets_it_whole(
    remote: RemoteStore, tmp_path: Path, name: str, size: int
) -> None:
    given = [bytes([number]) * (size + 500 * (number % 3)) for number in range(40)]
    write(tmp_path / "here", name, given[0])
    remote.push(tmp_path / "here", [name])
    ended = threading.Event()

    def replace() -> None:
        try:
            for data in given[1:]:
                write(tmp_path / "here", name, data)
                remote.push(tmp_path / "here", [name])
        finally:
            ended.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = []
    while not ended.is_set():
        remote.pull(tmp_path / "there", suffixes=EVERYTHING)
        seen.append(files(tmp_path / "there")[name])
    writer.join()
    assert len(set(seen)) > 1 and set(seen) <= set(given)


def history(record: TrainingRecord) -> list[dict[str, object]]:
    return [epoch.model_dump(exclude={"seconds"}) for epoch in record.history]


def test_a_training_killed_in_an_upload_goes_on_elsewhere_with_the_same_bits(
    remote: RemoteStore, gate: Callable[..., Gate], tmp_path: Path
) -> None:
    CONFIGURATION.write(tmp_path / "config.json")
    held = gate(rb"PUT .*/" + LAST.encode(), 100_000)
    # The first epoch's checkpoint is uploaded without the gate, which holds the second's.
    first = RemoteTraining(remote, tmp_path / "first", KEY)
    first.fetch()
    data = open_for(CONFIGURATION)

    class Enough(Exception):
        pass

    def one_epoch(epoch: object) -> None:
        first.epoch()
        raise Enough

    with pytest.raises(Enough):
        train(CONFIGURATION, data, first.folder / UNDER, one_epoch)
    process = start(
        TRAINING, tmp_path / "config.json", uri(held.port, tmp_path.name), tmp_path / "second", output=tmp_path / "said"
    )
    assert held.reached.wait(PATIENCE_SECONDS), (tmp_path / "said").read_text()
    process.kill()
    process.wait()
    assert len(read_checkpoint(tmp_path / "second" / UNDER / LAST)[1]["history"]) == 2

    third = RemoteTraining(remote, tmp_path / "third", KEY)
    third.fetch()
    assert len(read_checkpoint(third.folder / UNDER / LAST)[1]["history"]) == 1
    seen: list[int] = []
    record = train(CONFIGURATION, data, third.folder / UNDER, lambda epoch: (seen.append(epoch.epoch), third.epoch()))
    close(third.folder / UNDER, record)
    third.finish()
    assert seen == [2, 3]
    undisturbed = train(CONFIGURATION, data, tmp_path / "undisturbed")
    remote.pull(tmp_path / "driver")
    found = Ledger(tmp_path / "driver").training(KEY)
    assert found == record and history(found) == history(undisturbed)
    assert remote.names(UNDER).keys() == {f"{UNDER}/{name}" for name in (CONFIG, BEST, RECORD)}
    remote.pull(tmp_path / "driver", UNDER, EVERYTHING)
    kept = read_checkpoint(tmp_path / "driver" / UNDER / BEST)[0]
    expected = read_checkpoint(tmp_path / "undisturbed" / BEST)[0]
    assert all(kept[name].equal(tensor) for name, tensor in expected.items()) and kept.keys() == expected.keys()


def test_a_process_that_was_thought_dead_writes_nothing_any_more(remote: RemoteStore, tmp_path: Path) -> None:
    former, later = (RemoteTraining(remote, tmp_path / name, KEY) for name in ("former", "later"))
    former.fetch()
    first = checkpoint(former.folder, 1)
    former.epoch()
    write(later.folder, f"{UNDER}/{RECORD}", b"of a run that the store has forgotten")
    write(later.folder, f"{UNDER}/{STACKS}", b"of one that hung here")
    later.fetch()
    found = files(later.folder)
    assert found.pop(f"{UNDER}/{GOING}") and found.pop(f"{UNDER}/{STACKS}") == b"of one that hung here"
    assert found == {f"{UNDER}/{LAST}": first}
    second = checkpoint(later.folder, 2)
    later.epoch()
    write(former.folder, f"{UNDER}/{RECORD}", b"failed")
    for write_ in (former.epoch, former.finish):
        with pytest.raises(TakenOver, match="taken over by another process"):
            write_()
    later.fetch()
    assert files(later.folder)[f"{UNDER}/{LAST}"] == second


def test_who_lets_go_of_a_training_late_leaves_it_to_who_took_it_over(remote: RemoteStore, tmp_path: Path) -> None:
    former, later = (RemoteTraining(remote, tmp_path / name, KEY) for name in ("former", "later"))
    former.fetch()
    later.fetch()
    former._let_go()
    assert remote.owned() == {KEY}
    later.finish()
    assert remote.owned() == set()


OTHERS = {CONFIG, "evaluations/a.json", GOING}


@pytest.mark.parametrize(
    ("best", "stuck", "arrived"),
    [
        (2, "evaluations/a.json", {CONFIG}),
        (2, LAST, OTHERS),
        (2, BEST, OTHERS | {LAST}),
        (1, BEST, OTHERS),
        (1, LAST, OTHERS | {BEST}),
    ],
)
def test_the_record_comes_when_all_is_there_and_best_weights_of_an_epoch_when_its_checkpoint_is(
    remote: RemoteStore,
    gate: Callable[..., Gate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    best: int,
    stuck: str,
    arrived: set[str],
) -> None:
    """Best weights of the checkpoint's own epoch can be made from it; those of an earlier one cannot, and go first."""
    monkeypatch.setattr(remote_training, "PAUSES_S", ())
    cut = gate(rb"PUT .*/" + stuck.encode(), 10, cut=True)
    training = RemoteTraining(RemoteStore(uri(cut.port, tmp_path.name)), tmp_path, KEY)
    training.fetch()
    for name in (RECORD, CONFIG, "evaluations/a.json"):
        write(tmp_path, f"{UNDER}/{name}", b"{}")
    checkpoint(tmp_path, 2)
    best_weights(tmp_path, best)
    with pytest.raises(OSError):
        training.finish()
    assert remote.names(UNDER).keys() == {f"{UNDER}/{name}" for name in arrived}
    cut.mend()
    training.finish()
    assert len(remote.names(UNDER)) == 6


def test_an_epoch_that_does_not_arrive_comes_with_the_next_and_the_end_waits_for_the_network(
    remote: RemoteStore,
    gate: Callable[..., Gate],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = gate(rb"PUT .*/" + LAST.encode(), 10, cut=True)
    training = RemoteTraining(RemoteStore(uri(cut.port, tmp_path.name)), tmp_path, KEY)
    training.fetch()
    checkpoint(tmp_path, 1)
    training.epoch()
    assert "its last epoch did not reach s3://" in caplog.text and remote.names(UNDER).keys() == {f"{UNDER}/{GOING}"}
    monkeypatch.setattr(remote_training, "PAUSES_S", (0.1,))
    with pytest.raises(OSError):
        training.finish()
    monkeypatch.setattr(remote_training, "PAUSES_S", (1.0,) * PATIENCE_SECONDS)
    mended = threading.Timer(8, cut.mend)
    mended.start()
    training.finish()
    mended.join()
    assert remote.names(UNDER).keys() == {f"{UNDER}/{LAST}", f"{UNDER}/{GOING}"}


def test_of_a_training_at_work_everybody_sees_how_far_it_is_and_by_what_code(
    remote: RemoteStore, tmp_path: Path
) -> None:
    training = RemoteTraining(remote, tmp_path / "worker", KEY)
    training.fetch()
    CONFIGURATION.write(training.folder / UNDER / CONFIG)
    checkpoint(training.folder, 2)
    training.epoch()
    trial = Trial(CONFIGURATION, ())
    with remote.lease("the driver"):
        asked = BucketLedger(tmp_path / "asked", remote)
        asked.refresh()
        (row,) = rows(of_trial(trial), asked, Today(accept_stale=True))
        assert (row.state, row.epoch, row.seconds_left) == ("running", 2, CONFIGURATION.training.epochs - 2)
        assert standing(trial, asked, Today()).why.startswith("made by other code (c, today's is ")
    asked.refresh()  # nobody drives it any more
    assert rows(of_trial(trial), asked, Today(accept_stale=True))[0].state == "started"
    (training.folder / UNDER / LAST).unlink()
    training.finish()
    with remote.lease("the driver"):
        asked.refresh()
        assert not asked.running(KEY) and asked.checkpoint(KEY) is None


def test_who_died_at_work_is_not_running_and_who_did_not_writes_nothing_more(
    remote: RemoteStore, tmp_path: Path
) -> None:
    training = RemoteTraining(remote, tmp_path / "worker", KEY)
    training.fetch()
    checkpoint(training.folder, 1)
    training.epoch()
    driver = BucketLedger(tmp_path / "driver", remote)
    with driver.driving():
        assert not driver.running(KEY) and driver.state(Trial(CONFIGURATION, ())) == "started"
        with pytest.raises(TakenOver):
            training.epoch()
        later = RemoteTraining(remote, tmp_path / "later", KEY)
        later.fetch()
        driver.refresh()
        assert driver.running(KEY)
        driver.ended(KEY, failed=True)
        driver.refresh()
        assert not driver.running(KEY)
        with pytest.raises(TakenOver):
            later.finish()
        assert remote.owned() == set()


def of_trial(trial: Trial) -> SweepPlan:
    cell = PlannedCell(table="2c", config=trial.config, evaluation=EvaluationConfig(shot=1))
    return SweepPlan(name="s", about="", cells=(cell,))


def test_a_second_driver_is_refused_by_name_and_a_killed_one_lapses(remote: RemoteStore) -> None:
    process = start(DRIVING, remote.uri, "process 1 on there", 6)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"has it\n"
        refused = pytest.raises(BlockingIOError, match="in use by process 1 on there .* after 60 s.; wait for it")
        with refused, remote.lease("process 2"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(BlockingIOError, match="process 1 on there"), remote.lease("process 2", 6):
        pass
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with remote.lease("process 2", 6) as lease:
                lease.check()
                break
        except BlockingIOError:
            assert time.monotonic() < deadline
    assert contents(remote, DRIVER) == b""


def test_of_drivers_that_start_together_never_two_have_the_store(remote: RemoteStore) -> None:
    has, had, refused = [], [], []
    together = threading.Barrier(5)

    def drive(owner: str) -> None:
        together.wait()
        try:
            with RemoteStore(remote.uri).lease(owner):
                has.append(owner)
                time.sleep(1)
                assert has == [owner]
                had.append(has.pop())
        except BlockingIOError:
            refused.append(owner)

    for turn in range(3):
        drivers = [threading.Thread(target=drive, args=(f"driver {number}",)) for number in range(5)]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        assert not has and len(had) + len(refused) == 5 * (turn + 1)
    assert had


def test_a_lease_outlives_its_seconds(remote: RemoteStore) -> None:
    with remote.lease("driver 1", 6) as lease:
        time.sleep(9)
        lease.check()
        with pytest.raises(BlockingIOError, match="driver 1"), remote.lease("driver 2", 6):
            pass


def test_an_error_in_the_thread_that_renews_it_ends_the_lease_for_all_to_see(
    remote: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote.lease("one", 1.0) as lease:
        monkeypatch.setattr(lease, "renew", lambda: 1 / 0)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while lease.broken is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(LeaseLost, match="is no longer renewed, because of an error: ZeroDivisionError"):
            lease.check()


def test_a_driver_that_was_stopped_learns_of_the_later_one_before_it_does_anything(remote: RemoteStore) -> None:
    process = start(DRIVING, remote.uri, "process 1 on there", 3)
    assert process.stdout is not None and process.stdout.readline() == b"has it\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    with remote.lease("process 2", 3) as lease:
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 1 and b"LeaseLost: " in said
        lease.renew()


def test_a_driver_whose_rewrite_is_refused_has_lost_the_store(remote: RemoteStore) -> None:
    first, second = (Lease(remote, f"driver {number}", 60) for number in (1, 2))
    first.acquire()
    remote.write(DRIVER, b"")  # as of one that has lapsed
    second.acquire()
    with pytest.raises(LeaseLost, match="taken over by driver 2"):
        first.renew()
    with pytest.raises(LeaseLost):
        first.check()
    first.release()
    second.renew()


def test_a_driver_whose_answers_are_lost_keeps_the_store(remote: RemoteStore) -> None:
    lease = Lease(remote, "driver 1", 60)
    written = Claim(owner="driver 1", token=lease.token, nonce="whose answer was lost").model_dump_json().encode()
    remote.write(DRIVER, written)
    lease.acquire()
    remote.write(DRIVER, written)
    lease.renew()
    lease.release()
    assert contents(remote, DRIVER) == b""


@pytest.mark.parametrize("former", [None, b"1"])
def test_of_two_conditional_writes_one_succeeds(remote: RemoteStore, former: bytes | None) -> None:
    version = former and remote.write("a", former)
    assert (now := remote.swap("a", b"2", version))
    assert remote.swap("a", b"3", version) is None and contents(remote, "a") == b"2"
    assert remote.swap("a", b"4", now) and contents(remote, "a") == b"4"
    remote.delete(["a"])
    assert remote.swap("a", b"5", now) is None and remote.find("a") is None


def test_a_driver_that_can_not_reach_the_store_knows_when_its_lease_ends(
    remote: RemoteStore, gate: Callable[..., Gate], tmp_path: Path
) -> None:
    cut = gate(rb"DELETE-nothing-yet", 0, cut=True)
    with RemoteStore(uri(cut.port, tmp_path.name)).lease("driver 1", 3) as lease:
        cut.reached.set()
        cut.close()
        deadline = time.monotonic() + PATIENCE_SECONDS
        with pytest.raises(LeaseLost, match="was not reached for 3 s"):
            while time.monotonic() < deadline:
                lease.check()
                time.sleep(0.1)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ftp://host/x", "got ftp://..., but a store is s3://bucket/prefix"),
        ("s3://", "cannot read s3://: it names no bucket"),
        ("s3://me:se/cret@sweeps/x", "contains credentials; set them in the environment"),
        ("s3://sweeps/x?colour=red", "its query has colour; it may only have endpoint_override, scheme, region"),
    ],
)
def test_an_address_that_can_not_be_a_store_is_told(address: str, told: str) -> None:
    assert RemoteStore.is_remote(address) and not RemoteStore.is_remote("runs/s3")
    with pytest.raises(ValueError) as raised:
        RemoteStore.at(address)
    assert told in str(raised.value) and "\n" not in str(raised.value) and "cret@" not in str(raised.value)


def test_a_bucket_that_is_not_there_and_a_server_that_is_not_there_are_told(port: int) -> None:
    with pytest.raises(ValueError, match="cannot read s3://nobodys/x.*NoSuchBucket"):
        RemoteStore.at(uri(port, "x", bucket="nobodys"))
    with pytest.raises(ValueError, match="cannot read s3://sweeps/x.*error sending request; check its"):
        RemoteStore.at(uri(free_port(), "x"))


def test_the_environment_may_name_the_server(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    store = RemoteStore.at(f"s3://sweeps/{tmp_path.name}/")
    store.write("a.json", b"[1]")
    assert RemoteStore.at(uri(port, tmp_path.name)).listed().keys() == {"a.json"}


def test_who_is_not_let_in_is_told(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match="cannot read s3://sweeps/x.*InvalidAccessKeyId.*; check its address and")
    # The server asks for credentials, except for the request that creates the bucket.
    with s3_server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as asks, refused:
        RemoteStore.at(uri(asks, "x"))


def test_credentials_of_a_profile_are_used(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moto takes any key, so what obstore is given is looked at, and then used."""
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = of-the-profile\naws_secret_access_key = s\n")
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-1\n")
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    options: dict[str, str | bool] = {}
    provider = _profile(options)
    assert provider is not None and provider()["access_key_id"] == "of-the-profile"
    assert options == {"region": "eu-west-1"}
    remote = RemoteStore.at(uri(port, "of-a-profile"))
    remote.write("a.json", b"1")
    assert remote.listed().keys() == {"a.json"}
