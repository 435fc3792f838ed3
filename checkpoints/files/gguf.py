"""The head of a GGUF file: what it says of its tensors and sizes, held against what it is before anything is built."""

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from checkpoints.errors import CorruptWeights
from checkpoints.files.headers import TensorEntry
from checkpoints.files.limits import require_file

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # kind -> bytes
_WHOLE = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_LEAST = 24  # bytes that the description of a tensor takes
_MOST_DIMENSIONS = 8
_A_LAYER, _AN_EXPERT = 64, 8  # tensors that one has at most
_ALIGNMENT = "general.alignment"
_WIDTHS = (
    "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "expert_count", "expert_feed_forward_length",
)  # fmt: skip
_TYPES = {  # number -> name, values a block, bytes a block
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


def gguf_entries(files: Sequence[Path]) -> dict[str, TensorEntry]:
    """The tensors of a GGUF file by its own names, their shapes as torch has them.

    Raises:
        CorruptWeights: it is no such file, does not hold every byte that it promises, or states a layer or a width that
            no tensor of it has.
    """
    (path,) = files
    require_file(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            return _described(path, stream, size)
    except (struct.error, ArithmeticError, LookupError, OSError, ValueError) as error:
        raise CorruptWeights(f"{path} is truncated or damaged in its head ({error}); restore the file") from error


def _described(path: Path, stream: BinaryIO, size: int) -> dict[str, TensorEntry]:
    seen = stream.read(4)
    if seen != b"GGUF":
        raise CorruptWeights(f"{path} is no GGUF file (it starts with {seen!r})")
    version, tensors, fields = struct.unpack("<IQQ", stream.read(20))
    if version not in _VERSIONS:
        raise CorruptWeights(f"{path} is GGUF of version {version:,}, not 2 or 3 of little-endian; convert it anew")
    _hold(path, "tensors", tensors, size // _LEAST)
    numbers = dict(_numbers(stream, fields, size))
    layers, experts = numbers.get("block_count", 0), numbers.get("expert_count", 0)
    _hold(path, "layers", layers, tensors)
    _hold(path, "tensors", tensors, (_A_LAYER + _AN_EXPERT * experts) * (layers + 1))
    placed = dict(_tensors(stream, tensors, size))
    if len(placed) < tensors:
        raise CorruptWeights(f"{path} holds {tensors:,} tensors under {len(placed):,} names; convert it anew")
    widest = max((side for _, shape, *_ in placed.values() for side in shape), default=0)
    for name in _WIDTHS:
        if (stated := numbers.get(name, 0)) > widest:
            raise CorruptWeights(f"{path} states {name} {stated:,}, but no tensor of it is wider than {widest:,}; "
                                 "restore the file")  # fmt: skip
    alignment = numbers.get(_ALIGNMENT, 32)
    start = -(-stream.tell() // alignment) * alignment
    entries = {name: TensorEntry(path, kind, shape, start + offset, start + offset + length)
               for name, (kind, shape, offset, length) in placed.items()}  # fmt: skip
    promised = max((entry.end for entry in entries.values()), default=0)
    if promised > size:
        raise CorruptWeights(
            f"{path} is truncated: it has {size} bytes, its head promises {promised}; restore the file"
        )
    return entries


def _hold(path: Path, what: str, count: int, bound: int) -> None:
    if count > bound:
        raise CorruptWeights(f"{path} promises {count:,} {what}, but can hold {bound:,} at most; restore the file")


def _numbers(stream: BinaryIO, fields: int, size: int) -> Iterator[tuple[str, int]]:
    """The whole numbers of the metadata, by key without the architecture in front."""
    for _ in range(min(fields, size)):
        key = _string(stream, size).decode("utf-8", errors="replace")
        kind = _number(stream, "<I")
        if kind in _WHOLE:
            yield key if key == _ALIGNMENT else key.partition(".")[2], _number(stream, _WHOLE[kind])
        else:
            _skip(stream, kind, size)


def _tensors(stream: BinaryIO, count: int, size: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int, int]]]:
    """Name of each tensor, and its type, shape, offset and bytes."""
    for _ in range(count):
        name = _string(stream, size).decode("utf-8")
        dimensions = _number(stream, "<I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"{name!r:.80} has {dimensions:,} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", stream.read(8 * dimensions))[::-1]
        kind, offset = struct.unpack("<IQ", stream.read(12))
        if kind not in _TYPES:
            raise ValueError(f"{name!r:.80} is of type {kind:,}, which is not known here")
        word, block, width = _TYPES[kind]
        yield name, (word, shape, offset, -(-math.prod(shape) // block) * width)


def _skip(stream: BinaryIO, kind: int, size: int) -> None:
    if kind == _STRING:
        _string(stream, size)
    elif kind == _ARRAY:
        inner, count = _number(stream, "<I"), _number(stream, "<Q")
        if count > size:
            raise ValueError(f"a list of {count:,} values")
        if inner in _SCALARS:
            stream.seek(count * _SCALARS[inner], 1)
        elif inner == _STRING:
            for _ in range(count):
                _string(stream, size)
        else:
            raise ValueError(f"a list of kind {inner}")
    else:
        stream.seek(_SCALARS[kind], 1)


def _string(stream: BinaryIO, size: int) -> bytes:
    length = _number(stream, "<Q")
    if length > size:
        raise ValueError(f"a text of {length:,} bytes")
    return stream.read(length)


def _number(stream: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(form, stream.read(struct.calcsize(form)))
    return int(value)
