"""Reads paths that users write: `~` stands for a home, whatever a shell did or did not do with it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def expanded(path: str, setting: str = "") -> str:
    """`path`, which `setting` gives, as it is, but with a leading `~` or `~user` replaced by that user's home.

    Raises ValueError for a home that there is not, since a folder of that name is hardly meant.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        home = whole.partition(os.sep)[0]
        named = f"{setting}={path}" if setting else path
        raise ValueError(f"{named}: {home} is no user's home on this machine; write ./{path} for a folder of that name")
    return whole


def default_cache_dir() -> Path:
    """$DMF_CACHE, else $XDG_CACHE_HOME/dmf, else ~/.cache/dmf. Raises ValueError if there is no home."""
    if os.environ.get("DMF_CACHE"):
        return Path(expanded(os.environ["DMF_CACHE"], "DMF_CACHE"))
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(expanded(os.environ["XDG_CACHE_HOME"], "XDG_CACHE_HOME")) / "dmf"
    try:
        return Path.home() / ".cache" / "dmf"
    except RuntimeError:
        raise ValueError("this user has no home folder for the cache of images: name a folder with DMF_CACHE") from None


def takes(folder: Path) -> bool:
    """Whether files can be written to a folder, which may have to be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def path_option(text: str) -> Path:
    """A path on a command line, for argparse."""
    return Path(address_option(text))


def address_option(text: str) -> str:
    """A path or an address with `://` on a command line, for argparse. An address stays as it is."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder or a file")
    try:
        return text if "://" in text else expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
