"""Caches what tables and standings need of every record in one SQLite file: `<store>/index.db`.

The record files are the truth. A row counts only while its file has the modification time and size with which it was
read; a record without such a row is read from its file, and gets a row. The index may be deleted at any time. It is
recreated if it cannot be read, and goes unused if it cannot be written.
"""

from __future__ import annotations

import hashlib
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

from dmf.records.facts import Curves, Ended, MadeBy, Point, Tested
from dmf.records.records import EvaluationRecord, Failure, TrainingRecord
from dmf.values import Damaged, digest, readable, unsealed

log = logging.getLogger("dmf.ledger")

FILE = "index.db"
SETTLED_NS = 2_000_000_000
"""A file changed more recently may change again within the same tick of its file system's clock (up to a second or two)
and look the same, so it gets no row yet."""
BUSY_S = 2.0
"""How long to wait for another process that writes."""
PAGE_BYTES = 2048
"""A page holds whole rows, and the rest of it is wasted; SQLite's 4096 would make the file larger by a third."""
ROWS_AT_ONCE = 256
"""Rows written in one transaction."""
MANY = 500
"""Rows looked up one by one; after that all rows are read at once, which takes a tenth of the time."""
TABLE = """
create table if not exists records (
    name text primary key, modified_ns integer, size integer, value text, levels blob, places blob, seal integer
)
"""
TABLES = "select name from sqlite_master where type = 'table' and name not like 'sqlite!_%' escape '!'"
"""Lists all tables except SQLite's own."""
VALUES = (Ended, MadeBy, Failure, Point)
VERSION = int(digest([TABLE, "digest, curves", str([each.__annotations__ for each in (*VALUES, Tested)])], 7), 16)
"""Identifies what rows hold; an index of another version is recreated."""
BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_FORMAT}
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
COLUMNS = "name, modified_ns, size, value, levels, places, seal"
FIND = f"select {COLUMNS} from records"
ADD = f"insert or replace into records ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)"


class Row(NamedTuple):
    """The row of one record file."""

    name: str
    """Its path in the store."""
    modified_ns: int
    size: int
    value: str
    """The needed part of the record, as JSON."""
    levels: bytes = b""
    """Of an evaluation: the distinct accuracies of its episodes, float64, in rising order. Of a training: the loss of
    each epoch, then the validation accuracy (NaN where it was not validated), float64."""
    places: bytes = b""
    """Of an evaluation: the position of each episode's accuracy in `levels`, in the smallest unsigned type that fits.
    Of a training: the epochs, int32."""

    @property
    def seal(self) -> int:
        """A checksum: SQLite has none, and a row damaged on disk must not get into a table."""
        head = f"{self.name} {self.modified_ns} {self.size} {self.value}".encode()
        return zlib.crc32(self.places, zlib.crc32(self.levels, zlib.crc32(head)))


