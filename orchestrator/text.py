"""Formats numbers for people to read."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds in readable units: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes, hours, days = round(seconds / 60), seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{int(days)} d {round(hours) - 24 * int(days)} h"
