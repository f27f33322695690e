"""Archives: sweeps with their plans, records and every episode's answers in one file, without paths, users or machines.

An archive is a zip file:

    manifest.json              format, sweeps, and the SHA-256 of every other member
    sweeps/NAME/*.json         plans, searches and the like, as in the store
    trainings.jsonl            one training record per line
    evaluations.jsonl          one evaluation record per line, without its answers
    answers.bin                correct answers per episode and class of each evaluation in turn, one byte each
    weights/KEY.safetensors    the best weights, where asked

Everything is checked when it is read, nothing in it is executed, and a member that is not named above is refused.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import json
import os
import re
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

import dmf
from dmf.machine.files import replacing
from dmf.records.checkpoints import read_checkpoint_of
from dmf.records.classes import drawn_classes, sums_by_class
from dmf.records.facts import Curves, Ended, Tested
from dmf.records.records import BEST, CONFIG, EVALUATIONS, RECORD, EvaluationRecord, Kept, TrainingRecord, training_from
from dmf.values import Checked, Damaged, Value, describe, sealed, shown, unsealed
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import KEY, LOOKS, PLAN, Ledger
from orchestrator.store.searches import keys_of
from reports.looks import Looks

FORMAT = 1
SUFFIX = ".dmfa"
MANIFEST, TRAININGS, EXAMS, ANSWERS = "manifest.json", "trainings.jsonl", "evaluations.jsonl", "answers.bin"
MEMBER = re.compile(
    rf"{MANIFEST}|{TRAININGS}|{EXAMS}|{ANSWERS}|sweeps/[a-z0-9][a-z0-9_-]{{0,99}}/[a-z_]+\.json|"
    rf"weights/{KEY.pattern}\.safetensors"
)
READERS: dict[str, Callable[[str], Value]] = {
    CONFIG: training_from,
    RECORD: TrainingRecord.model_validate_json,
    EVALUATIONS: EvaluationRecord.model_validate_json,
}
"""How the files of trainings are read, by their names or their folder's."""
PATH = re.compile(r"(?<![\w.:/])~?(?:/[^\s/:'\",;()\[\]]+)+")
"""An absolute path, or one below a home folder, in a message."""
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What zipfile raises for a damaged archive; RuntimeError, where a bit says that a member is encrypted or packed in
another way."""
MOST_BYTES = 2**36
"""Members that claim to be larger together are refused."""


class Manifest(Value):
    """What an archive holds."""

    format: int = FORMAT
    made_by: str
    """The version of dmf that wrote it."""
    sweeps: tuple[str, ...]
    trainings: int
    evaluations: int
    sha256: dict[str, str]
    """Of every other member, by name."""


def write_archive(ledger: Ledger, sweeps: Iterable[str], path: Path, weights: bool = False) -> Manifest:
    """Write the records of sweeps to `path`, whole or not at all.

    Raises ValueError for an unknown sweep, a damaged record or, with `weights`, a training whose weights are not kept.
    """
    plans = ledger.plans()
    names = list(dict.fromkeys(sweeps)) or sorted(plans)
    if unknown := [name for name in names if name not in plans]:
        raise ValueError(f"no sweep {', '.join(map(shown, unknown))}; there are {', '.join(sorted(plans)) or 'none'}")
    asked = {key for name in names for key in _keys(ledger, plans[name])}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        sums: dict[str, str] = {}

        def add(name: str, data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> None:
            info = zipfile.ZipInfo(name)  # of a fixed date, so that equal contents make equal files
            info.external_attr = 0o644 << 16
            file.writestr(info, data, compression)
            sums[name] = hashlib.sha256(data).hexdigest()

        for name in names:
            for kept in sorted(ledger.sweep_folder(name).glob("*.json")):
                if not MEMBER.fullmatch(f"sweeps/{name}/{kept.name}"):
                    continue  # looks that were put aside decide nothing
                add(f"sweeps/{name}/{kept.name}", _line(_portable(json.loads(unsealed(kept.read_bytes(), str(kept))))))
        trainings, exams, answers = [], [], []
        for key in sorted(asked):
            record = ledger.training(key)
            if record is not None:
                trainings.append(_line(_portable(record.model_dump(mode="json"))))  # with the name of its method
            for exam in sorted((ledger.folder(key) / EVALUATIONS).glob("[!.]*.json")):
                if record is None:
                    break  # tests of a model that nothing is known of
                head, counts = _without_answers(exam)
                exams.append(_line(_portable(head)))
                answers.append(counts)
            if weights and record is not None and record.outcome == "finished":
                add(f"weights/{key}.safetensors", _weights(ledger, key), zipfile.ZIP_STORED)
        add(TRAININGS, b"".join(trainings))
        add(EXAMS, b"".join(exams))
        add(ANSWERS, b"".join(answers))
        manifest = Manifest(
            made_by=dmf.__version__,
            sweeps=tuple(names),
            trainings=len(trainings),
            evaluations=len(exams),
            sha256=dict(sums),
        )
        add(MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def _keys(ledger: Ledger, plan: SweepPlan) -> set[str]:
    """The trainings of a sweep, also under the keys that they had in format 1."""
    return {*keys_of(ledger, plan), *(key for cell in plan.cells for key in cell.former_keys)}


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _without_answers(path: Path) -> tuple[dict[str, Any], bytes]:
    """An evaluation's record without its answers, and these. Raises Damaged."""
    try:
        head = json.loads(unsealed(path.read_bytes(), str(path)))
        counts = np.array(head.pop("correct", ()), dtype=np.int64)
        if counts.size and not 0 <= counts.min() <= counts.max() < 256:
            raise ValueError("a class has 256 queries or more")
        return head, counts.astype(np.uint8).tobytes()
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} is damaged ({error}); remove it, and start its sweep to test again") from None


