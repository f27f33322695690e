"""Results of an evaluation that adapts to each episode, written as they come: a kill loses the last few only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from dmf.records.records import EVALUATIONS
from dmf.values import Value


def partial_path(folder: Path, evaluation_key: str) -> Path:
    """Where the results of one evaluation of a training's folder are, until its record is written."""
    return folder / EVALUATIONS / f"{evaluation_key}.partial"


class Identity(Value):
    """What results belong to: others are not gone on with."""

    training_key: str
    evaluation_key: str
    weights: str
    """SHA-256 of the tested weights."""
    bank: str
    data_fingerprint: str
    code: str


class PartialResults:
    """A file of lines: first the identity, then the right answers of one episode each, in the bank's order."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self.identity = path, identity

    def read(self) -> list[list[int]]:
        """Results of the first episodes [n][N]; none where the file is of something else. A cut last line goes."""
        if not self.path.is_file():
            return []
        head, *lines = self.path.read_bytes().split(b"\n")
        if head != self._head():
            return []
        return [json.loads(line) for line in lines[:-1]]  # what follows the last line's end was cut off

    def begin(self, results: list[list[int]]) -> None:
        """Write the file anew with the results that are kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"".join(line + b"\n" for line in (self._head(), *map(_line, results))))

    def add(self, results: Iterable[list[int]]) -> None:
        """Add the results of the next episodes; they are on disk when this returns."""
        with open(self.path, "ab") as file:
            file.write(b"".join(_line(each) + b"\n" for each in results))
            file.flush()
            os.fsync(file.fileno())

    def _head(self) -> bytes:
        return self.identity.model_dump_json().encode()


def _line(result: list[int]) -> bytes:
    return json.dumps(result).encode()
