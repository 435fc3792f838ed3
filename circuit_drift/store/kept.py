"""What the store keeps beside what was measured: found again by what decides it, or else made and put there.

    place = Place.of_result(store, "weights", key_of(asked), WeightChange)
    change = place.find_or_make(lambda: weight_change(a, b))

All such values go this way: whole results (`Place.of_result`), and documents with arrays made of circuits (`kept`).
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import read_artifact, write_artifact
from checkpoints.results.result import Result
from circuit_drift.store.store import Store, key_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound=Result)
Stored = tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]
"""A document of plain values, and arrays by name."""
UNREADABLE = (StoreError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Place(Generic[T]):
    """Where a value lies in a store, and how it is read and written.

    Attributes:
        store: which; ``None`` = nothing is kept.
        kind: what it is, and the folder of the store that it lies in.
        key: hash of everything that decides it.
        read: from a folder.
        write: to a folder, whole or not at all.
    """

    store: Store | None
    kind: str
    key: str
    read: Callable[[Path], T]
    write: Callable[[T, Path], object]

    @classmethod
    def of_result(cls, store: Store | None, kind: str, key: str, result: type[R]) -> "Place[R]":
        """The place of a whole result."""
        return Place(store, kind, key, result.load, result.save)

    def find(self) -> T | None:
        """What is stored; ``None`` where nothing is, or what cannot be read, which a line on the log says."""
        if self.store is None or not self.store.has(self.kind, self.key):
            return None
        try:
            return self.read(self.store.folder(self.kind, self.key))
        except UNREADABLE as error:
            logger.warning("what the store kept as %s cannot be read, and is made anew: %s", self.kind, error)
            return None

    def put(self, made: T) -> T:
        """Store a value, and give it back; a store that is there to be read alone stays as it is."""
        if self.store is not None:
            try:
                self.write(made, self.store.folder(self.kind, self.key))
            except StoreError as error:
                level = logging.WARNING if os.access(self.store.path, os.W_OK) else logging.DEBUG
                logger.log(level, "%s was made and is not kept: %s", self.kind, error)
        return made

    def find_or_make(self, make: Callable[[], T]) -> T:
        """What is stored, else what is made, which is then stored."""
        found = self.find()
        return self.put(make()) if found is None else found


def kept(
    folder: Path | None,
    kind: str,
    circuits: Sequence[str | None],
    asked: Mapping[str, Any],
    *,
    make: Callable[[], T],
    write: Callable[[T], Stored],
    read: Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]]], T],
) -> T:
    """A value made of circuits of the store, found or made; made without a store, or of circuits without a key.

    It lies in ``store/<kind>/``, and belongs to the runs that have all of its circuits (`circuit_drift.store.upkeep`).

    Args:
        folder: the store.
        kind: what it is.
        circuits: keys of the circuits that it is made of, in order.
        asked: all else that decides it, with a version of how it is made; plain values.
        make: makes it.
        write: to what is stored.
        read: from what is stored.
    """
    if folder is None or not all(circuits) or not folder.is_dir():
        return make()
    key = key_of({**asked, "circuits": list(circuits)})

    def written(made: T, place: Path) -> Path:
        document, arrays = write(made)
        provenance = {"key": key, "circuits": list(circuits)}
        return write_artifact(place, kind, {**document, "provenance": provenance}, arrays)

    def restored(place: Path) -> T:
        return read(*read_artifact(place, kind))

    return Place(Store(folder), kind, key, restored, written).find_or_make(make)
