"""The ledger: what the store says has been trained and tested. Only this module knows the layout of the store.

    <store>/trainings/<training key>/   config.json, checkpoints, log.txt, training.json, evaluations/<key>.json
    <store>/superseded/<key>-<time>/    the same, for a training that was retrained
    <store>/sweeps/<name>/              plan.json, search.json, looks.json
    <store>/code/<hash>/                the code that trials ran
    <store>/index.db                    derived from the records (`orchestrator.store.index`)
    <store>/home/                       caches and Ray's token, for a user without a home folder
    <store>/mlflow.db, artifacts/, ray/, driver.lock, store.id

Records are written whole or not at all, so the store is consistent whenever a process dies. A training is done when its
record says finished or diverged, whatever a scheduler believes.

A store in an object store (`s3://bucket/prefix`) has a mirror, a folder on each machine: files written there go to the
store at once, and files that others wrote are fetched by `refresh`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from dmf.machine.files import LONGEST_WAIT_S, sign, taken, this_process, wait_for, write_text
from dmf.machine.mounts import without_locks
from dmf.machine.paths import default_cache_dir
from dmf.records.checkpoints import read_state_of
from dmf.records.facts import Curves, Ended, MadeBy, Tested
from dmf.records.records import (
    BEST,
    DAMAGED_BEST,
    EVALUATIONS,
    LAST,
    LOCK,
    RECORD,
    STACKS,
    EvaluationRecord,
    Going,
    TrainingRecord,
)
from dmf.values import Checked, Damaged, digest
from orchestrator.spec.plan import SweepPlan, Trial
from orchestrator.store.bucket.lease import Lease
from orchestrator.store.bucket.mirror import EVERYTHING, GOING, RemoteStore
from orchestrator.store.index import Index
from reports.looks import Looks
from reports.owners import Owner

State = Literal["missing", "started", "failed", "untested", "done", "diverged", "damaged"]
"""In this order: not begun; has a checkpoint; ended by an error; trained, tests missing; tested; loss not finite; a
record is there that cannot be read."""

log = logging.getLogger("dmf.ledger")

IDENTITY = "store.id"
PLAN, LOOKS = "plan.json", "looks.json"
KEY = re.compile(r"[0-9a-f]{16}")
"""Matches keys of trainings and evaluations, which are names of folders and files."""
OF_TUNE = re.compile(r".+-[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")
"""Matches the name of a folder of Ray Tune's in ray/ (`running.tune`); the store may be a folder with other things."""
SECONDS_BETWEEN_TRIES = 5.0
"""Interval between attempts to become an object store's driver."""


def local_folder(store: str) -> Path:
    """The store's folder, or this machine's mirror of an object store."""
    if not RemoteStore.is_remote(store):
        return Path(store)
    return default_cache_dir() / "stores" / digest(store)


def _name_of_evaluation(training_key: str, evaluation_key: str) -> str:
    return f"trainings/{training_key}/{EVALUATIONS}/{evaluation_key}.json"


class Sealed(NamedTuple):
    """What the records of a training that has ended come to."""

    seal: str
    """A digest of the training's record and of its evaluations' results."""
    outcome: str
    tests: frozenset[str]
    """Keys of its evaluations."""


class Identity(Checked):
    """The content of `store.id`."""

    id: str
    path: str
    """Where the store was when it was last opened by a driver."""
    former: str = ""
    """Of a copy: the identity of its original."""


