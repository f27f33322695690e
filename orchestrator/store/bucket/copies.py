"""Remembers which object each file of a mirror is a copy of, in a SQLite file beside them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

FILE, FORMER_FILE = ".copies.db", ".remote.json"
BUSY_S = 30.0
"""How long to wait for another process that writes."""
TABLE = "create table if not exists copies (name text primary key, e_tag text, modified_ns integer) without rowid"


class Copy(NamedTuple):
    """A copied file, and the object that it is a copy of."""

    e_tag: str | None
    modified_ns: int
    """The file's modification time; 0 if the file is gone."""


class Copies:
    """The rows of one mirror."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextlib.contextmanager
    def of(cls, folder: Path) -> Iterator[Copies]:
        """The copies in the mirror `folder`, which is created if needed.

        Raises:
            ValueError: if an earlier version wrote the mirror.
            OSError: if the file cannot be read or written, or is damaged.
        """
        if (folder / FORMER_FILE).exists():
            raise ValueError(
                f"{folder} was written by an earlier version; remove trainings, sweeps and {FORMER_FILE} in it, and "
                "the store's files are fetched again"
            )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(folder / FILE, BUSY_S)) as connection:
                connection.execute(TABLE)
                yield cls(connection)
        except sqlite3.Error as error:
            raise OSError(
                f"{folder / FILE} cannot be used: {error}; if it is damaged, remove it with trainings and sweeps "
                "beside it: the store's files are fetched again"
            ) from error

    def under(self, prefix: str) -> dict[str, Copy]:
        """Copies whose names begin with `prefix`, by name."""
        # "\U0010ffff" sorts after every other character, so this is a range of the primary key.
        rows = self._connection.execute(
            "select name, e_tag, modified_ns from copies where name >= ? and name < ?", (prefix, f"{prefix}\U0010ffff")
        )
        return {name: Copy(e_tag, modified_ns) for name, e_tag, modified_ns in rows}

    def change(self, brought: Mapping[str, Copy], gone: Mapping[str, Copy]) -> None:
        """Write rows, and delete those that are still as given, in one transaction."""
        with self._connection:
            self._connection.executemany(
                "delete from copies where name = ? and e_tag is ? and modified_ns = ?",
                [(name, *copy) for name, copy in gone.items()],
            )
            rows = [(name, *copy) for name, copy in brought.items()]
            self._connection.executemany("insert or replace into copies values (?, ?, ?)", rows)