class Index:
    """Reads records of one store, each from its row if that is valid, else from its file.

    Names are paths in the store. Several threads and processes may use it. A record that is damaged or cannot be read
    raises Damaged.
    """

    def __init__(self, store: Path) -> None:
        self._store = str(store)
        self._rows = _Rows(store / FILE)
        self._seen: dict[str, Row | None] | None = None
        weakref.finalize(self, self._rows.close)

    def ended(self, name: str) -> Ended | None:
        """How a training ended, from its record; None without a file."""
        row = self._row(name, _of_training)
        return Ended.model_validate_json(row.value) if row else None

    def curves(self, name: str) -> Curves | None:
        """A training's curves, from its record; None without a file."""
        row = self._row(name, _of_training)
        return _curves(row) if row else None

    def tested(self, name: str) -> Tested | None:
        """An evaluation's result, from its record; None without a file."""
        row = self._row(name, _of_evaluation)
        if row is None:
            return None
        value = json.loads(row.value)
        return Tested(
            **value | {name: tuple(value[name]) for name in ("class_sums", "data_doubts")}, accuracies=_accuracies(row)
        )

    def made_by(self, name: str) -> MadeBy | None:
        """What made an evaluation; None without a file."""
        row = self._row(name, _of_evaluation)
        if row is None:
            return None
        value = json.loads(row.value)
        return MadeBy(format=value["format"], data_fingerprint=value["data_fingerprint"], code=value["code"])

    def digest(self, name: str) -> str | None:
        """The SHA-256 of a training's record; None without a file."""
        row = self._row(name, _of_training)
        return str(json.loads(row.value)["digest"]) if row else None

    def look_once(self) -> None:
        """From now on, look at each file once, until `look_again`: nobody writes records meanwhile."""
        self._seen = {}

    def look_again(self) -> None:
        """Look at files whenever they are asked for."""
        self._seen = None

    def clear(self) -> None:
        """Forget all rows, so that each record is read from its file again."""
        self._rows.clear()

    def settled(self, name: str) -> bool:
        """Whether a file may get a row, because it has not just changed. True if there is no file."""
        with suppress(FileNotFoundError):
            return _settled(os.stat(f"{self._store}/{name}").st_mtime_ns, time.time_ns())
        return True

    def _row(self, name: str, summed_up: Callable[[Path], tuple[str, bytes, bytes]]) -> Row | None:
        seen = self._seen
        if seen is None:
            return self._found(name, summed_up)
        if name not in seen:
            seen[name] = self._found(name, summed_up)
        return seen[name]

    def _found(self, name: str, summed_up: Callable[[Path], tuple[str, bytes, bytes]]) -> Row | None:
        path, now_ns = f"{self._store}/{name}", time.time_ns()
        try:
            file = os.stat(path)
            row = self._rows.find(name)
            if row and (row.modified_ns, row.size) == (file.st_mtime_ns, file.st_size):
                return row
            row = Row(name, file.st_mtime_ns, file.st_size, *summed_up(Path(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror or error}") from error
        if _settled(file.st_mtime_ns, now_ns):
            self._rows.add(row)
        return row


def _settled(modified_ns: int, now_ns: int) -> bool:
    return now_ns - modified_ns > SETTLED_NS


class _Summed(Ended, Curves):
    """All that a row holds of a training's record, which is parsed once."""


def _of_training(path: Path) -> tuple[str, bytes, bytes]:
    with readable(TrainingRecord.__name__, path):
        data = path.read_bytes()
        record = _Summed.model_validate_json(unsealed(data, f"{TrainingRecord.__name__} in {path}"))
    ended = record.model_dump(mode="json", exclude={"history"})
    kept = {**ended, "digest": hashlib.sha256(data).hexdigest()}
    points = [(p.loss, np.nan if p.validation_accuracy is None else p.validation_accuracy) for p in record.history]
    epochs = np.array([p.epoch for p in record.history], np.int32)
    return json.dumps(kept, separators=(",", ":")), np.array(points, np.float64).T.tobytes(), epochs.tobytes()


def _curves(row: Row) -> Curves:
    epochs = np.frombuffer(row.places, np.int32).tolist()
    losses, validated = np.frombuffer(row.levels).reshape(2, len(epochs)).tolist()
    points = zip(epochs, losses, validated, strict=True)
    told = (Point(epoch=e, loss=loss, validation_accuracy=None if v != v else v) for e, loss, v in points)
    return Curves(history=tuple(told))


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
    """A row as it was found; None if it is damaged."""
    if found is None or not (isinstance(found[4], bytes) and isinstance(found[5], bytes)):
        return None
    return row if (row := Row(*found[:-1])).seal == found[-1] else None


class _Rows:
    """The rows of one database file. If the file is unusable, no rows are found or kept."""

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
        """The row of a name; None if there is none or it is damaged."""
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
        """Keep a row, to be written together with others."""
        with self._lock:
            self._new[row.name] = row
            if len(self._new) >= ROWS_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Write the new rows. Those that cannot be written are read from their files again next time."""
        with self._lock:
            rows, self._new = self._new, {}
            if rows and self._writes:
                with self._trouble("_writes"), self._opened() as connection:
                    connection.executemany(ADD, [(*row, row.seal) for row in rows.values()])
            if self._all is not None:
                self._all |= {name: (*row, row.seal) for name, row in rows.items()}

    def clear(self) -> None:
        """Delete all rows."""
        with self._lock:
            self._new, self._all = {}, None
            if self._writes:
                with self._trouble("_writes"), self._opened() as connection:
                    connection.execute("delete from records")

    def close(self) -> None:
        """Write the new rows and close the file."""
        with self._lock:
            self.flush()
            if self._connection:
                self._connection.close()
                self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, BUSY_S, check_same_thread=False)
            connection.text_factory = lambda text: text.decode(errors="replace")  # damaged text fails the checksum
            connection.execute(f"pragma page_size = {PAGE_BYTES}")  # for a new file
            connection.execute("pragma synchronous = off")  # damage by a power cut is repaired from the records
            if connection.execute("pragma user_version").fetchone()[0] != VERSION:
                self._make(connection)
            self._connection = connection
        return self._connection

    def _make(self, connection: sqlite3.Connection) -> None:
        """Replace whatever tables are there, of another version or foreign, with ours."""
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
        """Handle errors while reading or writing (`what`): recreate a broken file once, then do without the index."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in BUSY:
                return  # the next attempt may succeed
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
            log.info("%s is broken and cannot be removed: %s", self._path, error)
            self._reads = self._writes = False
        return True
