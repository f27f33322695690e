"""Reads a sweep file strictly: reports every mistake at once, with its path and what is possible there."""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dmf.config import RECIPES, OtherDataConfig
from dmf.config.parameters import read_as, type_at
from dmf.values import LONGEST_SHOWN, Value, in_words, shown, untagged
from orchestrator.spec.decide import undecidable
from orchestrator.spec.model import (
    GIVEN_BY_SEEDS,
    NEVER_VARIED,
    PARAMETERS,
    SECTIONS,
    SEEDS_DECIDED,
    SEEDS_LISTED,
    Decide,
    Evaluation,
    Part,
    Range,
    Resources,
    Search,
    SweepSpec,
    check_rows,
)
from reports.claims import Claim, Gain
from reports.layouts import TABLES, NamedRow, TableLayout

SETTINGS = ("set", "zip", "grid", "trials", "parameters")
"""Keys that hold dotted paths."""
STAND_INS = {"name": "stand-in", "table": "1"}
"""Replace required names that are wrong, so that the rest of the file can be checked."""
OWN_SECTIONS: dict[str, type[Value]] = {
    "evaluation": Evaluation,
    "resources": Resources,
    "search": Search,
    "seeds": Decide,
}
ANCHORS = "anchors"
"""A key whose content nothing reads: a place for YAML anchors."""
CHECKED_COMBINATIONS = 1000
"""The most combinations of a search's values that are checked; if there are more, each parameter is checked alone."""
MOST_CHARACTERS = 1_000_000
"""The size limit of a YAML document after its anchors are expanded."""


INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
"""The numbers of YAML 1.2, which YAML 1.1 (PyYAML) partly reads as other numbers or as text: 010, 1:30, 1_000, 1e-3."""
AMBIGUOUS = re.compile(r"[-+]?0[0-9]+")


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, and a key that is a list or mapping.

    Numbers are YAML 1.2's, and dates stay text. A whole number that starts with 0 is refused: YAML 1.1 reads 010 as 8.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        if _characters(node, {}) > MOST_CHARACTERS:
            raise yaml.constructor.ConstructorError(
                None, None, f"it has over {MOST_CHARACTERS:,} characters once its anchors are expanded", node.start_mark
            )
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping cannot be a key", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice; keep one of them", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if AMBIGUOUS.fullmatch(text):
        plain = text.lstrip("+-0") or "0"
        raise yaml.constructor.ConstructorError(
            None, None, f"{text} starts with 0, which some programs take for octal; write {plain}", node.start_mark
        )
    if not INTEGER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a whole number")
    bases = {"0o": 8, "0x": 16}
    return int(text[2:], bases[text[:2]]) if text[:2] in bases else int(text)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0].rpartition(":")[2] not in ("int", "float", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"(?:{INTEGER.pattern})\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{FLOAT.pattern})\Z"), list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)


def parse_yaml(text: str, where: str) -> Any:
    """Parse the YAML document `text` to plain data; a mistake raises a ValueError that says where it is."""
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # the constructors of dates, !!int and such
        raise ValueError(f"{where} is not valid YAML: a value does not match its tag or form ({error})") from None
    try:
        return json.loads(json.dumps(data, default=str))  # copies what anchors share
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not plain data; an anchor may contain itself: {error}") from None


def _characters(node: yaml.Node, known: dict[int, int]) -> int:
    """Characters in a node with its anchors expanded; one that contains itself, refused later, counts once."""
    if id(node) not in known:
        known[id(node)] = 1
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        whole = len(inner) if isinstance(node, yaml.ScalarNode) else sum(_characters(part, known) for part in inner)
        known[id(node)] = 1 + whole
    return known[id(node)]


