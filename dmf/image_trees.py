"""Files by name, alike in a folder and in a zip archive; nothing outside of it can be named, nothing is written."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn


class Tree(ABC):
    """Files under relative names with `/`, hidden ones (`.DS_Store`, `._x.jpg`, `__MACOSX`) left out."""

    @abstractmethod
    def where(self, name: str = "") -> str:
        """`name` as an error should call it."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Is there a file `name`, or, with `/` at its end, a folder?"""

    @abstractmethod
    def files(self, under: str = "") -> list[str]:
        """All files in the folder `under`, sorted, their names relative to it."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The bytes of file `name`, to read."""

    @abstractmethod
    def below(self, folder: str) -> Tree:
        """The tree whose names are relative to `folder` (with `/` at its end)."""

    @abstractmethod
    def stamps(self, name: str = "") -> Iterator[tuple[str, int, int]]:
        """Name, size and time of change of file `name`, or of all files in that folder: unchanged while they are."""

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def mount(self, name: str) -> Tree:
        """The tree in folder `name/`, or in the archive `name` whose entries may all begin with its folder's name."""
        if name.endswith("/"):
            return self.below(name)
        return open_archive(self._path_of(name), inner=PurePosixPath(name).name.split(".")[0])

    def _path_of(self, name: str) -> Path:
        raise ValueError(f"{self.where(name)}: an archive within an archive; extract the outer one")


class Folder(Tree):
    """A folder on disk. Links that the user made in it are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, name: str = "") -> str:
        return str(self.path / name)

    def has(self, name: str) -> bool:
        path = self._path_of(name)
        return path.is_dir() if name.endswith("/") else path.is_file()

    def files(self, under: str = "") -> list[str]:
        top = self._path_of(under)
        names = []
        for folder, folders, files in os.walk(top, onerror=_unreadable, followlinks=True):
            folders[:] = [name for name in folders if not _hidden(name)]
            prefix = os.path.relpath(folder, top).replace(os.sep, "/") + "/"
            prefix = "" if prefix == "./" else prefix
            names += [prefix + name for name in files if not _hidden(name)]
        return sorted(names)

    def open(self, name: str) -> BinaryIO:
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
            yield name + file, status.st_size, status.st_mtime_ns

    def _path_of(self, name: str) -> Path:
        return self.path / inside(name, self.where())


class Archive(Tree):
    """The entries of a zip archive below `prefix`, read where they are."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, prefix: str = "") -> None:
        self.path, self.prefix, self._archive = path, prefix, archive

    @cached_property
    def _names(self) -> dict[str, None]:
        """The sorted names below the prefix; a dict for quick look-up."""
        names = (name for name in self._archive.namelist() if name.startswith(self.prefix) and not name.endswith("/"))
        kept = sorted(name.removeprefix(self.prefix) for name in names if not any(map(_hidden, name.split("/"))))
        return dict.fromkeys(kept)

    def where(self, name: str = "") -> str:
        return f"{self.path}:{self.prefix}{name}" if self.prefix or name else str(self.path)

    def has(self, name: str) -> bool:
        if not name.endswith("/"):
            return name in self._names
        return any(file.startswith(name.removeprefix("./")) for file in self._names)

    def files(self, under: str = "") -> list[str]:
        under = under.removeprefix("./")
        return [name.removeprefix(under) for name in self._names if name.startswith(under)]

    def open(self, name: str) -> BinaryIO:
        if name not in self._names:
            raise ValueError(f"{self.where(name)}: no such entry in the archive")
        return self._archive.open(self.prefix + name)

    def below(self, folder: str) -> Tree:
        return Archive(self.path, self._archive, self.prefix + folder)

    def stamps(self, name: str = "") -> Iterator[tuple[str, int, int]]:
        status = self.path.stat()
        yield self.path.name, status.st_size, status.st_mtime_ns


def open_tree(root: Path) -> Tree:
    """The folder or zip archive at `root`."""
    if root.is_dir():
        return Folder(root)
    if root.is_file():
        return open_archive(root)
    raise ValueError(f"root {str(root)!r} does not exist; expected a folder or a zip archive with the images")


def open_archive(path: Path, inner: str | None = None) -> Archive:
    """The zip archive at `path`, below its folder `inner`, or below the one folder that holds everything."""
    try:
        archive = Archive(path, zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: {error}; expected a zip archive (extract other kinds into a folder)") from error
    tops = {name.split("/")[0] for name in archive.files()}
    only_top = tops.pop() if len(tops) == 1 else None
    return Archive(path, archive._archive, f"{only_top}/") if only_top and inner in (None, only_top) else archive


def inside(name: str, where: str) -> str:
    """`name`, after a check that it cannot lead out of the folder or archive `where`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: the name {name!r} leads outside of it; expected one relative to it, without '..'")
    return name


def _unreadable(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