def _weights(ledger: Ledger, key: str) -> bytes:
    path = ledger.whole_folder(key) / BEST
    if not path.is_file():
        raise ValueError(f"the weights of training {key} were not kept; leave out --weights")
    read_checkpoint_of(Kept, path)  # refuses damaged weights
    return path.read_bytes()


def _portable(value: Any, places: frozenset[str] | None = None) -> Any:
    """Plain data without what only the machine knows: paths of images, stack traces, paths, users and hosts in text.

    `places` are folders of images that the data is about; None: those that it names.
    """
    places = frozenset(_roots(value)) if places is None else places
    if isinstance(value, list):
        return [_portable(each, places) for each in value]
    if not isinstance(value, dict):
        return value
    # A model's `weights` are a path, a record's are a checksum.
    gone = {"root", "traceback", *(("weights",) if "weights_sha256" in value else ())}
    found = {name: _portable(each, places) for name, each in value.items() if name not in gone}
    for name in ("reason", "data_doubts"):
        if isinstance(found.get(name), str):
            found[name] = _anonymous(found[name], places)
        elif isinstance(found.get(name), list):
            found[name] = [_anonymous(each, places) if isinstance(each, str) else each for each in found[name]]
    return found


def _roots(value: Any) -> Iterator[str]:
    """Every place of images in plain data."""
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from _roots(each)
    if isinstance(value, dict) and isinstance(value.get("root"), str):
        yield value["root"]


def _anonymous(text: str, places: Iterable[str] = ()) -> str:
    for place in sorted(places, key=len, reverse=True):  # they may hold blanks, which end a path in a message
        if place.startswith(("/", "~")) and Path(place).name:
            text = text.replace(place, "/" + re.sub(r"\W", "_", Path(place).name))
    text = PATH.sub(lambda found: f".../{found[0].rpartition('/')[2]}", text)
    for name, stands_for in ((socket.gethostname(), "HOST"), (_user(), "USER")):
        if len(name) > 2:
            text = re.sub(rf"(?<![\w.]){re.escape(name)}\b", stands_for, text)
    return text


@functools.cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in passwd
        return ""


@dataclass(frozen=True)
class _Exam:
    """An evaluation in an archive."""

    record: EvaluationRecord
    """With a placeholder for its answers, or with `episode_accuracies` in format 1."""
    start: int
    """Of its answers in ANSWERS."""