def read_spec(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file and apply `key=value` overrides.

    Keys are the file's own (`seeds`, `evaluation.episodes`, `resources.gpu`) or dotted parameters, for every part
    (`data.root`) or for one part (`parts.1.data.root`). A value is read by its key's type: text, such as a path, as it
    is, the rest as YAML.

    Raises:
        ValueError: with every mistake in the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    data = _mapping(parse_yaml(text, str(path)), str(path))
    for override in overrides:
        _override(data, override)
    return spec_from(data, str(path))


def spec_from(data: dict[str, Any], where: str = "the sweep") -> SweepSpec:
    """Validate a sweep given as plain data; raise ValueError with one line per mistake."""
    data = _amended({name: value for name, value in _mapping(data, where).items() if name != ANCHORS})
    spec, mistakes = _validated(data)
    sound = spec
    if mistakes and (rest := _without(data, mistakes)) is not None:
        sound, further = _validated(rest)
        mistakes += [mistake for mistake in further if mistake["loc"][:1] == ("parts",)]
    told = list(dict.fromkeys(map(_told, mistakes)))
    if sound:
        told += [*_unknown_tables(sound), *_impossible_claims(sound), *_impossible(sound)]
    if spec and spec.deciding and not told:
        told = undecidable(spec, spec.deciding)
    if told:
        count = "1 mistake" if len(told) == 1 else f"{len(told)} mistakes"
        raise ValueError(f"{where} has {count}:\n  " + "\n  ".join(told))
    assert spec is not None
    return spec


def _amended(data: dict[str, Any]) -> dict[str, Any]:
    """The sweep with each description of one of the paper's tables completed by what the description leaves out."""

    def whole(part: Any) -> Any:
        table = part.get("table") if isinstance(part, dict) else None
        if isinstance(table, dict) and (shipped := TABLES.get(str(table.get("name")))):
            return part | {"table": shipped.model_dump(mode="json") | table}
        return part

    parts = data.get("parts")
    return data | {"parts": [whole(part) for part in parts]} if isinstance(parts, list) else data


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping with name and parts or search, got {type(data).__name__}")
    return data


def _override(data: dict[str, Any], override: str) -> None:
    """Apply one `key=value` from the command line. It overrides every `set`, but not what the sweep varies."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(
            f"{shown(override)} is not a setting; write key=value, such as data.root=/images or seeds=[0,1]"
        )
    value = read_as(_type_of(key), text, lambda text: _value(text, override))
    head, _, rest = key.partition(".")
    given = data.get("parts")
    listed = given if isinstance(given, list) else []
    parts = [part for part in listed if isinstance(part, dict)]
    if head == "parts" and rest:
        number, _, path = rest.partition(".")
        if not (number.isascii() and number.isdigit()) or int(number) >= len(listed) or not path:
            raise ValueError(f"{key!r}: write parts.N.data.root with N from 0 to {len(listed) - 1}")
        if not isinstance(listed[int(number)], dict):
            raise ValueError(f"{key!r}: parts.{number} is not a mapping in this file")
        _set_in(listed[int(number)], path, value, key)
    elif head in SECTIONS:
        for part in parts:
            if path_is_varied(part, key):
                raise ValueError(f"{key} is what this sweep varies; change its values in the file")
            if isinstance(part.get("set"), dict):
                part["set"].pop(key, None)
        _set_in(data, key, value, key)
    elif head in OWN_SECTIONS and rest:
        section = data.setdefault(head, {})
        if not isinstance(section, dict):
            raise ValueError(f"{key}: {head} is not a mapping in this file")
        *inner, leaf = rest.split(".") if head == "evaluation" else [rest]
        for name in inner:
            section = section.setdefault(name, {}) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"{key}: {head}.{'.'.join(inner)} is not a mapping in this file")
        section[leaf] = value
    else:
        data[key] = value


def _type_of(key: str) -> Any:
    """The type of what `key` sets on the command line; Any if it sets nothing that there is."""
    head, _, rest = key.partition(".")
    path = rest.partition(".")[2] if head == "parts" else key
    return PARAMETERS[path] if path in PARAMETERS else type_at(SweepSpec, key)


def _value(text: str, override: str) -> Any:
    """YAML on a command line, where a comment is hardly meant."""
    value = parse_yaml(text, override)
    *_, last, _ = yaml.scan(text)
    if rest := text[last.end_mark.index :].strip():
        raise ValueError(f"{shown(override)}: YAML takes {shown(rest)} for a comment; leave it out")
    return value


def path_is_varied(part: dict[str, Any], path: str) -> bool:
    """Whether a part, as plain data, has `path` under zip, grid or trials."""
    trials = part.get("trials")
    given = [part.get("zip"), part.get("grid"), *(trials if isinstance(trials, list) else [])]
    return any(isinstance(group, dict) and path in group for group in given)


def _set_in(holder: dict[str, Any], path: str, value: Any, key: str) -> None:
    if path_is_varied(holder, path):
        raise ValueError(f"{key} is what this part varies; change its values in the file")
    settings = holder.setdefault("set", {})
    if not isinstance(settings, dict):
        raise ValueError(f"{key}: set is not a mapping in this file")
    settings[path] = value


def _validated(data: dict[str, Any]) -> tuple[SweepSpec | None, list[Any]]:
    try:
        return SweepSpec.model_validate_json(json.dumps(data, default=str)), []
    except ValidationError as error:
        mistakes: list[Any] = [{**mistake, "loc": _without_tags(mistake["loc"])} for mistake in error.errors()]
        below = {where[:depth] for where in (mistake["loc"] for mistake in mistakes) for depth in range(len(where))}
        # If a list's only element is wrong, pydantic also calls the list too short; one message is enough.
        return None, [m for m in mistakes if not (m["type"] == "too_short" and m["loc"] in below)]


def _without_tags(where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A path without what pydantic adds to tell kinds of `seeds` apart."""
    return tuple(name for name in where if name not in (SEEDS_LISTED, SEEDS_DECIDED))


def _without(data: dict[str, Any], mistakes: list[Any]) -> dict[str, Any] | None:
    """The sweep without its wrong entries, so that the others can be checked together; None if nothing is left."""
    rest = copy.deepcopy(data)
    for mistake in mistakes:
        where: list[Any] = list(untagged(mistake["loc"]))
        if "table" in where:  # a table that is described: all of it
            where = where[: where.index("table") + 1]
        if (depth := next((depth for depth, name in enumerate(where) if name in PARAMETERS), None)) is not None:
            where = where[: depth + 1]
        while where and isinstance(where[-1], int):
            where.pop()
        if not where or where == ["parts"]:
            return None
        *parents, last = where
        node = rest
        for name in parents:
            node = node[name]
        if last in STAND_INS:
            node[last] = STAND_INS[last]
        elif last == "base" and (close := difflib.get_close_matches(str(node[last]), RECIPES, 1)):
            node[last] = close[0]
        else:
            node.pop(last, None)
    return rest


def _unknown_tables(spec: SweepSpec) -> list[str]:
    """Names of tables that nothing describes, and names that two parts describe differently."""
    known, told = list(spec.layouts), []
    first: dict[str, TableLayout] = {}
    for number, part in enumerate(spec.parts):
        if isinstance(part.table, str) and part.table not in known:
            told.append(
                f"parts.{number}.table: {shown(part.table)} is not a table; "
                f"{_alike(part.table, known)}there are {', '.join(known)}, or describe one: "
                "table: {name: ..., title: ..., rows: PATH, baseline: VALUE}"
            )
        elif isinstance(part.table, TableLayout) and part.table != first.setdefault(part.table.name, part.table):
            told.append(
                f"parts.{number}.table: {part.table.name} is described differently in another part; describe it once "
                f"and write table: {part.table.name} elsewhere"
            )
    return told


def _impossible_claims(spec: SweepSpec) -> list[str]:
    """Claims about tables that the sweep does not fill, or about rows that they cannot have."""
    filled = list(dict.fromkeys(spec.table_of(number) for number in range(len(spec.parts))))
    told = []
    for number, claim in enumerate(spec.claims):
        if claim.table not in filled:
            told.append(f"claims.{number}.table: no part fills table {claim.table}; the parts fill {', '.join(filled)}")
        elif claim.table in spec.layouts:
            try:
                check_rows(spec.layouts[claim.table], claim.rows_named)
            except ValueError as error:
                told.append(f"claims.{number}: {error}")
    return told


def _impossible(spec: SweepSpec) -> list[str]:
    """Combinations of values that no model can have, such as groups that do not divide the channels."""
    told: dict[str, str] = {}
    for combination in spec.resolved:
        if isinstance(combination.config, ValueError):
            reason = _reason(combination.config)
            told.setdefault(reason, f"parts.{combination.part}: {reason}{_at(combination.choice)}")
    return [*told.values(), *(_impossible_proposals(spec, spec.search) if spec.search else [])]


def _impossible_proposals(spec: SweepSpec, search: Search) -> list[str]:
    """Proposals of a search that no model can have: one line, with an example, for each set of parameters."""
    given = (*spec.set.given(), *search.parameters.given())
    if path := next((path for path in given if path.startswith("start.")), None):
        return [f"{path}: a search does not run pre-trainings; leave it out, or write a sweep with parts"]
    ranges = {path: Range.from_dict(given) for path, given in search.parameters.given().items()}
    if math.prod(len(range_.values) for range_ in ranges.values()) <= CHECKED_COMBINATIONS:
        combined = itertools.product(*(range_.values for range_ in ranges.values()))
        sets = [[dict(zip(ranges, values, strict=True)) for values in combined]]
    else:
        sets = [
            [{path: value} for value in (range_.values if len(range_.values) <= CHECKED_COMBINATIONS else range_.ends)]
            for path, range_ in ranges.items()
        ]
    told = []
    for choices in sets:
        reasons = [(reason, choice) for choice in choices if (reason := _why_impossible(spec, choice))]
        if reasons:
            reason, choice = reasons[0]
            told.append(f"search.parameters: {reason}{_at(choice)}; {len(reasons)} of {len(choices)} are impossible")
    return told


def _why_impossible(spec: SweepSpec, choice: dict[str, Any]) -> str | None:
    try:
        spec.config_for(choice)
    except ValueError as error:
        return _reason(error)
    return None


def _reason(error: ValueError) -> str:
    return " ".join(str(error).removeprefix("ExperimentConfig:").split())


def _at(choice: dict[str, Any]) -> str:
    said = ", ".join(f"{path}={value}" for path, value in choice.items())
    return f" (at {said})" if said else ""


def _told(mistake: Any) -> str:
    """One mistake as a line: its path, what is wrong, the value given, and what to do."""
    where = untagged(mistake["loc"])
    path = ".".join(str(name) for name in where) or "the sweep"
    got = mistake["input"]
    if mistake["type"] == "extra_forbidden" and where[-1] in NEVER_VARIED and "set" not in where:
        return f"{path}: says where a training runs, not what is trained, so it cannot be varied; write it under set"
    if mistake["type"] == "extra_forbidden":
        return f"{path}: no such name; {_possible(where)}"
    if mistake["type"] == "missing":
        return f"{path}: is missing"
    if mistake["type"] == "value_error":
        return f"{path}: {mistake['msg'].removeprefix('Value error, ')}"
    return f"{path}: {in_words(mistake)}{_hint(where, got, mistake['type'])}"


def _hint(where: tuple[Any, ...], got: Any, kind: str) -> str:
    if isinstance(got, str) and re.fullmatch(r"[+-]?\d[\d_.]*", got) and "_" in got:
        return f" (write {got.replace('_', '')})"
    if kind == "string_type" and isinstance(got, bool):
        return f" (YAML reads {'yes, on and true' if got else 'no, off and false'} as {str(got).lower()}: use quotes)"
    if (kind == "string_type" and isinstance(got, int | float)) or (where[-1] == "table" and not isinstance(got, str)):
        return f' (YAML reads {got} as a number: write "{got}" in quotes)'
    if kind == "tuple_type" and got is None:
        return " (a list, which has one item at least: write [...])"
    if kind == "tuple_type":
        return f" (a list: write [{_as_yaml(got)}])"
    return ""


def _as_yaml(value: Any) -> str:
    """`value` on one line, as a file would have it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= LONGEST_SHOWN else "..."


def _possible(where: tuple[Any, ...]) -> str:
    """The names that are possible at a path, with the nearest one first."""
    *parents, name = where
    owner = next((parent for parent in reversed(parents) if isinstance(parent, str)), None)
    if owner in SETTINGS:
        return _possible_setting(str(name))
    models: dict[Any, type[Value]] = {None: SweepSpec, "parts": Part, **OWN_SECTIONS}
    models |= {"data": OtherDataConfig, "also_on": OtherDataConfig}
    models |= {"table": TableLayout, "values": NamedRow, "claims": Claim, "gain": Gain}
    model = Range if owner in PARAMETERS else models[owner]
    names = [field.alias or own for own, field in model.model_fields.items()]
    return _nearest(str(name), names) + f"there are {', '.join(names)}"


def _possible_setting(name: str) -> str:
    if name == GIVEN_BY_SEEDS:
        return "seeds belong to the whole sweep: write seeds: [0, 1, 2] at the top"
    section = name.split(".")[0]
    if name in SECTIONS:
        return f"write dotted paths, such as {next(path for path in PARAMETERS if path.startswith(name))}"
    if section in SECTIONS:
        names = [path for path in PARAMETERS if path.startswith(f"{section}.")]
        return _nearest(name, names) + f"there are {', '.join(names)}"
    return _nearest(name, list(PARAMETERS)) + f"paths start with {'., '.join(SECTIONS)}."


def _nearest(name: str, names: list[str]) -> str:
    """`did you mean ...? `: a path with the same last name, one of `names` like it, or a path with a last name like it.

    A path is a parameter's, or one within a section of the file (`resources.gpu`); `names` are settings.
    """
    sections = (f"{head}.{field}" for head, kind in OWN_SECTIONS.items() for field in kind.model_fields)
    paths: dict[str, str] = {}
    for path in (*PARAMETERS, *sections):
        paths.setdefault(path.rpartition(".")[2], path)
    last = name.rpartition(".")[2]
    close = difflib.get_close_matches(name, names, 1, cutoff=0.85)
    if not close:
        close = [paths[last]] if last in paths else difflib.get_close_matches(name, names, 1)
    close = close or [paths[leaf] for leaf in difflib.get_close_matches(last, paths, 1)]
    return f"did you mean {close[0]}? " if close else ""


def _alike(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}? " if close else ""
