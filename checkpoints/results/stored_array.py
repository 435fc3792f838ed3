"""An array that stays in its file until its numbers are asked for, so that a series of results costs little memory.

The file was checked when it was opened; whoever changes it afterwards is found out by its size, its age and its place
on the disk, before a number of it is used.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import DamagedResult

Stamp = tuple[int, int, int]
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1", "BOOL": "?"}


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A two-dimensional array of a safetensors file, or some of its rows.

    Attributes:
        path: the file.
        stamp: inode, size and time of change that the file had when it was checked.
        offset: bytes before its first number.
        dtype: of its numbers.
        stored: (rows, columns) in the file.
        rows: positions of the rows that it is made of, in order; None for all.
    """

    path: Path
    stamp: Stamp
    offset: int
    dtype: np.dtype[Any]
    stored: tuple[int, int]
    rows: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return (self.stored[0] if self.rows is None else len(self.rows)), self.stored[1]

    def only(self, rows: Sequence[int] | NDArray[np.integer]) -> "StoredArray":
        """The same array of some of its rows, by their positions; nothing is read."""
        own = range(self.stored[0]) if self.rows is None else self.rows
        return replace(self, rows=tuple(int(own[int(row)]) for row in rows))

    def read(self, columns: slice = slice(None)) -> NDArray[Any]:
        """Its numbers, or those of some columns, in memory.

        Raises:
            DamagedResult: the file is gone, or no longer the one that was checked.
        """
        try:
            if stamp_of(self.path) != self.stamp:
                raise DamagedResult(f"{self.path} was changed while it was in use; run again")
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.stored)
        except (OSError, ValueError) as error:
            raise DamagedResult(f"{self.path} cannot be read ({error}); run again") from error
        if self.rows is None:
            return np.array(mapped[:, columns])
        return np.asarray(mapped[:, columns][list(self.rows)])


def stamp_of(path: Path) -> Stamp:
    """What tells a file from what it was: inode, size, time of change in nanoseconds."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def stored_array(path: Path, name: str, stamp: Stamp) -> StoredArray:
    """An array of a safetensors file that was checked when it had this stamp; reads the header alone.

    Raises:
        DamagedResult: the file holds no such array of numbers in two dimensions.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
        start = 8 + length + int(entry["data_offsets"][0])
        rows, columns = (int(size) for size in entry["shape"])
        return StoredArray(path, stamp, start, np.dtype(DTYPES[entry["dtype"]]), (rows, columns))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedResult(f"{path} holds no table {name} ({type(error).__name__}: {error}); run again") from error
