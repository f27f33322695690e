"""Machines whose user has no home folder, or none that can be written to, as in containers: the store has one for it.

Settings go to environment variables, which Ray's processes and trials inherit.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from dmf.machine.paths import default_cache_dir, takes
from orchestrator.store.bucket.mirror import RemoteStore

HOME = "home"
"""The folder in the store."""


def settle(store: str) -> None:
    """Let caches and Ray's token be in the store, a folder, if the home folder is not there or takes none.

    A home folder that can be read stays: it may hold passwords for object stores. So does a folder that the user has
    named, with DMF_CACHE or XDG_CACHE_HOME.
    """
    if RemoteStore.is_remote(store):
        return
    place = Path(store).resolve() / HOME
    if not Path(os.path.expanduser("~")).is_dir():  # "~" itself, if the user is unknown
        os.environ["HOME"] = str(place)
    elif not takes(Path.home()):
        os.environ.setdefault("MPLCONFIGDIR", str(place / ".config" / "matplotlib"))
        if not takes(default_cache_dir()) and not {"DMF_CACHE", "XDG_CACHE_HOME"} & os.environ.keys():
            os.environ["DMF_CACHE"] = str(place / ".cache" / "dmf")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # some libraries ask for the user's name, and raise this
        os.environ.setdefault("LOGNAME", str(os.getuid()))
