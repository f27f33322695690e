"""The folder of a sweep's tables: whose they are, and which files a report wrote there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dmf.values import Value

FILE = ".owner.json"


class Owner(Value):
    """Where tables come from: a store, an archive or an MLflow server."""

    name: str
    """The store's folder or URI, the archive's path, or the server's URI without its password."""
    id: str = ""
    """The store's identity, which moves with it; empty if it has none."""
    former: str = ""
    """The identity of the store that it is a copy of."""


class Written(Value):
    """The content of `.owner.json`."""

    owner: Owner
    folder: str
    """Where it was written: with its store, the folder may have been copied since."""
    files: tuple[str, ...] = ()
    """Names of the files that reports wrote beside it."""


def check_owner(folder: Path, owner: Owner) -> None:
    """Raise ValueError if `folder` has the tables of another source, which would be overwritten; Damaged."""
    written = _written(folder)
    if written and not _is_of(written, folder, owner):
        raise ValueError(
            f"{folder} has the tables of {written.owner.name}, and these are of {owner.name}; write them to another "
            "folder (--results DIR of a sweep, --output DIR of a report), or remove that one"
        )


def note_files(folder: Path, owner: Owner, now: Iterable[str], possible: Iterable[str]) -> None:
    """Note the files that a report is about to write; delete those of earlier ones that are no longer `possible`."""
    written = _written(folder)
    before = set(written.files if written else ())
    gone = before - {*now, *possible}
    files = tuple(sorted((before - gone) | {*now}))
    Written(owner=owner, folder=str(folder.resolve()), files=files).write(folder / FILE)
    for name in gone:
        (folder / Path(name).name).unlink(missing_ok=True)


def _is_of(written: Written, folder: Path, owner: Owner) -> bool:
    """Whether tables are of `owner`: a store at the same place, the same one moved, or a copy of it made with them."""
    if written.owner.name == owner.name or (owner.id and owner.id == written.owner.id):
        return True
    copied = written.folder != str(folder.resolve())
    return copied and bool(owner.former) and owner.former == written.owner.id


def _written(folder: Path) -> Written | None:
    try:
        return Written.read(folder / FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
