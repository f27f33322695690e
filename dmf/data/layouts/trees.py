"""Read access to files by name, the same for folders and zip archives; names cannot lead outside."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from dmf.data.layouts.pictures import SUFFIXES
from dmf.values import printable

MOST_BYTES = 2**28
"""Largest image or list, since a small archive can unpack to any size."""
UNREADABLE_IN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)
"""Errors for an entry that is damaged, truncated, encrypted, or packed in a way that zipfile does not know."""
DEFLATE64 = 9
"""The packing that Windows uses for large archives, and that Python cannot unpack."""
FOREIGN = frozenset(
    {
        *("__MACOSX", "Icon\r", "desktop.ini", "Thumbs.db", "ehthumbs.db", "lost+found", "System Volume Information"),
        *("$RECYCLE.BIN", "RECYCLER", "@Recycle", "#recycle", "@eaDir", "#snapshot", "@Recently-Snapshot", "@tmp"),
    }
)
"""Files and folders that systems and storage devices put beside a user's own, such as thumbnails and deleted files."""
READ_AT_THE_TOP = (".csv", ".json", ".pickle", ".pkl", ".pth", ".npz", ".zip")
"""Suffixes of files that belong to a layout where they lie at the top of a root."""
_FOREIGN = frozenset(name.lower() for name in FOREIGN)


class Tree(ABC):
    """Files by relative names with `/`, without hidden and `FOREIGN` ones (`.DS_Store`, `._x.jpg`, `@eaDir`)."""

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
    def ignored(self, under: str = "") -> list[str]:
        """Sorted names of the hidden and foreign files in the folder `under`, which `files` leaves out."""

    @abstractmethod
    def entries(self, under: str = "") -> list[str]:
        """Sorted names directly in the folder `under`; those of folders, empty ones too, end with `/`."""

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
    """A folder on disk, as it is when it is first listed. Symbolic links in it are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._walks: dict[str, _Walk] = {}

    def where(self, name: str = "") -> str:
        return printable(str(self.path / name))

    def has(self, name: str) -> bool:
        path = self._path_of(name)
        return path.is_dir() if name.endswith("/") else path.is_file()

    def files(self, under: str = "") -> list[str]:
        return self._walked(under).files

    def ignored(self, under: str = "") -> list[str]:
        return self._walked(under).ignored

    def entries(self, under: str = "") -> list[str]:
        try:
            with os.scandir(self._path_of(under)) as entries:
                kept = [entry for entry in entries if not is_foreign(entry.name)]
                return sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in kept)
        except OSError as error:
            _unreadable(error)

    def _walked(self, under: str) -> _Walk:
        if under not in self._walks:
            self._walks[under] = _walk(str(self._path_of(under)))
        return self._walks[under]

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
    """The entries of a zip archive below `prefix`, read without extracting the archive.

    Entries that Windows programs wrote with backslashes have names with `/` here.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, prefix: str = "") -> None:
        self.path, self.prefix, self._archive = path, prefix, archive

    @cached_property
    def _entries(self) -> dict[str, str]:
        """Every name below the prefix, sorted, with the entry's name in the archive; those of folders end with `/`."""
        named = ((name.replace("\\", "/"), name) for name in self._archive.namelist())
        return dict(
            sorted((name.removeprefix(self.prefix), own) for name, own in named if name.startswith(self.prefix))
        )

    @cached_property
    def _names(self) -> dict[str, str]:
        """The entries that are files of the user's own."""
        return {
            name: own
            for name, own in self._entries.items()
            if not name.endswith("/") and not any(map(is_foreign, name.split("/")))
        }

    def where(self, name: str = "") -> str:
        return printable(f"{self.path}:{self.prefix}{name}" if self.prefix or name else str(self.path))

    def has(self, name: str) -> bool:
        if not name.endswith("/"):
            return name in self._names
        return any(file.startswith(name.removeprefix("./")) for file in self._names)

    def files(self, under: str = "") -> list[str]:
        under = under.removeprefix("./")
        return [name.removeprefix(under) for name in self._names if name.startswith(under)]

    def ignored(self, under: str = "") -> list[str]:
        under = under.removeprefix("./")
        rest = (name for name in self._entries if name not in self._names and not name.endswith("/"))
        return [name.removeprefix(under) for name in rest if name.startswith(under)]

    def entries(self, under: str = "") -> list[str]:
        under = under.removeprefix("./")
        below = (name.removeprefix(under).partition("/") for name in self._entries if name.startswith(under))
        return sorted({first + slash for first, slash, _ in below if first and not is_foreign(first)})

    def open(self, name: str) -> IO[bytes]:
        if name not in self._names:
            raise ValueError(f"{self.where(name)}: no such entry in the archive")
        try:
            return self._archive.open(self._names[name])
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
    """Open the zip archive at `path`, below its top folder if that is the only one (and called `inner`, if given).

    Files beside the top folder, such as a README, do not count.
    """
    try:
        archive = Archive(path, zipfile.ZipFile(path))
    except Exception as error:  # damaged bytes can fail anywhere in zipfile
        raise ValueError(f"{path}: {error}; expected a zip archive (extract other kinds into a folder)") from error
    if any(entry.compress_type == DEFLATE64 for entry in archive._archive.infolist()):
        raise ValueError(
            f"{path}: is packed with Deflate64, as Windows packs large archives, which Python cannot unpack; extract "
            "it, or pack it again with another program"
        )
    tops = {name.split("/")[0] for name in archive.files() if "/" in name}
    only_top = tops.pop() if len(tops) == 1 else None
    beside = any("/" not in name and name.lower().endswith((*READ_AT_THE_TOP, *SUFFIXES)) for name in archive.files())
    if only_top and not beside and inner in (None, only_top):
        return Archive(path, archive._archive, f"{only_top}/")
    return archive


