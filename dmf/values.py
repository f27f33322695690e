"""The base class of every value that is stored in a file: configurations, records, plans.

By default, pydantic silently drops a misspelt key and reads `"3"` as 3; `Value` rejects both and names the path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dmf.machine.files import write_text

LONGEST_SHOWN = 200
"""Characters of a wrong value that an error message shows."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = LONGEST_SHOWN
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20
_SHORT.maxlevel = 3
_ENDS = "\n}\n"
_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
_LIKE_A_SEAL = re.compile(rb'"[^"]{6}"[^"]*"[^"]{64}"[^"]*\Z')
"""How a `Checked` value's file ends, and what its end may be after a bit in it has flipped."""
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class Damaged(ValueError):
    """A file does not hold what was written there, or cannot be read. Its text names the file."""


class Value(BaseModel):
    """A frozen pydantic model. Unknown keys and wrong types are errors; lists become tuples."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=True, ser_json_inf_nan="constants"
    )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Validate plain data, as from YAML or JSON. Raises a ValueError that names every wrong path."""
        try:
            text = json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # a path with bytes that are not UTF-8
            near = error.object[max(0, error.start - 30) : error.end + 30]
            raise ValueError(f"{cls.__name__}: {shown(near)} is not UTF-8 text; rename the file or folder") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(describe(error, cls.__name__)) from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file that `write` wrote.

        Raises Damaged, a ValueError, for any other content and for a file that cannot be read; FileNotFoundError.
        """
        with readable(cls.__name__, path):
            return cls.model_validate_json(Path(path).read_bytes())

    def write(self, path: str | Path) -> None:
        """Write as JSON, completely or not at all."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    def replace(self, **paths: Any) -> Self:
        """A copy with other values at the given paths (`__` stands for the dot), validated again.

        >>> config.replace(model__groups=160, episodes__shot=5)
        """
        return self.with_paths({path.replace("__", "."): value for path, value in paths.items()})

    def with_paths(self, values: dict[str, Any]) -> Self:
        """A copy with `values` (dotted path -> value) replaced, validated again.

        Only the sections that change are validated. If that fails, everything is validated as plain data, which turns
        lists into tuples, and whose error names every wrong path.
        """
        try:
            return self._with_fields(values)
        except ValueError:
            return self._with_plain(values)

    def _with_fields(self, values: dict[str, Any]) -> Self:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        below: dict[str, dict[str, Any]] = {}
        for path, value in values.items():
            name, dot, rest = path.partition(".")
            if dot:
                below.setdefault(name, {})[rest] = value
            else:
                fields[name] = value
        for name, paths in below.items():
            section = fields.get(name)
            if not isinstance(section, Value):
                raise ValueError(f"{name!r} is not a section of {type(self).__name__}")
            fields[name] = section._with_fields(paths)
        return type(self)(**fields)

    def _with_plain(self, values: dict[str, Any], data: dict[str, Any] | None = None) -> Self:
        """As `with_paths`, by way of plain data: `data`, which is modified, or this value's own."""
        data = self.model_dump(mode="json") if data is None else data
        for path, value in values.items():
            *parents, leaf = path.split(".")
            node = data
            for depth, name in enumerate(parents):
                if not isinstance(node.get(name), dict):
                    section = ".".join(parents[: depth + 1])
                    raise ValueError(f"{section!r} is not a section; the sections are {', '.join(data)}")
                node = node[name]
            if leaf not in node:
                alike = [known for known in self.flat() if known.rpartition(".")[2] == leaf]
                hint = f"did you mean {alike[0]}? " if alike else ""
                raise ValueError(f"{path!r} is not a parameter; {hint}the parameters there are {', '.join(node)}")
            node[leaf] = value
        return type(self).from_dict(data)

    def flat(self) -> dict[str, Any]:
        """Dotted path -> plain value of every field."""

        def below(name: str, value: Any) -> Iterator[tuple[str, Any]]:
            if isinstance(value, Value):
                for field in type(value).model_fields:
                    yield from below(f"{name}.{field}", getattr(value, field))
            else:
                yield name, list(value) if isinstance(value, tuple) else value

        return {path: value for name in type(self).model_fields for path, value in below(name, getattr(self, name))}

    def at(self, path: str) -> Any:
        """The value at a dotted path such as `model.groups`."""
        node: Any = self
        for name in path.split("."):
            node = getattr(node, name)
        return node


class Checked(Value):
    """A value whose file ends with a checksum of the rest, so that any other bit in it is found.

    Files of earlier versions have none, and are read.
    """

    @classmethod
    def read(cls, path: str | Path) -> Self:
        with readable(cls.__name__, path):
            return cls.model_validate_json(unsealed(Path(path).read_bytes(), f"{cls.__name__} in {path}"))

    def write(self, path: str | Path) -> None:
        write_text(path, self.file_text())

    def file_text(self) -> str:
        """The text of the file that `write` writes."""
        return sealed(self.model_dump_json(indent=1) + "\n")


