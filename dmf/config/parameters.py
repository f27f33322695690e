"""Every parameter of an experiment by its dotted path, and how the text of `path=value` becomes a value."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dmf.config.experiment import ExperimentConfig, StartConfig
from dmf.config.methods import METHODS
from dmf.values import Value

NONE = "null"
"""The text that means None for a parameter that can be text or None; a file of this name is `./null`."""


def type_at(model: type[Value], path: str) -> Any:
    """The type at a dotted path of a model, whose sections can be optional; Any if there is none."""
    name, _, rest = path.partition(".")
    named = {field.alias or own: field for own, field in model.model_fields.items()}
    if name not in named:
        return Any
    type_ = type_of(named[name])
    if not rest:
        return type_
    sections = [each for each in _members(type_) if isinstance(each, type) and issubclass(each, Value)]
    return type_at(sections[0], rest) if len(sections) == 1 else Any


def _parameters() -> dict[str, Any]:
    found: dict[str, Any] = {}
    kinds: dict[str, Sequence[Any]] = {
        name: (field.annotation,) for name, field in ExperimentConfig.model_fields.items()
    }
    kinds |= {"model": tuple(METHODS.values()), "start": (StartConfig,)}
    for section, those in kinds.items():
        for kind in those:
            found |= _paths_of(kind, section)
    found["model.method"] = Literal[tuple(METHODS)]
    return found


def _paths_of(kind: type[Value], above: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Value):
            found |= _paths_of(field.annotation, f"{above}.{name}")
        else:
            found[f"{above}.{name}"] = type_of(field)
    return found


def type_of(field: Any) -> Any:
    """The type of a model's field, with its range."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


PARAMETERS = _parameters()
"""Dotted path -> its type and range. `model` has those of every method: a name has the same type in all of them."""


def read_as(type_: Any, text: str, parse: Callable[[str], Any]) -> Any:
    """The value that `text` means for a parameter: by its type, never by how the text looks.

    A parameter that can be any text, such as a path, takes it as it is. Of one that can be certain words, a word is
    one even if `parse` reads it otherwise, as YAML reads `no`. Anything else is as `parse` reads it, right or wrong.
    """
    members = _members(type_)
    if str in members:
        return None if text == NONE and types.NoneType in members else text
    return text if text in members else parse(text)


def _members(type_: Any) -> set[Any]:
    """The types of a union, and the values of a literal."""
    origin, inner = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return _members(inner[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_members, inner))
    return set(inner) if origin is Literal else {type_}
