"""Whether a file system passes locks on to other machines, by its mount options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mounts")
LOCAL_LOCKS = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "noflock", "localflocks", "nobrl"}
"""Options of NFS, Lustre, OCFS2 and CIFS under which a machine does not see the locks of others, or there are none."""


class Mount(NamedTuple):
    """A line of /proc/self/mounts."""

    folder: str
    kind: str
    """Such as ext4 or nfs4."""
    options: frozenset[str]


def mount_of(path: Path) -> Mount | None:
    """The mount that holds `path`; None where the system does not tell."""
    if not MOUNTS.is_file():
        return None
    lines = (line.split() for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    mounts = [Mount(_plain(folder), kind, frozenset(options.split(","))) for _, folder, kind, options, *_ in lines]
    place = path.resolve()
    holding = [mount for mount in mounts if place.is_relative_to(mount.folder)]
    return max(reversed(holding), key=lambda mount: len(mount.folder), default=None)  # the last one lies on top


def without_locks(path: Path) -> str:
    """Why other machines do not see locks on `path`; empty if they do, as far as its mount says."""
    mount = mount_of(path)
    found = sorted(mount.options & LOCAL_LOCKS) if mount else []
    return f"{mount.folder} ({mount.kind}) is mounted with {', '.join(found)}" if mount and found else ""


def _plain(text: str) -> str:
    r"""A mount point, in which \040 stands for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
