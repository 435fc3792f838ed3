"""Can what was read from disk be a result of its kind? The kinds of its fields, its axes, and lengths that must agree.

Digests tell that a file is what somebody wrote; this tells that it is what a result is, before a number is made of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from checkpoints.results.stored_array import StoredArray

_KINDS = {np.floating: "fiu", np.integer: "iu", np.bool_: "b", np.int8: "iu", np.str_: "U"}
ABOUT: Mapping[str, Any] = {
    "provenance": Mapping[str, Any], "prompts": str, "refused": tuple[tuple[int, str], ...], "chance": float,
    "chances": Mapping[str, float | None], "depths": tuple[tuple[float, ...], ...], "method": str | None,
    "metric": str | None, "rule": str | None, "ig_steps": int | None, "circuit_edges": int | None,
}  # fmt: skip
"""What ``meta`` of any result may say, and of which kind."""
_RECORDED = {"key": str, "checkpoint": str, "weights_hash": str | None, "tokenizer_hash": str | None, "measure": str}


def flaws(result: Any) -> Iterator[str]:
    """What is wrong with a `checkpoints.results.result.Result`, in a few words each; not what is left on disk."""
    for name, kind in _hints(result.__class__).items():
        if name not in result.on_disk and not fits(kind, getattr(result, name)):
            yield f"{name} is no {_word(kind)}"
            return
    about = getattr(result, "meta", {})
    yield from (f"meta has no {name}" for name in result.needed if name not in about)
    recorded = about.get("provenance") or {}
    for known, held in ((ABOUT, about), (_RECORDED, recorded if isinstance(recorded, Mapping) else {})):
        yield from (f"{name} is no {_word(kind)}" for name, kind in known.items()
                    if name in held and not fits(kind, held[name]))  # fmt: skip
    lengths: dict[str, tuple[int, str]] = {}
    for name, letters in result.shapes.items():
        for place, array in _arrays(name, getattr(result, name)):
            yield from _misshapen(place, array.shape, letters.split(), lengths)


def fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a declared type; what a type does not say is let pass."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(option, value) for option in inner)
    if origin is Literal:
        return value in inner
    if origin is np.ndarray:
        return isinstance(value, np.ndarray | StoredArray) and value.dtype.kind in _letters(inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(kinds) == len(value) and all(map(fits, kinds, value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and (not inner or all(fits(inner[1], held) for held in value.values()))
    if is_dataclass(origin) and isinstance(origin, type):
        return isinstance(value, origin) and all(fits(of, getattr(value, name)) for name, of in _hints(origin).items())
    return _is_plain(origin, value)


def _is_plain(kind: Any, value: Any) -> bool:
    value = value.item() if isinstance(value, np.generic) else value
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _letters(inner: tuple[Any, ...]) -> str:
    held = get_args(inner[1]) if len(inner) > 1 else ()
    return _KINDS.get(held[0], "biufU") if held else "biufU"


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{name} {key}", inner
    elif value is not None:
        yield name, value


def _misshapen(
    name: str, shape: tuple[int, ...], letters: list[str], lengths: dict[str, tuple[int, str]]
) -> Iterator[str]:
    if len(shape) != len(letters):
        yield f"{name} has {len(shape)} axes, not {len(letters)}"
        return
    for letter, length in zip(letters, shape, strict=True):
        known, other = lengths.setdefault(letter, (length, name))
        if known != length:
            yield f"{name} is of {length} where {other} is of {known}"


def _word(kind: Any) -> str:
    if kind in (str, int, float, bool):
        return {str: "text", int: "whole number", float: "number", bool: "truth value"}[kind]
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_word(option) for option in get_args(kind) if option is not NoneType)
    origin = get_origin(kind) or kind
    return {np.ndarray: "array of its kind", tuple: "list of its kind"}.get(origin, "table of its kind")


@lru_cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