class Archive:
    """An archive for reading: implements what the report needs of a store.

    Raises ValueError, naming the file, for one that is damaged (Damaged), foreign or of a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as file:
                self._check_members(file)
                self.manifest = Manifest.model_validate_json(file.read(MANIFEST))
                if self.manifest.format > FORMAT:
                    raise ValueError(
                        f"{path} is an archive of format {self.manifest.format}, but this version reads formats up to "
                        f"{FORMAT}; update dmf"
                    )
                self._members = {name: file.read(name) for name in self._small(file)}
        except BROKEN as error:
            raise Damaged(
                f"{path} is damaged or no archive of sweeps ({error}); give a folder, or another copy"
            ) from None
        except ValidationError as error:
            raise ValueError(describe(error, f"the manifest of {path}")) from None
        self._check_sums()

    def _check_members(self, file: zipfile.ZipFile) -> None:
        names = file.namelist()
        if MANIFEST not in names:
            raise ValueError(f"{self.path} is no archive of dmf: it has no {MANIFEST}")
        if strange := [name for name in names if not MEMBER.fullmatch(name)]:
            raise ValueError(f"{self.path} holds {shown(strange[0])}, which no archive of dmf has; it is not read")
        if len(set(names)) < len(names):
            raise ValueError(f"{self.path} holds two files of one name; it is not read")
        if sum(info.file_size for info in file.infolist()) > MOST_BYTES:
            raise ValueError(f"{self.path} claims to hold more than {MOST_BYTES >> 30} GiB; it is not read")

    @staticmethod
    def _small(file: zipfile.ZipFile) -> list[str]:
        return [name for name in file.namelist() if name != MANIFEST and not name.startswith("weights/")]

    def _check_sums(self) -> None:
        expected = {name: sum_ for name, sum_ in self.manifest.sha256.items() if not name.startswith("weights/")}
        if expected.keys() != self._members.keys():
            lacks = sorted(expected.keys() ^ self._members.keys())
            raise Damaged(f"{self.path} is damaged: its manifest and its contents differ in {lacks[0]}")
        for name, data in self._members.items():
            if hashlib.sha256(data).hexdigest() != expected[name]:
                raise Damaged(f"{self.path} is damaged: {name} is not what was written; get another copy")

    @functools.cached_property
    def trainings(self) -> dict[str, TrainingRecord]:
        """The records of trainings, by key."""
        found = {}
        for line in self._members[TRAININGS].splitlines():
            record = self._parsed(TrainingRecord, line)
            self._check_keys(record.key)
            if record.format > 1 and record.config.key != record.key:
                raise ValueError(f"{self.path}: training {record.key} has the configuration of {record.config.key}")
            found[record.key] = record
        return found

    def _check_keys(self, *keys: str) -> None:
        if wrong := [key for key in keys if not KEY.fullmatch(key)]:
            raise ValueError(f"{self.path} has a record of {shown(wrong[0])}, which is no key; it is not read")

    def _parsed(self, kind: type[Any], line: bytes) -> Any:
        try:
            return kind.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(describe(error, f"a record in {self.path}")) from None

    @functools.cached_property
    def exams(self) -> dict[tuple[str, str], _Exam]:
        """The evaluations, by the keys of training and evaluation."""
        found, start = {}, 0
        for line in self._members[EXAMS].splitlines():
            head = json.loads(line)
            placeholder = {} if head.get("episode_accuracies") else {"correct": [[0]]}
            record = self._parsed(EvaluationRecord, _line(head | placeholder))
            self._check_keys(record.training_key, record.evaluation_key)
            found[record.training_key, record.evaluation_key] = _Exam(record, start)
            if not record.episode_accuracies:
                start += record.config.tested * record.config.way
        if start != len(self._members[ANSWERS]):
            raise ValueError(f"{self.path} is damaged: it has {len(self._members[ANSWERS])} answers, expected {start}")
        return found

    def answers(self, exam: _Exam) -> NDArray[np.uint8]:
        """Correct answers of each episode and class: [E, N]."""
        test = exam.record.config
        counts = np.frombuffer(self._members[ANSWERS], np.uint8, test.tested * test.way, exam.start)
        return counts.reshape(test.tested, test.way)

    def evaluation(self, training_key: str, evaluation_key: str) -> EvaluationRecord | None:
        """The whole record of an evaluation; None if it is not there."""
        exam = self.exams.get((training_key, evaluation_key))
        if exam is None:
            return None
        if exam.record.episode_accuracies:
            return exam.record
        return exam.record.replace(correct=tuple(map(tuple, self.answers(exam).tolist())))

    def plans(self) -> dict[str, SweepPlan]:
        """Every sweep's plan, by name."""
        found = {}
        for name in self.manifest.sweeps:
            try:
                found[name] = SweepPlan.from_json(self._members[f"sweeps/{name}/{PLAN}"])
            except KeyError:
                continue
            except ValidationError as error:
                raise ValueError(describe(error, f"the plan of {name} in {self.path}")) from None
        return found

    def looks(self, name: str) -> Looks | None:
        """The looks that a sweep has taken; None if it has taken none."""
        data = self._members.get(f"sweeps/{name}/{LOOKS}")
        return None if data is None else self._parsed(Looks, data)

    def sweep_files(self) -> dict[str, bytes]:
        """The files of sweeps, by their path in a store."""
        return {name: data for name, data in self._members.items() if name.startswith("sweeps/")}

    def weights(self) -> Iterator[tuple[str, bytes]]:
        """Key and checkpoint of each training whose weights it holds."""
        with zipfile.ZipFile(self.path) as file:
            for name, expected in self.manifest.sha256.items():
                if name.startswith("weights/"):
                    try:
                        data = file.read(name)
                    except (*BROKEN, KeyError) as error:
                        raise Damaged(f"{self.path} is damaged in {name} ({error}); get another copy") from None
                    if hashlib.sha256(data).hexdigest() != expected:
                        raise Damaged(f"{self.path} is damaged: {name} is not what was written; get another copy")
                    yield name.removeprefix("weights/").removesuffix(".safetensors"), data

    def how_ended(self, key: str) -> Ended | None:
        """How a training ended; None if it has not."""
        record = self.trainings.get(key)
        return Ended.model_validate_json(record.model_dump_json()) if record else None

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        """The results of one evaluation; None if it is not there."""
        exam = self.exams.get((training_key, evaluation_key))
        if exam is None:
            return None
        record = exam.record
        found = Tested.of(record)
        if record.episode_accuracies:
            return found
        test, correct = record.config, self.answers(exam).sum(axis=1, dtype=np.int64)
        sums = () if record.classes is None else self._class_sums(record, correct)
        return replace(found, accuracies=correct / (test.way * test.queries), class_sums=sums)

    @staticmethod
    def _class_sums(record: EvaluationRecord, correct: NDArray[np.int64]) -> tuple[int, ...]:
        assert record.classes is not None
        return sums_by_class(drawn_classes(record.config, record.classes, len(correct)), correct, record.classes)

    def curves(self, key: str) -> Curves | None:
        """A training's curves; None if it has not ended."""
        record = self.trainings.get(key)
        return Curves.of(record.history) if record else None

    def running(self, key: str) -> bool:
        """False: nothing runs in an archive."""
        return False


