"""Dataclasses from the tables of TOML: unknown and missing names, and values of a wrong type, are told by name."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from checkpoints.errors import DriftError


def values_of(kind: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table, lists as tuples and inner tables as their dataclasses, if it names fields and all that it must.

    Args:
        kind: a dataclass.
        table: its fields.
        where: what the table is, for the message.

    Raises:
        DriftError: names the field, its value and what it takes.
    """
    names = {field.name for field in fields(kind)}
    if unknown := sorted(set(table) - names):
        raise DriftError(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(needed - set(table)):
        raise DriftError(f"{where}: {', '.join(missing)} is missing")
    hints = get_type_hints(kind)
    return {name: _value(value, hints[name], f"{where}, {name}") for name, value in table.items()}


def _value(value: Any, hint: Any, where: str) -> Any:
    inner = _table_type(hint)
    if inner is not None and not is_dataclass(value):
        if not isinstance(value, dict):
            raise DriftError(f"{where} is {value!r}; write a table for it")
        return inner(**values_of(inner, value, where))
    if not _fits(value, hint):
        place, _, name = where.rpartition(", ")
        raise DriftError(f"{place}: {name} is {value!r}; it takes {_words(hint)}")
    return tuple(value) if isinstance(value, list) else value


def _table_type(hint: Any) -> Any:
    """The dataclass that a field holds, or may hold; None where it holds something else."""
    choices = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    return next((choice for choice in choices if is_dataclass(choice)), None)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of TOML is of the type that a field says."""
    choices = get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return any(_fits(value, choice) for choice in choices)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(inner, choices[0]) for inner in value)
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(_fits(inner, choices[1]) for inner in value.values())
    if get_origin(hint) is Literal:
        return isinstance(value, str)
    if hint is Path:
        return isinstance(value, str)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(float(value))  # type: ignore[arg-type]
    return type(value) is hint


def _words(hint: Any) -> str:
    """What a field takes, for a reader."""
    choices = get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return _words(next(choice for choice in choices if choice is not type(None)))
    if get_origin(hint) is tuple:
        return f"a list, each {_words(choices[0])}"
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, choices))
    if get_origin(hint) is Mapping:
        return "a table"
    return {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text"}.get(hint, "a path")