def sealed(text: str) -> str:
    """The JSON of a `Checked` value, indented by 1 and with a line break at its end, with its checksum."""
    return f'{text[: -len(_ENDS)]},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"{_ENDS}'


def unsealed(data: bytes, what: str) -> bytes:
    """The content of a `Checked` value's file without its checksum. Raises Damaged, naming `what`, if it differs."""
    seal = _SEAL.search(data, max(0, len(data) - 200))
    rest = data[: seal.start()] + _ENDS.encode() if seal else data
    differs = seal is not None and hashlib.sha256(rest).hexdigest() != seal[1].decode()
    if differs or (seal is None and _LIKE_A_SEAL.search(data, max(0, len(data) - 200))):
        raise Damaged(f"{what} is damaged: its content is not what was written; restore the file, or remove it")
    return rest


@contextlib.contextmanager
def readable(what: str, path: str | Path) -> Iterator[None]:
    """Turn errors of reading and validating `path` inside the block, which holds a `what`, into Damaged."""
    try:
        yield
    except ValidationError as error:
        raise Damaged(describe(error, f"{what} in {path}")) from None
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise Damaged(f"{what} in {path} cannot be read: {error.strerror or error}") from error


def describe(error: ValidationError, what: str) -> str:
    """One line per mistake in a pydantic error: the path, what was expected and what was given."""
    lines = []
    for mistake in error.errors():
        path = ".".join(str(part) for part in untagged(mistake["loc"]))
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "no such parameter"
        elif mistake["type"] == "json_invalid":  # the input would be the whole file
            message = f"damaged ({message}); restore the file, or remove it"
        elif mistake["type"] == "union_tag_invalid":
            message = f"got {mistake['ctx']['tag']}, expected one of {mistake['ctx']['expected_tags']}"
            message = re.sub(r"'?<(.*?)>'?", r"\1", message)
        elif mistake["type"] not in ("missing", "value_error"):
            message = in_words(mistake)
        lines.append(f"{path}: {message}" if path else message)
    return f"{what}: " + "\n".join(lines) if len(lines) == 1 else f"{what}:\n  " + "\n  ".join(lines)


def in_words(mistake: Any) -> str:
    """A pydantic mistake about a value: what was expected, and what was given."""
    got = mistake["input"]
    pattern = mistake["ctx"]["pattern"] if mistake["type"] == "string_pattern_mismatch" else ""
    if not re.fullmatch(pattern, "a"):  # not that of a name
        return f"{mistake['msg']}, got {shown(got)}"
    dash = "" if re.fullmatch(pattern, "a-a") is None else ", -"
    first = "a lower-case letter" + ("" if re.fullmatch(pattern, "0") is None else " or a digit")
    like = re.sub("[^a-z0-9]+", "_", str(got).lower()).strip("_")
    example = f", such as {shown(like)}" if re.fullmatch(pattern, like) else ""
    most = f"at most {int(found[1]) + 1} " if (found := re.search(r"\{0,(\d+)\}", pattern)) else ""
    return f"got {shown(got)}, expected {most}lower-case letters, digits{dash} and _, beginning with {first}{example}"


def untagged(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The location of a pydantic mistake, without the tags of unions (`tag_by`)."""
    return tuple(part for part in place if not re.fullmatch("<.*>", str(part)))


def digest(data: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `data` as canonical JSON."""
    return hashlib.sha256(CANONICAL.encode(data).encode()).hexdigest()[:length]


def shown(value: Any) -> str:
    """`value` for an error message, cut if it is long or deep; safe even for a huge value that YAML anchors build."""
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def printable(text: str, lines: bool = False) -> str:
    """`text` with control and invisible characters escaped; with `lines`, except line breaks.

    All text from files goes through it before it is shown: names in archives, records, plans and messages can hold
    sequences that a terminal obeys. What then remains to be escaped is the markup of each format.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode() for c in text)


Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Larger seeds would repeat the streams of other seeds (`dmf.draws.derived_seed`)."""
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        said = str(value).lower()
        raise ValueError(f"got {said}, which is not a number (YAML reads on, yes and true as true); write 0, 1, ...")
    return value


def tag_by(field: str, default: str) -> Callable[[Any], str]:
    """A discriminator that reads the tag "<value>" from `field`, or "<default>" if the field is missing."""

    def tag(value: Any) -> str:
        return f"<{value.get(field, default) if isinstance(value, dict) else getattr(value, field, default)}>"

    return tag


NO_BOOL = BeforeValidator(_no_bool)
"""For a Literal of numbers, which would accept true as 1."""
