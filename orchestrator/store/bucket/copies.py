"""Which objects the files of a mirror are copies of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dmf.values import Value

FILE, FORMER_FILE = ".copies.json", ".remote.json"


class Copy(NamedTuple):
    """A file as it was brought, and the object that it was brought from."""

    e_tag: str | None
    modified_ns: int
    """The file's time of change; 0 where there is no file any more."""


class Rows(Value):
    """What the file holds, by name."""

    copies: dict[str, tuple[str | None, int]] = {}


class Copies:
    """The copies of one mirror."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copies = Rows.read(path).copies if path.is_file() else {}

    @classmethod
    @contextlib.contextmanager
    def of(cls, folder: Path) -> Iterator[Copies]:
        """Those of the mirror in `folder`. ValueError when an earlier version wrote it or the file is damaged."""
        if (folder / FORMER_FILE).exists():
            raise ValueError(
                f"{folder} was written by an earlier version; remove trainings, sweeps and {FORMER_FILE} in it, and "
                "the store's files are fetched again"
            )
        yield cls(folder / FILE)

    def under(self, prefix: str) -> dict[str, Copy]:
        """Those whose names begin with `prefix`, by name."""
        return {name: Copy(*copy) for name, copy in self._copies.items() if name.startswith(prefix)}

    def change(self, brought: Mapping[str, Copy], gone: Iterable[str]) -> None:
        """Note what was brought and forget what is gone."""
        left = {name: copy for name, copy in self._copies.items() if name not in set(gone)}
        Rows(copies=left | brought).write(self._path)