def inside(name: str, where: str) -> str:
    """`name`, after checking that it does not lead outside the folder or archive `where`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: the name {name!r} leads outside; expected a relative name without '..'")
    return name


@dataclass(frozen=True)
class _Walk:
    """All files in a folder, by relative name."""

    files: list[str]
    ignored: list[str]


def _walk(top: str) -> _Walk:
    found: list[str] = []
    ignored: list[str] = []
    above: dict[str, tuple[str, ...]] = {top: (os.path.realpath(top),)}  # real paths of each folder and its parents
    for folder, folders, files in os.walk(top, onerror=_unreadable, followlinks=True):
        ignored += [name for each in folders if is_foreign(each) for name in _names_in(top, os.path.join(folder, each))]
        folders[:] = [name for name in folders if not is_foreign(name)]
        for path in (os.path.join(folder, name) for name in folders):
            above[path] = _followed(path, above[folder])
        prefix = os.path.relpath(folder, top).replace(os.sep, "/") + "/"
        prefix = "" if prefix == "./" else prefix
        for name in files:
            (ignored if is_foreign(name) else found).append(prefix + name)
    return _Walk(sorted(found), sorted(ignored))


def _names_in(top: str, folder: str) -> Iterator[str]:
    """The files in an ignored folder, relative to `top`; links are not followed, and what cannot be read is skipped."""
    for inner, _, files in os.walk(folder):
        for name in files:
            yield os.path.relpath(os.path.join(inner, name), top).replace(os.sep, "/")


def _followed(path: str, above: tuple[str, ...]) -> tuple[str, ...]:
    """The real paths of the folder `path` and its parents, whose real paths are `above`. Rejects links to a parent."""
    real = os.path.realpath(path) if os.path.islink(path) else os.path.join(above[-1], os.path.basename(path))
    if any(os.path.commonpath([folder, real]) == real for folder in above):
        told = "is a link to a folder above it, so images would count twice; remove it"
        raise ValueError(f"{printable(path)}: {told}")
    return *above, real


def _unreadable(error: OSError) -> NoReturn:
    raise ValueError(f"{printable(str(error.filename))}: cannot be read: {error.strerror}") from error


def is_foreign(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems put beside a user's own."""
    return name.startswith(".") or name.lower() in _FOREIGN
