"""The processor: its name and what it computes."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def cpu_name() -> str:
    """The processor's model."""
    models = re.findall(r"^model name\s*: (.+)$", cpuinfo(), re.MULTILINE)
    return models[0] if models else platform.machine()


def cpuinfo() -> str:
    """What Linux says of the processors; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""
