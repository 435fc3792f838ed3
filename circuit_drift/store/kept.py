"""What was made of circuits of the store, kept there: found again by the circuits and by what was asked of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import read_artifact, write_artifact
from circuit_drift.store.store import Store, key_of

T = TypeVar("T")
Stored = tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]
"""A document of plain values, and arrays by name."""


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
    """What is stored, else what is made, which is then stored; made without a store, or of circuits without a key.

    It lies in ``store/<kind>/``, and belongs to the runs that have all of its circuits (`circuit_drift.store.upkeep`).
    What cannot be read is made anew.

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
    store, key = Store(folder), key_of({**asked, "circuits": list(circuits)})
    if store.has(kind, key):
        with suppress(StoreError, LookupError, TypeError):
            return read(*read_artifact(store.folder(kind, key), kind))
    made = make()
    document, arrays = write(made)
    provenance = {"key": key, "circuits": list(circuits)}
    with suppress(StoreError):  # a store may be there to be read alone
        write_artifact(store.folder(kind, key), kind, {**document, "provenance": provenance}, arrays)
    return made
