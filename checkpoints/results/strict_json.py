"""JSON that every reader takes: numbers that are not finite are written by name, never as a bare `NaN`.

    {"floor": {"$number": "nan"}}

The standard's numbers are finite; other languages' readers refuse a document with a bare `NaN`, Python's own accepts
it. What is written here reads back as it was.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

NUMBER = "$number"
DEEPEST = 100
"""Objects and lists inside each other; beyond that nothing lies that we wrote or mean to read."""
TOO_DEEP = f"it is nested deeper than {DEEPEST}"


def dump_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Write a value as strict JSON.

    Raises:
        TypeError: it holds something that is no JSON.
    """
    return json.dumps(_named(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def parse_json(text: str) -> Any:
    """Read what `dump_json` wrote, and plain JSON.

    Raises:
        ValueError: it is no JSON, or nested too deep to be read.
    """
    try:
        value = json.loads(text, object_hook=_number)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    require_shallow(value)
    return value


def digest_json(value: Any) -> str:
    """SHA-256 of a document's content: the same for every way of writing it down."""
    read_back = parse_json(dump_json(value))  # keys of numbers become text, which sorts differently
    return hashlib.sha256(dump_json(read_back, sort_keys=True).encode()).hexdigest()


def plain_json(value: Any) -> Any:
    """A value as it is printed for others: numpy scalars as Python's, what is no finite number as null, recursively."""
    if isinstance(value, Mapping):
        return {str(name): plain_json(inner) for name, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain_json(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_shallow(value: Any) -> None:
    """Refuse what is nested deeper than `DEEPEST`.

    Raises:
        ValueError: it is.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inside = [inner.values() if isinstance(inner, dict) else inner for inner in level]
        level = [inner for values in inside for inner in values if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {NUMBER: repr(float(value))}
    if isinstance(value, Mapping):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner) for inner in value]
    return value


def _number(document: dict[str, Any]) -> Any:
    if document.keys() != {NUMBER}:
        return document
    if not isinstance(document[NUMBER], str):
        raise ValueError(f"{NUMBER} names a number as text, not as {document[NUMBER]!r:.40}")
    return float(document[NUMBER])