def identity_in(path: Path, name: str) -> Identity | None:
    """The identity in the file `store.id` of a store called `name`.

    Returns None if there is none or, with a warning, if it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if re.fullmatch("[0-9a-f]{16}", text):  # of an earlier version, which did not note the path
            return Identity(id=digest([name, text]), path=name)
        return Identity.read(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("%s; the store gets a new identity, and new runs in MLflow", " ".join(str(error).split()))
        return None


def _is_copy(store: Path, known: Identity) -> bool:
    """Whether the store that `known` comes from is still where it was."""
    there = Path(known.path)
    if not (there / IDENTITY).is_file() or there.samefile(store):
        return False
    other = identity_in(there / IDENTITY, known.path)
    return other is not None and other.id == known.id


class Ledger:
    """Reads and writes a store in a folder that all machines of a sweep see."""

    shared: ClassVar[bool] = True
    """Whether all machines see the folder."""

    def __init__(self, store: Path) -> None:
        self.store = store

    @staticmethod
    def at(store: str) -> Ledger:
        """The ledger of a store, with its present records. Raises ValueError if it cannot be reached."""
        if not RemoteStore.is_remote(store):
            return Ledger(Path(store).resolve())
        ledger = BucketLedger(local_folder(store), RemoteStore.at(store))
        ledger.refresh()
        return ledger

    @staticmethod
    def existing(store: str) -> Ledger:
        """Like `at`, but raises ValueError if the store does not exist."""
        if not RemoteStore.is_remote(store) and not Path(store).is_dir():
            raise ValueError(f"there is no store {store}; give the folder that a sweep had as --store")
        return Ledger.at(store)

    @property
    def name(self) -> str:
        """The store's name for users and in MLflow's tags."""
        return str(self.store.resolve())

    @property
    def id(self) -> str:
        """The store's identity, in MLflow's tags. It moves with the store; a copy gets another one."""
        return self._identity.id

    @property
    def id_so_far(self) -> str:
        """The identity in the store, which its runs in MLflow have until a driver finds it copied; empty without one.

        Unlike `id` it writes nothing.
        """
        known = identity_in(self.store / IDENTITY, self.name)
        return known.id if known else ""

    @property
    def owner(self) -> Owner:
        """The store as the owner of tables. Its identity is left out while it has none of its own."""
        known = identity_in(self.store / IDENTITY, self.name)
        if known is None:
            return Owner(name=self.name)
        if known.path != self.name and _is_copy(self.store, known):
            return Owner(name=self.name, former=known.id)
        return Owner(name=self.name, id=known.id, former=known.former)

    @property
    def former_id(self) -> str:
        """The identity of the store that this one is a copy of; empty if it is none."""
        return self._identity.former

    @functools.cached_property
    def _identity(self) -> Identity:
        """The store's identity, which is written if it is new or the store lies elsewhere than before."""
        path = self.store / IDENTITY
        known = identity_in(path, self.name)
        if known is not None and known.path == self.name:
            if not path.read_text(encoding="utf-8").startswith("{"):
                known.write(path)
            return known
        if known is None or _is_copy(self.store, known):
            former = known.id if known else ""
            known = Identity(id=secrets.token_hex(8), path=self.name, former=former)
            if former:
                log.warning("%s is a copy of another store, and gets an identity of its own", self.name)
        else:
            known = known.replace(path=self.name)
        known.write(path)
        return known

    def refresh(self, key: str | None = None) -> None:
        """Fetch what others have written about one training or the whole store."""

    def ended(self, key: str, failed: bool) -> None:
        """Called by the driver when a trial has ended; if it failed, its process may have died at work."""

    def all_ended(self) -> None:
        """Called by the driver when no trial runs: release all trainings and fetch what was written."""

    def check(self) -> None:
        """Raise LeaseLost if another driver may have taken the store."""

    def probe(self) -> None:
        """Write, sync and read a small file. Raises OSError if the store's disk does not take it."""
        path, text = self.store / ".probe", this_process()
        write_text(path, text)
        if path.read_text(encoding="utf-8") != text:
            raise OSError(errno.EIO, "a file that was just written reads otherwise", str(path))
        path.unlink()

    def keep(self, *paths: Path) -> None:
        """Upload files of the folder to the store. Call it after writing them."""

    def _drop(self, *paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder of the store, by name, with their sizes in bytes."""
        paths = (path for path in (self.store / folder).rglob("*") if path.is_file())
        return {path.relative_to(self.store).as_posix(): path.stat().st_size for path in paths}

    def drop(self, names: Iterable[str]) -> None:
        """Delete files of the store, by name."""
        self._drop(*(self.store / name for name in names))

    @functools.cached_property
    def index(self) -> Index:
        """The index, for reading thousands of records. Trials must not use it: they may be on other machines."""
        return Index(self.store)

    def folder(self, key: str) -> Path:
        """The folder of one training."""
        return self.store / "trainings" / key

    def training(self, key: str) -> TrainingRecord | None:
        """The record of a training; None if it has not ended. Raises Damaged."""
        path = self.folder(key) / RECORD
        try:
            record = TrainingRecord.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if record.key != key:
            raise Damaged(f"{path} belongs to training {record.key}, not to {key}; remove it")
        return record

    def how_ended(self, key: str) -> Ended | None:
        """The part of a training's record that tables need; None if it has not ended. Raises Damaged."""
        return self.index.ended(f"trainings/{key}/{RECORD}")

    def curves(self, key: str) -> Curves | None:
        """A training's curves; None if it has not ended. Raises Damaged."""
        return self.index.curves(f"trainings/{key}/{RECORD}")

    def write_training(self, record: TrainingRecord) -> None:
        """Write a training's record."""
        record.write(self.folder(record.key) / RECORD)
        self.keep(self.folder(record.key) / RECORD)

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """The record of an evaluation; None if it has not been made. Raises Damaged."""
        try:
            return EvaluationRecord.read(self._evaluation_path(training_key, evaluation_key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        """The part of an evaluation's record that tables need; None if it has not been made. Raises Damaged."""
        return self.index.tested(_name_of_evaluation(training_key, evaluation_key))

    def write_evaluation(self, record: EvaluationRecord) -> None:
        """Write an evaluation's record."""
        path = self._evaluation_path(record.training_key, record.evaluation_key)
        record.write(path)
        self.keep(path)

    def evaluations(self, training_key: str) -> tuple[EvaluationRecord, ...]:
        """All evaluations of a training. Raises Damaged."""
        paths = sorted(self.folder(training_key).glob(f"{EVALUATIONS}/*.json"))
        return tuple(EvaluationRecord.read(path) for path in paths if not path.name.startswith("."))

    def sealed(self, key: str) -> Sealed | None:
        """A digest of a training's records, from the index; None if it has not ended. Raises Damaged."""
        name = f"trainings/{key}/{RECORD}"
        made, ended = self.index.digest(name), self.index.ended(name)
        if made is None or ended is None:
            return None
        tests: list[str] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder(key) / EVALUATIONS) as entries:
            tests = sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))
        found = [(test, self.how_tested(key, test)) for test in tests if not test.startswith(".")]
        told = [(test, result.accuracy, result.ci95) for test, result in found if result]
        return Sealed(digest([made, told]), ended.outcome, frozenset(test for test, _, _ in told))

    def running(self, key: str) -> bool:
        """Whether a process is working on a training."""
        try:
            lock = open(self.folder(key) / LOCK)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return False
        with lock:
            return not taken(lock)

    def _evaluation_path(self, training_key: str, evaluation_key: str) -> Path:
        return self.store / _name_of_evaluation(training_key, evaluation_key)

    def state(self, trial: Trial) -> State:
        """The state of a trial."""
        try:
            return self.state_after(trial, self.how_ended(trial.key))
        except Damaged:
            return "damaged"

    def state_after(self, trial: Trial, ended: Ended | None) -> State:
        """The state of a trial whose training ended as given."""
        if ended is None:
            return "started" if self.begun(trial.key) else "missing"
        if ended.outcome != "finished":
            return ended.outcome
        tested = (self.evaluation_made_by(trial.key, evaluation.key) for evaluation in trial.evaluations)
        return "done" if all(tested) else "untested"

    def begun(self, key: str) -> bool:
        """Whether a training has a checkpoint to continue from."""
        return (self.folder(key) / LAST).is_file()

    def checkpoint(self, key: str) -> Going | None:
        """The progress of a training that has not ended, from its last checkpoint; None if it has none.

        Raises Damaged.
        """
        with contextlib.suppress(FileNotFoundError):
            return read_state_of(Going, self.folder(key) / LAST)
        return None

    def begun_elsewhere(self, key: str) -> bool:
        """Whether a training has a checkpoint that is not in the folder."""
        return False

    def tested(self, training_key: str, evaluation_key: str) -> bool:
        """Whether an evaluation has been made."""
        return self._evaluation_path(training_key, evaluation_key).is_file()

    def has_weights(self, key: str) -> bool:
        """Whether a training's best weights are in the store."""
        return (self.folder(key) / BEST).is_file()

    def has_damaged_weights(self, key: str) -> bool:
        """Whether a training's best weights were put aside because they are damaged."""
        return (self.folder(key) / DAMAGED_BEST).is_file()

    def put_weights_aside(self, key: str) -> None:
        """Rename a training's best weights, which are damaged."""
        (self.folder(key) / BEST).rename(self.folder(key) / DAMAGED_BEST)

    def how_lost(self, key: str) -> str:
        """Why a training's process died, if that is known."""
        stacks = self.folder(key) / STACKS
        if stacks.is_file() and stacks.stat().st_size:
            return "showed no sign of life and was ended (its stacks are in its log)"
        return "lost its process"

    def evaluation_made_by(self, training_key: str, evaluation_key: str) -> MadeBy | None:
        """What made an evaluation, without its episodes; None if it has not been made."""
        return self.index.made_by(_name_of_evaluation(training_key, evaluation_key))

    def indexed(self, trial: Trial) -> bool:
        """Add a trial's records to the index; false while one of them has changed too recently."""
        names = [_name_of_evaluation(trial.key, evaluation.key) for evaluation in trial.evaluations]
        if not all(map(self.index.settled, [f"trainings/{trial.key}/{RECORD}", *names])):
            return False
        with contextlib.suppress(Damaged):  # a damaged record gets no row
            self.how_ended(trial.key)
            for name in names:
                self.index.made_by(name)
        return True

    def reopen(self, key: str) -> None:
        """Delete a training's record, so that it continues from its checkpoint."""
        self._drop(self.folder(key) / RECORD)

    def drop_tests(self, key: str) -> None:
        """Delete the tests of a training, which are of another model once it is trained again."""
        self._drop(*(self.folder(key) / EVALUATIONS).glob("[!.]*.json"))

    def forget(self, key: str) -> None:
        """Delete a training's record and checkpoints, so that it starts from scratch.

        Raises ValueError while a process works on it; in an object store, that process finds it taken over instead.
        """
        self._check_idle(key)
        self._drop(*(self.folder(key) / name for name in (RECORD, LAST, BEST, DAMAGED_BEST, GOING)))

    def supersede(self, key: str) -> Path:
        """Move all files of a training aside, so that it is retrained; return their new folder.

        Raises ValueError while a process works on it, like `forget`.
        """
        self._check_idle(key)
        self._fetch(key)
        there = self.store / "superseded" / f"{key}-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}"
        there.parent.mkdir(parents=True, exist_ok=True)
        before = [path for path in self.folder(key).rglob("[!.]*") if path.is_file()]
        self.folder(key).rename(there)
        self.keep(*(path for path in there.rglob("[!.]*") if path.is_file()))
        self._drop(*before)
        return there

    def _check_idle(self, key: str) -> None:
        if self.running(key):
            raise ValueError(f"another process works in {self.folder(key)}; wait for it or end it, then start again")

    def _fetch(self, key: str) -> None:
        """Fetch all files of a training, including checkpoints."""

    def whole_folder(self, key: str) -> Path:
        """The folder of one training, with its weights."""
        self._fetch(key)
        return self.folder(key)

    def kept_keys(self) -> list[str]:
        """The keys of all trainings that have a folder."""
        folder = self.store / "trainings"
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def sweep_folder(self, name: str) -> Path:
        """The folder of one sweep."""
        return self.store / "sweeps" / name

    def write_plan(self, plan: SweepPlan) -> None:
        """Write a sweep's plan, for the report."""
        path = self.sweep_folder(plan.name) / PLAN
        plan.write(path)
        self.keep(path)

    def plan(self, name: str) -> SweepPlan:
        """The plan of a sweep that was started here."""
        path = self.sweep_folder(name) / PLAN
        if not path.is_file():
            there = ", ".join(sorted(self.plans())) or "none"
            raise ValueError(f"no sweep {name!r} was started in {self.store}; there are: {there}")
        found = SweepPlan.read(path)
        if found.name != name:
            raise ValueError(f"{path} belongs to sweep {found.name!r}, not to {name!r}; remove it")
        return found

    def looks(self, name: str) -> Looks | None:
        """The looks that a sweep has taken; None if it has taken none. Raises Damaged."""
        try:
            return Looks.read(self.sweep_folder(name) / LOOKS)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_looks(self, name: str, looks: Looks) -> None:
        """Write all looks that a sweep has taken so far."""
        path = self.sweep_folder(name) / LOOKS
        looks.write(path)
        self.keep(path)

    def put_looks_aside(self, name: str) -> Path:
        """Rename a sweep's looks, so that it begins anew with none; return their new name."""
        path = self.sweep_folder(name) / LOOKS
        there = path.with_name(f"looks-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}.json")
        path.rename(there)
        self.keep(there)
        self._drop(path)
        return there

    def asked(self, plan: SweepPlan) -> SweepPlan:
        """A plan with the seeds that the sweep's looks ask for now."""
        return plan.asked(self.looks(plan.name)) if plan.rule else plan

    def plans(self) -> dict[str, SweepPlan]:
        """The plans of all sweeps started here, by name; one that cannot be read is left out with a warning."""
        found = {}
        for name in self.sweeps():
            try:
                found[name] = self.plan(name)
            except (ValueError, OSError) as error:
                path = self.sweep_folder(name) / PLAN
                log.warning("%s cannot be read, that sweep is left out: %s", path, " ".join(str(error).split())[:300])
        return found

    def sweeps(self) -> list[str]:
        """The names of all sweeps started here, of damaged plans too."""
        return [path.parent.name for path in sorted(self.store.glob(f"sweeps/*/{PLAN}"))]

    def no_longer_planned(self, plan: SweepPlan) -> list[str]:
        """Keys of trainings that the sweep's last start asked for and `plan` does not."""
        earlier = self.plans().get(plan.name)
        now = {trial.key for trial in plan.trials()}
        return [trial.key for trial in earlier.trials() if trial.key not in now] if earlier else []

    @contextlib.contextmanager
    def holding(self, key: str, limit_s: float | None = None) -> Iterator[Path]:
        """Lock a training's folder and yield it once no other process works there.

        A process that dies releases it at once. Temporary files that it left are removed. One that is frozen keeps it:
        after `limit_s` (None: half an hour), TimeoutError names it.
        """
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "a+") as lock:
            if not taken(lock):
                log.warning("waiting for another process that works in %s", folder)
                wait_for(lock, limit_s or LONGEST_WAIT_S)
            sign(lock)
            for left in [*folder.glob(".*.*.*"), *folder.glob(f"{EVALUATIONS}/.*")]:
                left.unlink()
            yield folder

    @contextlib.contextmanager
    def driving(self, wait: bool = False) -> Iterator[Ledger]:
        """Be the only driver of this store, until the process ends, however it ends.

        Files that Ray left under a killed driver are removed.

        Raises:
            BlockingIOError: if another driver has the store and `wait` is false.
        """
        with self._alone(wait):
            for left in self.store.glob("ray/*"):
                if OF_TUNE.fullmatch(left.name):
                    shutil.rmtree(left, ignore_errors=True)
            self.all_ended()
            yield self

    @contextlib.contextmanager
    def _alone(self, wait: bool) -> Iterator[None]:
        """Hold the driver's lock."""
        self.store.mkdir(parents=True, exist_ok=True)
        with open(self.store / "driver.lock", "a+") as lock:
            while not taken(lock):
                if not wait:
                    lock.seek(0)
                    raise BlockingIOError(
                        f"{self.store} is in use by {lock.read().strip() or 'another driver'}; wait for it with --wait "
                        "or use another --store"
                    )
                time.sleep(0.5)
            sign(lock)
            if why := without_locks(self.store):
                log.warning("%s: drivers on other machines do not see that this one uses the store; start none", why)
            yield


