"""Which code and which libraries a number comes from."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a number can depend on."""
    installed = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "torchdiffeq", "numpy", "pillow"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def git_commit() -> str | None:
    """The commit of this code, "+changes" behind it for an unclean tree; None where it is not in a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True)

    try:
        tracked = git("ls-files", "--error-unmatch", __file__)
    except FileNotFoundError:  # git is not installed
        return None
    if tracked.returncode:  # installed, perhaps inside another repository
        return None
    head = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent)).stdout.strip()
    return head.stdout.strip() + ("+changes" if changes else "")