@dataclass(frozen=True)
class Conflict:
    """A file of an archive that the store has with other contents, which were left as they are."""

    path: str
    """In the store."""
    told: str
    """What came of it, and what to do, in words."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    added: tuple[str, ...]
    """Paths in the store of the files that it wrote."""
    there: int
    """Files that the store had already, with the same contents."""
    conflicts: tuple[Conflict, ...]
    """One for each training whose records differ, of which nothing was added, and for each other file."""


def import_archive(archive: Archive, ledger: Ledger) -> Imported:
    """Add an archive's sweeps, records and weights to a store. Nothing is overwritten.

    A training that ended otherwise in the store is another model, so the archive's tests and weights of it are left out
    with its record. All of the archive is read and checked before anything is written.
    """
    wanted = {name: _checked(data) for name, data in archive.sweep_files().items()}
    archive.plans()
    others: list[Conflict] = []
    for key, training in archive.trainings.items():
        if conflict := _other_model(training, ledger):
            others.append(conflict)
            continue
        wanted[f"trainings/{key}/config.json"] = _file(training.config)
        wanted[_record(key)] = _file(training)
    other_models = {conflict.path for conflict in others}
    for name, plan in archive.plans().items():
        if _is_another(name, plan, wanted, ledger, other_models):
            for file in [each for each in wanted if each.startswith(f"sweeps/{name}/") and not each.endswith(PLAN)]:
                del wanted[file]
    for training_key, evaluation_key in archive.exams:
        record = archive.evaluation(training_key, evaluation_key)
        assert record is not None
        if training_key in archive.trainings and _record(training_key) not in other_models:
            wanted[f"trainings/{training_key}/{EVALUATIONS}/{evaluation_key}.json"] = _file(record)
    for key, data in archive.weights():
        if key in archive.trainings and _record(key) not in other_models:
            if ledger.has_weights(key):
                ledger.whole_folder(key)  # a bucket's, to compare them
            wanted[f"trainings/{key}/{BEST}"] = data
    added, there, conflicts = [], 0, []
    for name, data in wanted.items():
        path = ledger.store / name
        if not path.exists():
            added.append(name)
        elif _same(path, data):
            there += 1
        else:
            conflicts.append(Conflict(name, "it was left as it is"))
    for name in added:
        _write(ledger.store / name, wanted[name])
    os.sync()
    ledger.keep(*(ledger.store / name for name in added))
    return Imported(tuple(added), there, (*others, *conflicts))


def _is_another(name: str, plan: SweepPlan, wanted: dict[str, bytes], ledger: Ledger, other_models: set[str]) -> bool:
    """Whether the store has another sweep of this name, or other models of its trainings: its looks are not of them."""
    path = ledger.sweep_folder(name) / PLAN
    if path.exists() and not _same(path, wanted[f"sweeps/{name}/{PLAN}"]):
        return True
    return any(_record(trial.key) in other_models for trial in plan.trials())


def _record(key: str) -> str:
    return f"trainings/{key}/{RECORD}"


def _other_model(training: TrainingRecord, ledger: Ledger) -> Conflict | None:
    """The conflict of an archive's training with another one of its key in the store; None if there is none."""
    name = _record(training.key)
    path = ledger.store / name
    if not path.exists() and (ledger.begun(training.key) or ledger.has_weights(training.key)):
        return Conflict(
            name,
            "a training of this key has begun there, and nothing of the archive's was added; to take that one, first "
            f"run `python -m orchestrator.forget training {training.key} --store {ledger.name} --yes`, then import "
            "again",
        )
    if not path.exists() or _same(path, _file(training)):
        return None
    told = "it was left as it is, and nothing of the archive's training, its tests and weights was added"
    try:
        ours = ledger.training(training.key)
        how = "" if ours is None or ours.outcome == "finished" else f"the training {ours.outcome}"
    except Damaged:
        how = "its record is damaged"
    if how and training.outcome == "finished":
        told += (
            f"; {how} there, and the archive's training finished: to take that one, first run `python -m "
            f"orchestrator.forget training {training.key} --store {ledger.name} --yes`, then import again"
        )
    return Conflict(name, told)


