"""The head of a GGUF file: what it says of its size, held against what it is, before a model of that size is built."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from checkpoints.errors import CorruptWeights
from checkpoints.files.limits import require_file

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # kind -> bytes
_WHOLE = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_STRING, _ARRAY = 8, 9
_LEAST = 24  # bytes that the description of a tensor takes


def check_gguf(files: Sequence[Path]) -> None:
    """Refuse a file that does not begin as GGUF does.

    Raises:
        CorruptWeights: names the file and its first bytes.
    """
    for file in files:
        require_file(file)
        with file.open("rb") as stream:
            seen = stream.read(4)
        if seen != b"GGUF":
            raise CorruptWeights(f"{file} is no GGUF file (it starts with {seen!r})")


def require_possible_gguf(path: Path) -> None:
    """Refuse a file that promises more tensors than it can describe, or more layers than tensors.

    Raises:
        CorruptWeights: names the count and the bound, or says that the head is damaged.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            stream.seek(8)
            tensors, entries = struct.unpack("<QQ", stream.read(16))
            layers = _layers(stream, entries, size)
    except (struct.error, ValueError, KeyError, OverflowError, OSError) as error:
        raise CorruptWeights(f"{path} is truncated or damaged in its head ({error}); restore the file") from error
    for what, count, bound in (("tensors", tensors, size // _LEAST), ("layers", layers, tensors)):
        if count > bound:
            raise CorruptWeights(f"{path} promises {count:,} {what}, but can hold {bound:,} at most; restore the file")


def _layers(stream: BinaryIO, entries: int, size: int) -> int:
    """The block count that an architecture states; 0 where none does."""
    for _ in range(min(entries, size)):
        key = _string(stream, size)
        kind = _number(stream, "<I")
        if key.endswith(b".block_count") and kind in _WHOLE:
            return _number(stream, _WHOLE[kind])
        _skip(stream, kind, size)
    return 0


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
