"""Copies the code when a sweep starts; trials import the copy, whatever happens to the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dmf.machine.files import write_text
from dmf.records.provenance import COMMIT, git_commit

ROOT = Path(__file__).resolve().parents[2]
"""The root of the checkout or installation."""
PARTS = ("dmf", "orchestrator", "reports", "csrc")
SUFFIXES = {".py", ".so", ".csv", ".yaml", ".jinja", ".cpp", ".cu", ".cuh", ".h"}


def snapshot(store: Path) -> Path:
    """Copy the code to `store`/code/<its hash>, unless an intact copy is there; return that folder.

    The copy names the commit that it was made from.
    """
    folder = _copied(store)
    write_text(folder / COMMIT, git_commit() or "")
    return folder


def _copied(store: Path) -> Path:
    files = dict(_files(ROOT))
    digest = _digest(files)
    folder = store / "code" / digest
    if folder.is_dir():
        if _digest(dict(_files(folder))) == digest:
            return folder
        shutil.rmtree(folder)  # a power cut can leave empty files
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, path in files.items():
            copy = aside / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        aside.chmod(0o755)
        os.rename(aside, folder)
    except BaseException:
        shutil.rmtree(aside)
        raise
    return folder


def _digest(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of every file that trials may need, in a fixed order."""
    for part in PARTS:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path.relative_to(root).as_posix(), path
