"""Results of an evaluation that adapts to each episode, written as they come, so that a kill loses only a few."""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from dmf.records.records import EVALUATIONS
from dmf.values import Value


def partial_path(folder: Path, evaluation_key: str) -> Path:
    """The file in a training's folder that holds the results of an evaluation until its record is written."""
    return folder / EVALUATIONS / f"{evaluation_key}.partial"


class Identity(Value):
    """What the results belong to. An evaluation resumes only from results with its own identity."""

    training_key: str
    evaluation_key: str
    weights: str
    """SHA-256 of the tested weights."""
    bank: str
    data_fingerprint: str
    code: str


class PartialResults:
    """A file of lines: the identity, then one line per episode with its correct answers, in the bank's order."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self.identity = path, identity

    def read(self) -> list[list[int]]:
        """Results of the first n episodes, [n][N]; none if the identity differs.

        They end before the first line that is damaged, as the last one may be after a kill.
        """
        if not self.path.is_file():
            return []
        head, *lines = self.path.read_bytes().split(b"\n")
        if head != self._head():
            return []
        results = (line.rpartition(b" ") for line in lines)
        sound = itertools.takewhile(lambda parts: parts[2] == _sum(parts[0]), results)
        return [json.loads(result) for result, _, _ in sound]

    def begin(self, results: list[list[int]]) -> None:
        """Rewrite the file with `results`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"".join(line + b"\n" for line in (self._head(), *map(_line, results))))

    def add(self, results: Iterable[list[int]]) -> None:
        """Append the results of the next episodes; they are on disk when this returns."""
        with open(self.path, "ab") as file:
            file.write(b"".join(_line(each) + b"\n" for each in results))
            file.flush()
            os.fsync(file.fileno())

    def _head(self) -> bytes:
        return self.identity.model_dump_json().encode()


def _line(result: list[int]) -> bytes:
    """The result, a space and its checksum."""
    text = json.dumps(result).encode()
    return text + b" " + _sum(text)


def _sum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
