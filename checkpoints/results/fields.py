"""A value's fields as JSON and arrays, and back by the types that its dataclass declares.

    Curve(name="x", low=array, split=Split(3, 4))  ->  {"name": "x", "split": {"index": 3, "p": 4}}, {"low": array}

An array lies under the path to it (``tests.delta``); what is None or absent takes the field's default.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

Arrays = dict[str, np.ndarray]
_IN_ARRAYS = object()


def pack(value: Any, path: str, arrays: Arrays) -> Any:
    """A value as JSON, its arrays put under their paths in ``arrays``."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return _IN_ARRAYS
    if is_dataclass(value) and not isinstance(value, type):
        return pack({field.name: getattr(value, field.name) for field in fields(value)}, path, arrays)
    if isinstance(value, Mapping):
        return _without_arrays({str(key): pack(inner, _join(path, str(key)), arrays) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return [pack(inner, _join(path, str(place)), arrays) for place, inner in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def unpack(kind: Any, value: Any, path: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value of a type from what `pack` made of it.

    Raises:
        KeyError: something is missing.
    """
    if get_origin(kind) in (Union, UnionType):
        inner = [option for option in get_args(kind) if option is not NoneType]
        absent = value is None and not _under(path, arrays)
        return None if absent else unpack(inner[0], value, path, arrays) if len(inner) == 1 else value
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is np.ndarray:
        return arrays[path]
    if is_dataclass(origin) and isinstance(origin, type):
        return _unpack_fields(origin, value, path, arrays)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        places = enumerate(zip(kinds, value, strict=True))
        return tuple(unpack(of, inner, _join(path, str(place)), arrays) for place, (of, inner) in places)
    if isinstance(origin, type) and issubclass(origin, Mapping) and arguments and arguments[1] is not Any:
        whole = get_origin(arguments[1]) is np.ndarray
        keys = dict.fromkeys([*(value or {}), *_under(path, arrays, whole=whole)])
        return {key: unpack(arguments[1], (value or {}).get(key), _join(path, key), arrays) for key in keys}
    return value


def _unpack_fields(kind: type[Any], value: Any, path: str, arrays: Mapping[str, np.ndarray]) -> Any:
    hints, declared = get_type_hints(kind), [field for field in fields(kind) if field.init]
    if isinstance(value, list):  # of versions that kept values in the order of their fields
        value = dict(zip((field.name for field in declared), value, strict=False))
    given = {}
    for field in declared:
        own, name = _join(path, field.name), field.name
        if (value is not None and name in value) or _under(own, arrays):
            given[name] = unpack(hints[name], (value or {}).get(name), own, arrays)
        elif field.default is MISSING and field.default_factory is MISSING:
            if not _may_be_empty(hints[name]):
                raise KeyError(own)
            given[name] = unpack(hints[name], None, own, arrays)
    return kind(**given)


def _may_be_empty(kind: Any) -> bool:
    origin = get_origin(kind)
    return NoneType in get_args(kind) or (isinstance(origin, type) and issubclass(origin, Mapping))


def _under(path: str, arrays: Mapping[str, np.ndarray], *, whole: bool = False) -> list[str]:
    """What follows a path in the names of arrays, its first part or the whole; "" for the path itself."""
    below = [name[len(path) + 1 :] for name in sorted(arrays) if name == path or name.startswith(f"{path}.")]
    return below if whole else list(dict.fromkeys(name.partition(".")[0] for name in below))


def _without_arrays(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value is not _IN_ARRAYS}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