class BucketLedger(Ledger):
    """Reads and writes a store in an object store, through a folder that mirrors it on this machine.

    The folder has the store's records but no checkpoints. Raises OSError if the object store does not answer.
    """

    shared: ClassVar[bool] = False

    def __init__(self, store: Path, remote: RemoteStore) -> None:
        super().__init__(store)
        self.remote = remote
        self._lease: Lease | None = None
        """This driver's lease, while it has the store."""
        self._with_checkpoint: set[str] = set()
        """Keys of trainings that had a checkpoint when the whole store was last refreshed."""
        self._at_work: set[str] = set()
        """Keys of trainings that a process was working on then."""

    @property
    def name(self) -> str:
        return self.remote.uri

    @functools.cached_property
    def _identity(self) -> Identity:
        return Identity(id=digest([self.name, ""]), path=self.name)

    @property
    def id_so_far(self) -> str:
        return self.id

    @property
    def owner(self) -> Owner:
        return Owner(name=self.name, id=self.id)

    def refresh(self, key: str | None = None) -> None:
        self.remote.pull(self.store, f"trainings/{key}" if key else "")
        if key is None:
            names = self.remote.names("trainings")
            self._with_checkpoint = {name.split("/")[1] for name in names if name.endswith(LAST)}
            self._at_work = self.remote.at_work()

    def ended(self, key: str, failed: bool) -> None:
        if failed:
            self.remote.free([key])
        self.refresh(key)

    def all_ended(self) -> None:
        self.remote.free(self.remote.owned())
        self.refresh()

    def check(self) -> None:
        if self._lease:
            self._lease.check()

    def keep(self, *paths: Path) -> None:
        self.remote.push(self.store, self._names(paths))

    def _drop(self, *paths: Path) -> None:
        super()._drop(*paths)
        self.remote.delete(self._names(paths))

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: seen.size for name, seen in self.remote.names(folder).items()}

    def _names(self, paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(self.store).as_posix() for path in paths]

    def running(self, key: str) -> bool:
        return key in self._at_work

    def begun(self, key: str) -> bool:
        return key in self._with_checkpoint

    def begun_elsewhere(self, key: str) -> bool:
        return self.begun(key)

    def checkpoint(self, key: str) -> Going | None:
        path = self.folder(key) / GOING
        return super().checkpoint(key) or (Going.read(path) if path.is_file() else None)

    def has_weights(self, key: str) -> bool:
        return f"trainings/{key}/{BEST}" in self.remote.names(f"trainings/{key}")

    def has_damaged_weights(self, key: str) -> bool:
        return f"trainings/{key}/{DAMAGED_BEST}" in self.remote.names(f"trainings/{key}")

    def _check_idle(self, key: str) -> None:
        self.remote.free([key])

    def _fetch(self, key: str) -> None:
        self.remote.pull(self.store, f"trainings/{key}", EVERYTHING)

    @contextlib.contextmanager
    def _alone(self, wait: bool) -> Iterator[None]:
        """Hold the driver's lock on this machine, and the lease for all machines."""
        with super()._alone(wait), contextlib.ExitStack() as stack:
            while self._lease is None:
                try:
                    self._lease = stack.enter_context(self.remote.lease(this_process()))
                except BlockingIOError:
                    if not wait:
                        raise
                    time.sleep(SECONDS_BETWEEN_TRIES)
            try:
                yield
            finally:
                self._lease = None
