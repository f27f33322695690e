"""Compares names as people do: whatever their case, and however their accents are encoded."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import PurePosixPath
from typing import TypeVar

from dmf.data.layouts.trees import inside

Key = TypeVar("Key")


def composed(name: str) -> str:
    """The name with composed characters (Unicode NFC); macOS stores decomposed ones, which look the same."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """The form in which two names are compared: without surrounding space and case, and composed."""
    return composed(composed(name).strip().casefold())


class Names:
    """The files of a tree by name, to find those that a list names in another spelling or below another root."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        return _by(folded, self._names)

    @cached_property
    def _by_end(self) -> dict[tuple[str, ...], list[str]]:
        """The files by their own name and their folder's."""
        return _by(lambda name: tuple(map(folded, name.split("/")[-2:])), self._names)

    def find(self, name: str, where: str) -> str | None:
        """The file called `name`, or else the one whose name differs only in case, accents' encoding or slashes.

        Raises ValueError, naming the list `where`, if there are several such files, or if the name leads outside.
        """
        if name in self._names:
            return name
        return _only(self._alike.get(folded(inside(name.replace("\\", "/"), where)), []), name, where)

    def find_end(self, path: str, where: str) -> str | None:
        """The file whose name shares the longest end with an absolute `path` of another machine, two parts or more.

        Raises ValueError, naming the list `where`, if several files share the longest end.
        """
        parts = [folded(part) for part in PurePosixPath(path.replace("\\", "/")).parts]
        shared = {name: _shared(parts, name) for name in self._by_end.get(tuple(parts[-2:]), [])}
        return _only([name for name, count in shared.items() if count == max(shared.values())], path, where)


def _shared(parts: list[str], name: str) -> int:
    """How many parts of a path, from its end, are those of a file's name."""
    pairs = zip(reversed(parts), reversed(name.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == folded(pair[1]), pairs))


def _by(key: Callable[[str], Key], names: set[str]) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for name in sorted(names):
        found.setdefault(key(name), []).append(name)
    return found


def _only(found: list[str], name: str, where: str) -> str | None:
    if len(found) > 1:
        told = f"{found[0]!r} and {found[1]!r}" + (f" and {len(found) - 2} more" if len(found) > 2 else "")
        raise ValueError(f"{where}: {name!r} can be {told}; keep one of them, or name it in full")
    return found[0] if found else None
