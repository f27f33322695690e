"""What tables and standings need of every record, in one SQLite file beside them: `<store>/index.db`.

The files are the truth. A row counts only while its file has the time of change and the size that it had when it was
read; what has no such row is read from its file, and its row is added. The index may be deleted at any time, is made
again when it can not be read, and where it can not be written everybody does without.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmf.records.facts import Ended, MadeBy, Tested
from dmf.records.records import EvaluationRecord, Failure
from dmf.values import digest

log = logging.getLogger("dmf.ledger")

FILE = "index.db"
SETTLED_NS = 2_000_000_000
"""A file that changed less long ago may change again within the same tick of its file system's clock, which is up to a
second or two, and look the same: it gets no row yet."""
BUSY_S = 2.0
"""To wait for another process that writes."""
ROWS_AT_ONCE = 256
"""That are written together."""
MANY = 500
"""Rows that are asked for one by one: who wants more gets all there are at once, which takes a tenth of the time."""
TABLE = """
create table if not exists records (
    name text primary key, modified_ns integer, size integer, value text, levels blob, places blob, seal integer
)
"""
TABLES = "select name from sqlite_master where type = 'table' and name not like 'sqlite!_%' escape '!'"
"""All but SQLite's own."""
VALUES = (Ended, MadeBy, Failure)
VERSION = int(digest([TABLE, str([each.__annotations__ for each in (*VALUES, Tested)])], 7), 16)
"""Of what rows hold: another one is as good as none."""
BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_FORMAT}
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
COLUMNS = "name, modified_ns, size, value, levels, places, seal"
FIND = f"select {COLUMNS} from records"
ADD = f"insert or replace into records ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)"


class Row(NamedTuple):
    """Of one record's file."""

    name: str
    """Its path in the store."""
    modified_ns: int
    size: int
    value: str
    """What is needed of it, as JSON."""
    levels: bytes = b""
    """The different accuracies of its episodes, float64, in rising order."""
    places: bytes = b""
    """Which of them each episode has, in the smallest unsigned type that counts them."""

    @property
    def seal(self) -> int:
        """A checksum: SQLite has none, and a row that was damaged on the disk must not fill a table."""
        head = f"{self.name} {self.modified_ns} {self.size} {self.value}".encode()
        return zlib.crc32(self.places, zlib.crc32(self.levels, zlib.crc32(head)))


