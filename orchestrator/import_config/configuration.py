"""A configuration of LibFewShot: its file, the files that it includes, and which of its settings have been used.

LibFewShot reads its own headers first, then each file of `includes`, then the file itself; a later key replaces an
earlier one of the same name with everything below it. Includes of an included file are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dmf.values import shown
from orchestrator.spec.file import parse_yaml

FOLDER = "config"
"""The folder of LibFewShot that `includes` are relative to."""
HEADERS = tuple(f"headers/{name}.yaml" for name in ("data", "device", "misc", "model", "optimizer"))
"""Files in that folder that LibFewShot reads for every configuration."""
INCLUDES = "includes"
LARGEST_FILE = 2**20
"""Bytes of the largest file that is read."""


@dataclass(frozen=True)
class Unmapped:
    """A setting that the sweep file does not have."""

    setting: str
    """Its path and value, or several paths."""
    reason: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.reason}"


class Configuration:
    """The settings of a configuration by dotted path. Each is used once: taken, or told as unmapped."""

    def __init__(self, values: dict[str, Any], where: str, root: Path | None) -> None:
        self.where = where
        self.root = root
        """LibFewShot's own folder, from which its relative paths start, if it was found."""
        self._left = dict(_leaves(values, ""))
        self.unmapped: list[Unmapped] = []

    def count(self, path: str, default: int | None = None, least: int = 1) -> int:
        """A whole number from `least`; ValueError if it is another value, or absent without a default."""
        value = self._take(path, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(path, value, f"a whole number from {least}")
        return value

    def number(self, path: str, default: float | None = None) -> float:
        """A finite number from 0."""
        value = self._take(path, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise self.wrong(path, value, "a number from 0")
        return float(value)

    def flag(self, path: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._take(path, default)
        if not isinstance(value, bool):
            raise self.wrong(path, value, "true or false")
        return value

    def text(self, path: str, default: str | None = None) -> str:
        """Text that is not empty."""
        value = self._take(path, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(path, value, "text")
        return value

    def any(self, path: str) -> Any:
        """A value of any kind; None if it is absent."""
        return self._left.pop(path, None)

    def wrong(self, path: str, value: Any, expected: str) -> ValueError:
        """What to raise for a value that cannot be."""
        if value is None:
            return ValueError(f"{self.where} gives no {path}, neither itself nor in what it includes; add it")
        return ValueError(f"{self.where}: {path}={shown(value)} is not {expected}; correct it")

    def tell(self, setting: str, reason: str) -> None:
        """Tell as unmapped what is no single setting, or has been taken."""
        self.unmapped.append(Unmapped(setting, reason))

    def leave(self, paths: Sequence[str], reason: str) -> None:
        """Tell those of the settings that are there as unmapped, all for one reason."""
        there = [path for path in paths if self._left.pop(path, None) is not None]
        if there:
            self.tell(", ".join(there), reason)

    def below(self, prefix: str) -> list[str]:
        """Paths of the unused settings below a prefix, such as `optimizer.kwargs`."""
        return [path for path in self._left if path.startswith(f"{prefix}.")]

    def leave_rest(self, reason: str) -> None:
        """Tell every setting that was not used, unless its value is null, which is LibFewShot's word for absent."""
        for path, value in self._left.items():
            if value is not None:
                self.tell(f"{path}={shown(value)}", reason)
        self._left.clear()

    def _take(self, path: str, default: Any) -> Any:
        value = self._left.pop(path, None)
        return default if value is None else value


def read_configuration(path: Path, folder: Path | None = None) -> Configuration:
    """Read a configuration of LibFewShot with what it includes.

    `includes` are in `folder`, or else in the nearest folder called `config` that has one of them: around the file,
    above it, or here. Nothing in the files is executed. Raises ValueError for a file that is missing or not plain YAML.
    """
    own = _read(path)
    includes = own.pop(INCLUDES, None) or []
    if not isinstance(includes, list) or not all(isinstance(name, str) and name for name in includes):
        raise ValueError(f"{path}: includes={shown(includes)} is not a list of files, such as [headers/data.yaml]")
    for name in includes:
        _check_inside(name, path)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--config {folder} is not a folder; name LibFewShot's folder {FOLDER}")
    wanted = (*HEADERS, *includes)
    if folder is None:
        folder = next((place for place in _folders(path) if any((place / each).is_file() for each in wanted)), None)
    values: dict[str, Any] = {}
    for name in HEADERS:
        if folder is not None and (folder / name).is_file():
            values |= _read(folder / name)
    nested = []
    for name in includes:
        if folder is None or not (folder / name).exists():
            raise ValueError(
                f"{path} includes {shown(name)}, which is not in {folder or f'a folder {FOLDER} around it'}; name "
                f"LibFewShot's folder with --config, or remove the include if the file gives everything itself"
            )
        included = _read(folder / name)
        if included.pop(INCLUDES, None):
            nested.append(name)
        values |= included
    given = Configuration(values | own, str(path), folder.resolve().parent if folder else None)
    if nested:
        given.tell(", ".join(nested), "LibFewShot does not follow the includes of an included file")
    return given


def _folders(path: Path) -> Iterator[Path]:
    """Where includes may be: folders called `config` around and above the file, then in the current folder."""
    for above in path.resolve().parents:
        if above.name == FOLDER:
            yield above
        yield above / FOLDER
    yield Path(FOLDER)


def _check_inside(name: str, path: Path) -> None:
    """Raise ValueError for an include outside LibFewShot's folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path} includes {shown(name)}, which is outside LibFewShot's folder {FOLDER}; move it there")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file; name a configuration of LibFewShot")
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{path} has over {LARGEST_FILE:,} bytes; expected a configuration of LibFewShot")
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}; expected a mapping, such as way_num: 5")
    return data


def _leaves(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
