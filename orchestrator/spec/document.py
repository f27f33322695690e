"""Writes docs/sweep_files.md from the types that read sweep files: `python -m orchestrator.spec.document`.

The page holds every key with its values, default and meaning; its introduction is `sweep_files.md.jinja` beside it.
With `--check` it writes nothing, and fails where the page is out of date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jinja2
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from dmf.config import METHODS, RECIPES, ExperimentConfig, StartConfig
from dmf.machine.files import write_text
from dmf.values import Value
from orchestrator.spec.model import GIVEN_BY_SEEDS, Decide, Evaluation, Part, Range, Resources, Search, SweepSpec
from orchestrator.text import complain
from reports.claims import Claim
from reports.layouts import NamedRow, TableLayout

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sweep_files.md"
TEMPLATE = Path(__file__).with_name("sweep_files.md.jinja")
ORDINARY = 10**6
"""Limits from here on are there to refuse mistakes, and are not told."""
Row = tuple[str, str, str, str]
"""A parameter or key, its values, default and meaning."""
OF_A_SWEEP: dict[str, tuple[type[Value], ...]] = {
    "Keys of the file": (SweepSpec,),
    "Keys of `seeds`, to decide rows": (Decide,),
    "Keys of a part": (Part,),
    "Keys of a table": (TableLayout,),
    "Keys of a row in `values`": (NamedRow,),
    "Keys of a claim": (Claim,),
    "Keys of `evaluation`": (Evaluation,),
    "Keys of `resources`": (Resources,),
    "Keys of `search`": (Search,),
    "Keys of a searched parameter": (Range,),
}


def page() -> str:
    """The text of docs/sweep_files.md."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    sections = [
        (title, kinds[0].__doc__ or "", [_row(name, kind, field) for kind, name, field in _fields(kinds)])
        for title, kinds in OF_A_SWEEP.items()
    ]
    return template.render(sections=sections, parameters=list(_parameters()), recipes=_recipes()) + "\n"


def _fields(kinds: Sequence[type[Value]]) -> Iterator[tuple[type[Value], str, FieldInfo]]:
    for kind in kinds:
        for name, field in kind.model_fields.items():
            yield kind, field.alias or name, field


def _parameters() -> Iterator[tuple[str, str, list[Row]]]:
    """Title, docstring and rows of each section of the parameters; `model` has one for each method."""
    for section, field in ExperimentConfig.model_fields.items():
        if section == "model":
            seen: set[str] = set()
            for method, kind in METHODS.items():
                own = [row for row in _rows(kind, "model") if row[0] not in seen]
                seen |= {row[0] for row in own}
                yield f"`model.*` of `{method}`", _first(kind), [_of_all_methods(row) for row in own]
        elif section == "start":
            rows = _rows(StartConfig, "start")
            yield "`start.*`", _first(StartConfig), [_asked(row) for row in rows]
        else:
            assert isinstance(field.annotation, type) and issubclass(field.annotation, Value)
            yield f"`{section}.*`", _first(field.annotation), list(_rows(field.annotation, section))


def _of_all_methods(row: Row) -> Row:
    """The row of `model.method` with every method's name; each configuration only takes its own."""
    name, _, default, meaning = row
    return (name, ", ".join(f"`{method}`" for method in METHODS), default, meaning) if name == "`model.method`" else row


def _asked(row: Row) -> Row:
    """The row of `start.head` without a default: there is no pre-training unless it is set."""
    name, values, _, meaning = row
    return (name, values, "–", meaning) if name == "`start.head`" else row


def _rows(kind: type[Value], above: str) -> Iterator[Row]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Value):
            yield from _rows(field.annotation, f"{above}.{name}")
        elif f"{above}.{name}" != GIVEN_BY_SEEDS:
            yield _row(f"{above}.{name}", kind, field, name)


def _row(shown: str, kind: type[Value], field: FieldInfo, name: str = "") -> Row:
    default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
    names = [own for own, each in kind.model_fields.items() if (each.alias or own) == (name or shown)]
    return f"`{shown}`", _values(field), default, _meaning(kind, names[0])


def _default(value: Any) -> str:
    if isinstance(value, Value):
        value = value.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    text = json.dumps(value, default=str)
    return {"{}": "–", "[]": "–", "null": "–", '""': "–"}.get(text, f"`{text.strip(chr(34))}`")


def _values(field: FieldInfo) -> str:
    """The values of a field in words, from its JSON schema."""
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    schema = TypeAdapter(kind).json_schema()
    return _in_words(schema, schema.get("$defs", {}))


def _in_words(schema: dict[str, Any], known: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _in_words(known[schema["$ref"].rpartition("/")[2]], known)
    if options := schema.get("enum"):
        return ", ".join(f"`{option}`".lower() if isinstance(option, bool) else f"`{option}`" for option in options)
    if "const" in schema:
        return f"`{schema['const']}`"
    if {"boolean", "string"} <= {each.get("type") for each in schema.get("anyOf", ())}:
        return "any value"
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_in_words(each, known) for each in several if each.get("type") != "null"))
    kind = str(schema.get("type", "any value"))
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(schema)
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {', '.join(dict.fromkeys(_in_words(item, known) for item in items))}"
    return {"boolean": "`true`, `false`", "string": "text", "object": "mapping"}.get(kind, kind)


def _bounds(schema: dict[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    parts = [f"from {low}" if low is not None else f"above {above}" if above is not None else ""]
    limit = high if high is not None else below
    if limit is not None and abs(limit) < ORDINARY:
        parts.append(f"to {high}" if high is not None else f"below {below}")
    told = (" and " if above is not None else " ").join(part for part in parts if part)
    return f" {told}" if told else ""


def _meaning(kind: type[Value], name: str) -> str:
    """The text below a field in its class or the nearest base that has it."""
    for owner in kind.__mro__:
        if issubclass(owner, Value) and name in owner.__annotations__:
            found = _texts(owner).get(name, "")
            if found:
                return " ".join(found.split()).replace("|", "\\|")
    return ""


def _texts(kind: type[Value]) -> dict[str, str]:
    """Attribute -> the string below it."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:  # a class made at run time
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for line, after in itertools.pairwise(tree.body):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(text, ast.Constant):
            found[line.target.id] = str(text.value)
    return found


def _first(kind: type[Value]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def _recipes() -> list[tuple[str, str, str, str]]:
    """Name, values, source and stated differences of every recipe."""

    def told(value: Any) -> str:
        return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)

    return [
        (
            name,
            ", ".join(f"`{path}={told(value)}`" for path, value in each.values.items()),
            each.source,
            "; ".join(each.differences),
        )
        for name, each in RECIPES.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.spec.document",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    if not parser.parse_args(arguments).check:
        write_text(PAGE, page())
        print(PAGE)
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    complain(f"{PAGE.name} is out of date; run python -m orchestrator.spec.document")
    return 1


if __name__ == "__main__":
    sys.exit(main())
