"""Names of heads: ``a5.h1`` is head 1 of layer 5; the layer always comes first."""

import re
from collections.abc import Sequence

from checkpoints.errors import DriftError

_NAME = re.compile(r"a(\d+)\.h(\d+)")
_GROUP = re.compile(r"a(\d+)\.kv(\d+)")


def head_name(layer: int, head: int) -> str:
    """``a5.h1`` for layer 5, head 1."""
    return f"a{layer}.h{head}"


def head_names(shape: tuple[int, int]) -> list[str]:
    """All heads of a model of (layers, heads), layer by layer."""
    return [head_name(layer, head) for layer in range(shape[0]) for head in range(shape[1])]


def parse_head(name: str, shape: tuple[int, int]) -> tuple[int, int]:
    """(layer, head) of a name, checked against the model's (layers, heads).

    Raises:
        DriftError: no name of a head, or none of this model's.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DriftError(f"{name!r} is no name of a head: layer 5, head 1 is 'a5.h1'")
    layer, head = int(match[1]), int(match[2])
    if layer >= shape[0] or head >= shape[1]:
        raise DriftError(f"there is no head {name}: the model has layers 0..{shape[0] - 1}, heads 0..{shape[1] - 1}")
    return layer, head


def expand_heads(names: Sequence[str], shape: tuple[int, int], kv_heads: int) -> tuple[str, ...]:
    """Names of query heads, with each KV group ``a5.kv0`` replaced by the query heads that read from it.

    Raises:
        DriftError: a name that is none of this model's.
    """
    size = shape[1] // kv_heads
    out: list[str] = []
    for name in names:
        match = _GROUP.fullmatch(name)
        if match is None:
            out.append(head_name(*parse_head(name, shape)))
            continue
        layer, group = int(match[1]), int(match[2])
        if layer >= shape[0] or group >= kv_heads:
            raise DriftError(f"there is no group {name}: layers 0..{shape[0] - 1}, KV heads 0..{kv_heads - 1}")
        out += [head_name(layer, group * size + i) for i in range(size)]
    return tuple(dict.fromkeys(out))
