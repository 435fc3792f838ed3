"""Safetensors headers: what a weight file says it holds, checked against its size, without reading the data."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import CorruptWeights
from checkpoints.files.limits import require_file

_MAX_HEADER = 100_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


_WRAPPERS = "_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module"
WRAPPER = rf"(?:^|(?<=\.))(?:(?:{_WRAPPERS})\.)+"
"""What compiling and data-parallel wrappers put into the names of a model's tensors."""
PLAIN_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def unwrapped(name: str) -> str:
    """A tensor's name without what wrappers put into it."""
    return re.sub(WRAPPER, "", name)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a safetensors file.

    Attributes:
        file: the file that holds it.
        dtype: as the header spells it (``"BF16"``).
        shape: its shape.
        start: first byte of its data in the file.
        end: first byte after its data.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read a safetensors header and prove that the file holds every byte that it promises.

    Raises:
        CorruptWeights: missing, empty, truncated, or no safetensors file.
    """
    require_file(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise CorruptWeights(f"{path} is empty (0 bytes); restore the file")
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise CorruptWeights(
                    f"{path} is truncated or no safetensors file: {size} bytes, but its header alone would take "
                    f"{length + 8}; restore the file"
                )
            header = json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise CorruptWeights(f"{path} is missing; restore the file") from error
    except OSError as error:
        raise CorruptWeights(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptWeights(f"{path} is corrupt: its header is no JSON ({error}); restore the file") from error
    try:
        entries = _entries(path, header, data_start=8 + length)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptWeights(f"{path} is corrupt: malformed header ({error!r}); restore the file") from error
    promised = max((entry.end for entry in entries.values()), default=8 + length)
    if size < promised:
        raise CorruptWeights(
            f"{path} is truncated: it has {size} bytes, its header promises {promised}; restore the file"
        )
    if size > promised:
        raise CorruptWeights(
            f"{path} is corrupt: it has {size} bytes, {size - promised} more than its header accounts for; "
            "restore the file"
        )
    _require_apart(path, entries, 8 + length)
    return entries


def _require_apart(path: Path, entries: dict[str, TensorEntry], data_start: int) -> None:
    """Refuse tensors that share bytes, and bytes that belong to none."""
    end, before = data_start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            what = "begins within" if entry.start < end else "leaves bytes of nobody behind"
            raise CorruptWeights(f"{path} is corrupt: its tensor {name!r} {what} {before}; restore the file")
        end, before = entry.end, repr(name)


def safetensors_entries(files: Sequence[Path]) -> dict[str, TensorEntry]:
    """The tensors of safetensors files by name.

    Raises:
        CorruptWeights: a file is missing or damaged, or they hold none.
    """
    entries: dict[str, TensorEntry] = {}
    for file in files:
        entries.update(read_header(file))
    if not entries:
        raise CorruptWeights(f"{files[0]} holds no tensor")
    return entries


def _entries(path: Path, header: dict[str, Any], data_start: int) -> dict[str, TensorEntry]:
    entries = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, end) = str(info["dtype"]), info["shape"], info["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
            raise ValueError(f"tensor {name!r}: shape {shape} and offsets {start}, {end} are to be counts")
        entry = TensorEntry(path, dtype, tuple(shape), data_start + start, data_start + end)
        if end - start != (math.prod(entry.shape) * _BITS[dtype] + 7) // 8:
            raise ValueError(f"tensor {name!r}: {end - start} bytes for {dtype} {list(entry.shape)}")
        entries[name] = entry
    return entries
