"""Which code and which libraries a number comes from."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a number can depend on."""
    libraries = ("torch", "torchvision", "torchdiffeq", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in libraries}


def git_commit() -> str | None:
    """The commit of this code, "+changes" behind it for an unclean tree; None where it is not in a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True)

    try:
        head = git("rev-parse", "HEAD")
    except FileNotFoundError:  # git is not installed
        return None
    if head.returncode:
        return None
    changes = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent)).stdout.strip()
    return head.stdout.strip() + ("+changes" if changes else "")
