"""CONTRIBUTING.md names only what exists: files, rooms, and the places where additions are registered."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w.]+/[\w./]*)`", TEXT)


def test_files_and_folders_that_it_names_are_there() -> None:
    assert len(NAMED) > 20
    assert [name for name in NAMED if "NAME" not in name and not (ROOT / name).exists()] == []


def test_every_room_is_named_by_itself_or_by_the_room_around_it() -> None:
    rooms = [path.parent for package in ("dmf", "orchestrator") for path in (ROOT / package).glob("*/**/__init__.py")]
    named = {ROOT / name for name in NAMED if name.endswith("/")}
    assert len(rooms) > 10
    assert [str(room) for room in rooms if not named & {room, *room.parents}] == []


@pytest.mark.parametrize(("name", "path"), re.findall(r"`(\w+)`(?: and `\w+`)? of\s`([\w/]+\.py)`", TEXT))
def test_a_name_is_in_the_module_that_it_is_said_to_be_of(name: str, path: str) -> None:
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert hasattr(importlib.import_module(module), name)
