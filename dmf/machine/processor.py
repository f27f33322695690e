"""The processor's name and features."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def cpu_name() -> str:
    """The processor's model."""
    models = re.findall(r"^model name\s*: (.+)$", cpuinfo(), re.MULTILINE)
    return models[0] if models else platform.machine()


def cpuinfo() -> str:
    """Linux's /proc/cpuinfo; empty on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""
