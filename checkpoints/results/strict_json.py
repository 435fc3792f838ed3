"""JSON that every reader takes: numbers that are not finite are written by name, never as a bare `NaN`.

    {"floor": {"$number": "nan"}}

The standard's numbers are finite; other languages' readers refuse a document with a bare `NaN`, Python's own accepts
it. What is written here reads back as it was.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

NUMBER = "$number"


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
        return json.loads(text, object_hook=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def digest_json(value: Any) -> str:
    """SHA-256 of a document's content: the same for every way of writing it down."""
    read_back = parse_json(dump_json(value))  # keys of numbers become text, which sorts differently
    return hashlib.sha256(dump_json(read_back, sort_keys=True).encode()).hexdigest()


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