class Index:
    """Reads records of one store, each from its row if it has one that counts, else from its file.

    Names are paths in the store. May be used by several threads and processes.
    """

    def __init__(self, store: Path) -> None:
        self._store = str(store)
        self._rows = _Rows(store / FILE)
        weakref.finalize(self, self._rows.close)

    def ended(self, name: str) -> Ended | None:
        """What a training's record says of its end; None without a file."""
        row = self._row(name, _of_training)
        return Ended.model_validate_json(row.value) if row else None

    def tested(self, name: str) -> Tested | None:
        """What an evaluation's record says; None without a file."""
        row = self._row(name, _of_evaluation)
        return Tested(**json.loads(row.value), accuracies=_accuracies(row)) if row else None

    def made_by(self, name: str) -> MadeBy | None:
        """By what an evaluation was made; None without a file."""
        row = self._row(name, _of_evaluation)
        if row is None:
            return None
        value = json.loads(row.value)
        return MadeBy(format=value["format"], data_fingerprint=value["data_fingerprint"], code=value["code"])

    def settled(self, name: str) -> bool:
        """Whether a file may have a row: it has not just been changed. True where there is none."""
        with suppress(FileNotFoundError):
            return _settled(os.stat(f"{self._store}/{name}").st_mtime_ns, time.time_ns())
        return True

    def _row(self, name: str, summed_up: Callable[[Path], tuple[str, bytes, bytes]]) -> Row | None:
        path, now_ns = f"{self._store}/{name}", time.time_ns()
        try:
            file = os.stat(path)
            row = self._rows.find(name)
            if row and (row.modified_ns, row.size) == (file.st_mtime_ns, file.st_size):
                return row
            row = Row(name, file.st_mtime_ns, file.st_size, *summed_up(Path(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if _settled(file.st_mtime_ns, now_ns):
            self._rows.add(row)
        return row


def _settled(modified_ns: int, now_ns: int) -> bool:
    return now_ns - modified_ns > SETTLED_NS


def _of_training(path: Path) -> tuple[str, bytes, bytes]:
    return Ended.read(path).model_dump_json(), b"", b""


def _of_evaluation(path: Path) -> tuple[str, bytes, bytes]:
    tested = Tested.of(EvaluationRecord.read(path))
    levels, places = np.unique(tested.accuracies, return_inverse=True)
    value = {field.name: getattr(tested, field.name) for field in fields(Tested) if field.name != "accuracies"}
    return json.dumps(value), levels.tobytes(), places.astype(_counter(len(levels))).tobytes()


def _accuracies(row: Row) -> NDArray[np.float64]:
    levels = np.frombuffer(row.levels)
    return levels.take(np.frombuffer(row.places, _counter(len(levels))))


def _counter(levels: int) -> type[np.unsignedinteger]:
    return np.uint8 if levels <= 256 else np.uint16 if levels <= 65536 else np.uint32


def _sound(found: tuple[Any, ...] | None) -> Row | None:
    """A row as it was found, unless it is damaged."""
    if found is None or not (isinstance(found[4], bytes) and isinstance(found[5], bytes)):
        return None
    return row if (row := Row(*found[:-1])).seal == found[-1] else None


class _Rows:
    """The rows of one file; without it, or where it does not do, none are found and none are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._new: dict[str, Row] = {}
        self._reads = self._writes = True
        self._made_again = False
        self._asked = 0
        self._all: dict[str, tuple[Any, ...]] | None = None

    def find(self, name: str) -> Row | None:
        """The row of a name, unless it is damaged."""
        with self._lock:
            if row := self._new.get(name):
                return row
            if self._all is None and self._reads:
                with self._trouble("_reads"):
                    self._asked += 1
                    if self._asked < MANY:
                        return _sound(self._opened().execute(f"{FIND} where name = ?", (name,)).fetchone())
                    self._all = {found[0]: found for found in self._opened().execute(FIND)}
            return _sound(self._all.get(name)) if self._all else None

    def add(self, row: Row) -> None:
        """Keep a row; it is written with others."""
        with self._lock:
            self._new[row.name] = row
            if len(self._new) >= ROWS_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Write what is not written yet. What can not be is read from its file again, another time."""
        with self._lock:
            rows, self._new = self._new, {}
            if rows and self._writes:
                with self._trouble("_writes"), self._opened() as connection:
                    connection.executemany(ADD, [(*row, row.seal) for row in rows.values()])
            if self._all is not None:
                self._all |= {name: (*row, row.seal) for name, row in rows.items()}

    def close(self) -> None:
        """Write what is not written yet, and let go of the file."""
        with self._lock:
            self.flush()
            if self._connection:
                self._connection.close()
                self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, BUSY_S, check_same_thread=False)
            connection.text_factory = lambda text: text.decode(errors="replace")  # damaged text fails by its seal
            connection.execute("pragma synchronous = off")  # what a power cut damages is made again
            if connection.execute("pragma user_version").fetchone()[0] != VERSION:
                self._make(connection)
            self._connection = connection
        return self._connection

    def _make(self, connection: sqlite3.Connection) -> None:
        """Whatever tables are there, of another version or somebody else's, give way to ours."""
        with connection:
            connection.execute("begin immediate")
            if connection.execute("pragma user_version").fetchone()[0] == VERSION:
                return  # another process was faster
            for (name,) in connection.execute(TABLES).fetchall():
                connection.execute(f'drop table "{name}"')
            connection.execute(TABLE)
            connection.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def _trouble(self, what: str) -> Iterator[None]:
        """Around reading or writing (`what`): a broken file is made again, once; else it is done without."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in BUSY:
                return  # the next one may find it free
            if code in BROKEN and not self._made_again:
                self._made_again = self._removed()
                return
            setattr(self, what, False)
            log.info("%s is not used: %s", self._path, error)

    def _removed(self) -> bool:
        if self._connection:
            self._connection.close()
            self._connection = None
        try:
            self._path.unlink(missing_ok=True)
            Path(f"{self._path}-journal").unlink(missing_ok=True)
        except OSError as error:
            log.info("%s is broken and can not be removed: %s", self._path, error)
            self._reads = self._writes = False
        return True
