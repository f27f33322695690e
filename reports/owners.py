"""A folder of tables or figures: whose they are, and which files a command wrote there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dmf.values import Checked, Damaged, Value

FILE = ".owner.json"


class Owner(Value):
    """Where tables or figures come from: a store, an archive, an MLflow server, two of these, or a training."""

    name: str
    """The store's folder or URI, the archive's path, the server's URI without its password, or a training's folder."""
    id: str = ""
    """The store's identity, or the SHA-256 of the training's weights, which move with it; empty if it has none."""
    former: str = ""
    """The identity of the store that it is a copy of."""

    def against(self, other: Owner) -> Owner:
        """The owner of a comparison of two stores."""
        ids = f"{self.id} {other.id}" if self.id and other.id else ""
        return Owner(name=f"{self.name} against {other.name}", id=ids)


class Written(Checked):
    """The content of `.owner.json`."""

    owner: Owner
    folder: str
    """Where it was written: with its store, the folder may have been copied since."""
    files: tuple[str, ...] = ()
    """Names of the files that were written beside it."""


def check_owner(folder: Path, owner: Owner, what: str = "tables") -> None:
    """Raise ValueError if `folder` has what comes from another source, which would be overwritten; Damaged."""
    written = _written(folder)
    if written and not _is_of(written, folder, owner):
        raise ValueError(
            f"{folder} has the {what} of {written.owner.name}, and these are of {owner.name}; write them to another "
            "folder (--results DIR of a sweep, --output DIR of other commands), or remove that one"
        )


def note_files(folder: Path, owner: Owner, now: Iterable[str], possible: Iterable[str] | None = None) -> None:
    """Note the files that are about to be written; delete earlier ones that are not `possible` any more, if given."""
    written = _written(folder)
    before = set(written.files if written else ())
    gone = before - {*now, *possible} if possible is not None else set()
    files = tuple(sorted((before - gone) | {*now}))
    Written(owner=owner, folder=str(folder.resolve()), files=files).write(folder / FILE)
    for name in gone:
        (folder / Path(name).name).unlink(missing_ok=True)


def _is_of(written: Written, folder: Path, owner: Owner) -> bool:
    """Whether files are of `owner`: a store at the same place, the same one moved, or a copy of it made with them."""
    if written.owner.name == owner.name or (owner.id and owner.id == written.owner.id):
        return True
    copied = written.folder != str(folder.resolve())
    return copied and bool(owner.former) and owner.former == written.owner.id


def _written(folder: Path) -> Written | None:
    try:
        return Written.read(folder / FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Damaged:
        raise Damaged(
            f"{folder / FILE} is damaged and does not say whose the files beside it are; if they may be overwritten, "
            "remove it"
        ) from None
