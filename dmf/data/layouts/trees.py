"""Read access to files by name, the same for folders and zip archives; names cannot lead outside."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from dmf.values import printable

MOST_BYTES = 2**28
"""Largest image or list, since a small archive can unpack to any size."""
UNREADABLE_IN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)
"""Errors for an entry that is damaged, truncated, encrypted, or packed in a way that zipfile does not know."""


class Tree(ABC):
    """Files by relative names with `/`, without hidden ones (`.DS_Store`, `._x.jpg`, `__MACOSX`)."""

    @abstractmethod
    def where(self, name: str = "") -> str:
        """The full name of `name`, for error messages."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a file `name`, or a folder if `name` ends with `/`."""

    @abstractmethod
    def files(self, under: str = "") -> list[str]:
        """Sorted names of all files in the folder `under`, relative to it."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open the file `name` to read its bytes."""

    @abstractmethod
    def below(self, folder: str) -> Tree:
        """The tree whose names are relative to `folder` (with `/` at its end)."""

    @abstractmethod
    def stamps(self, name: str = "") -> Iterator[tuple[str, int, int]]:
        """Name, size and modification time of the file `name`, or of all files in that folder, to detect changes."""

    def read(self, name: str) -> bytes:
        """All bytes of the file `name`. Raises ValueError if it is too large for an image or a list."""
        with self.open(name) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"{self.where(name)}: holds more than {MOST_BYTES >> 20} MiB; expected one image or list")
        return data

    def mount(self, name: str) -> Tree:
        """The tree in the folder `name/`, or in the archive `name`, below a top folder of the archive's name if any."""
        if name.endswith("/"):
            return self.below(name)
        return open_archive(self._path_of(name), inner=PurePosixPath(name).name.split(".")[0])

    def _path_of(self, name: str) -> Path:
        raise ValueError(f"{self.where(name)}: an archive within an archive; extract the outer one")


class Folder(Tree):
    """A folder on disk. Symbolic links in it are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, name: str = "") -> str:
        return printable(str(self.path / name))

    def has(self, name: str) -> bool:
        path = self._path_of(name)
        return path.is_dir() if name.endswith("/") else path.is_file()

    def files(self, under: str = "") -> list[str]:
        top = str(self._path_of(under))
        names: list[str] = []
        above: dict[str, tuple[str, ...]] = {top: (os.path.realpath(top),)}  # real paths of each folder and its parents
        for folder, folders, files in os.walk(top, onerror=_unreadable, followlinks=True):
            folders[:] = [name for name in folders if not _hidden(name)]
            for path in (os.path.join(folder, name) for name in folders):
                above[path] = _followed(path, above[folder])
            prefix = os.path.relpath(folder, top).replace(os.sep, "/") + "/"
            prefix = "" if prefix == "./" else prefix
            names += [prefix + name for name in files if not _hidden(name)]
        return sorted(names)

    def open(self, name: str) -> IO[bytes]:
        try:
            return open(self._path_of(name), "rb")
        except OSError as error:
            _unreadable(error)

    def below(self, folder: str) -> Tree:
        return Folder(self._path_of(folder))

    def stamps(self, name: str = "") -> Iterator[tuple[str, int, int]]:
        for file in self.files(name) if name.endswith("/") else [""]:
            try:
                status = os.stat(os.path.join(self._path_of(name), file) if file else self._path_of(name))
            except OSError as error:
                _unreadable(error)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{self.where(name + file)}: is not a regular file, so it cannot be read; remove it")
            yield name + file, status.st_size, status.st_mtime_ns

    def _path_of(self, name: str) -> Path:
        return self.path / inside(name, self.where())


class Archive(Tree):
    """The entries of a zip archive below `prefix`, read without extracting the archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, prefix: str = "") -> None:
        self.path, self.prefix, self._archive = path, prefix, archive

    @cached_property
    def _names(self) -> dict[str, None]:
        """Sorted names below the prefix, in a dict for fast lookup."""
        names = (name for name in self._archive.namelist() if name.startswith(self.prefix) and not name.endswith("/"))
        kept = sorted(name.removeprefix(self.prefix) for name in names if not any(map(_hidden, name.split("/"))))
        return dict.fromkeys(kept)

    def where(self, name: str = "") -> str:
        return printable(f"{self.path}:{self.prefix}{name}" if self.prefix or name else str(self.path))

    def has(self, name: str) -> bool:
        if not name.endswith("/"):
            return name in self._names
        return any(file.startswith(name.removeprefix("./")) for file in self._names)

    def files(self, under: str = "") -> list[str]:
        under = under.removeprefix("./")
        return [name.removeprefix(under) for name in self._names if name.startswith(under)]

    def open(self, name: str) -> IO[bytes]:
        if name not in self._names:
            raise ValueError(f"{self.where(name)}: no such entry in the archive")
        try:
            return self._archive.open(self.prefix + name)
        except UNREADABLE_IN_ARCHIVE as error:
            self._refuse(name, error)

    def read(self, name: str) -> bytes:
        try:
            return super().read(name)
        except UNREADABLE_IN_ARCHIVE as error:
            self._refuse(name, error)

    def _refuse(self, name: str, error: Exception) -> NoReturn:
        raise ValueError(f"{self.where(name)}: cannot be read ({error}); expected a whole, unencrypted zip") from error

    def below(self, folder: str) -> Tree:
        return Archive(self.path, self._archive, self.prefix + folder)

    def stamps(self, name: str = "") -> Iterator[tuple[str, int, int]]:
        status = self.path.stat()
        yield self.path.name, status.st_size, status.st_mtime_ns


def open_tree(root: Path) -> Tree:
    """Open the folder or zip archive at `root`."""
    if root.is_dir():
        return Folder(root)
    if root.is_file():
        return open_archive(root)
    raise ValueError(f"data.root={str(root)!r} does not exist; expected a folder or a zip archive with the images")


def open_archive(path: Path, inner: str | None = None) -> Archive:
    """Open the zip archive at `path`, below its top folder if that is the only one (and called `inner`, if given)."""
    try:
        archive = Archive(path, zipfile.ZipFile(path))
    except Exception as error:  # damaged bytes can fail anywhere in zipfile
        raise ValueError(f"{path}: {error}; expected a zip archive (extract other kinds into a folder)") from error
    tops = {name.split("/")[0] for name in archive.files()}
    only_top = tops.pop() if len(tops) == 1 else None
    return Archive(path, archive._archive, f"{only_top}/") if only_top and inner in (None, only_top) else archive


def inside(name: str, where: str) -> str:
    """`name`, after checking that it does not lead outside the folder or archive `where`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: the name {name!r} leads outside; expected a relative name without '..'")
    return name


def _followed(path: str, above: tuple[str, ...]) -> tuple[str, ...]:
    """The real paths of the folder `path` and its parents, whose real paths are `above`. Rejects links to a parent."""
    real = os.path.realpath(path) if os.path.islink(path) else os.path.join(above[-1], os.path.basename(path))
    if any(os.path.commonpath([folder, real]) == real for folder in above):
        told = "is a link to a folder above it, so images would count twice; remove it"
        raise ValueError(f"{printable(path)}: {told}")
    return *above, real


def _unreadable(error: OSError) -> NoReturn:
    raise ValueError(f"{printable(str(error.filename))}: cannot be read: {error.strerror}") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
