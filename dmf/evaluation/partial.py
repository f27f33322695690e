"""Results of an evaluation that adapts to each episode, written as they come, so that a kill loses only a few.

Workers can share an evaluation: each writes the results of its own part of the episodes to a file of its own, and
whoever makes the record reads them all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from dmf.records.records import EVALUATIONS
from dmf.values import Value

SUFFIX = ".partial"


class Part(Value):
    """One of several parts of an evaluation's episodes, for one of several workers."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def named(cls, text: str) -> Part:
        """Read "2/4". Raises ValueError for anything else, and for a number beyond the last."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"got part {text!r}, expected a number and how many there are, such as 2/4")
        return cls(number=int(number), of=int(of))

    def episodes(self, count: int) -> range:
        """Its episodes of `count`: the parts are one after the other, and differ by at most one episode."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


def partial_path(folder: Path, evaluation_key: str, part: Part | None = None) -> Path:
    """The file in a training's folder that holds the results of an evaluation, or of a part of it."""
    name = evaluation_key if part is None else f"{evaluation_key}.{part.number}of{part.of}"
    return folder / EVALUATIONS / f"{name}{SUFFIX}"


def partial_paths(folder: Path, evaluation_key: str) -> list[Path]:
    """The files with results of an evaluation that has no record yet, by whichever workers."""
    return sorted((folder / EVALUATIONS).glob(f"{evaluation_key}*{SUFFIX}"))


def remove_partial(folder: Path, evaluation_key: str) -> None:
    """Delete these files, once the record is written."""
    for path in partial_paths(folder, evaluation_key):
        path.unlink(missing_ok=True)


class Identity(Value):
    """What the results belong to. An evaluation resumes only from results with its own identity."""

    training_key: str
    evaluation_key: str
    weights: str
    """SHA-256 of the tested weights."""
    bank: str
    data_fingerprint: str
    code: str


class Result(Value):
    """What one episode gave."""

    episode: int
    """Its number in the bank, from 0."""
    correct: tuple[int, ...]
    """[N]: correct answers for each of its classes."""
    counts: dict[str, int]
    """What the method counted beside its answers (`Adaptation.counts`)."""
    seconds: float
    """Wall time that it took."""
    cpu_seconds: float
    """CPU time that it took."""


class PartialResults:
    """A file of lines: the identity, then one line per episode with its result."""

    def __init__(self, folder: Path, identity: Identity, part: Part | None = None) -> None:
        self.folder, self.identity, self.part = folder, identity, part
        self.path = partial_path(folder, identity.evaluation_key, part)

    def read(self) -> dict[int, Result]:
        """Results by episode, from all workers' files of the same identity."""
        found: dict[int, Result] = {}
        for path in partial_paths(self.folder, self.identity.evaluation_key):
            found.update(self._read(path))
        return found

    def _read(self, path: Path) -> dict[int, Result]:
        """The results in a file, up to the first line that is damaged, as the last one may be after a kill."""
        with contextlib.suppress(FileNotFoundError):  # another worker has made the record meanwhile
            head, *lines = path.read_bytes().split(b"\n")
            if head == self._head():
                sound = itertools.takewhile(lambda each: each is not None, map(_result, lines))
                return {each.episode: each for each in sound if each}
        return {}

    def begin(self) -> None:
        """Rewrite this worker's own file with the sound results that it holds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = self._read(self.path).values()
        self.path.write_bytes(b"".join(line + b"\n" for line in (self._head(), *map(_line, own))))

    def add(self, results: Iterable[Result]) -> None:
        """Append the results of further episodes; they are on disk when this returns."""
        with open(self.path, "ab") as file:
            file.write(b"".join(_line(each) + b"\n" for each in results))
            file.flush()
            os.fsync(file.fileno())

    def _head(self) -> bytes:
        return self.identity.model_dump_json().encode()


def _line(result: Result) -> bytes:
    """The result, a space and its checksum."""
    text = result.model_dump_json().encode()
    return text + b" " + _sum(text)


def _result(line: bytes) -> Result | None:
    """What `_line` wrote; None if it is damaged."""
    text, _, found = line.rpartition(b" ")
    return Result.model_validate_json(text) if found == _sum(text) else None


def _sum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