def _file(value: Value) -> bytes:
    text = value.file_text() if isinstance(value, Checked) else value.model_dump_json(indent=1) + "\n"
    return text.encode()


def _checked(member: bytes) -> bytes:
    """The file of a store with the same value as a member, which is on one line and has no checksum of its own."""
    return sealed(json.dumps(json.loads(member), indent=1) + "\n").encode()


def _same(path: Path, data: bytes) -> bool:
    """Whether a file holds the same, apart from what archives leave out."""
    if path.suffix != ".json":
        return path.read_bytes() == data
    try:
        ours, theirs = (json.loads(unsealed(each, str(path))) for each in (path.read_bytes(), data))
    except ValueError:
        return False
    if _portable(ours) == _portable(theirs):
        return True
    read = READERS.get(path.parent.name if path.parent.name == EVALUATIONS else path.name)
    if read is None:
        return False
    try:  # an earlier version wrote fewer fields
        ours, theirs = (read(json.dumps(each)).model_dump(mode="json") for each in (ours, theirs))
    except ValueError:
        return False
    return bool(_portable(ours) == _portable(theirs))


def _write(path: Path, data: bytes) -> None:
    """Write a file whole; that all of them are on the disk is seen to at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.import")
    aside.write_bytes(data)
    aside.replace(path)
