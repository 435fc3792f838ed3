"""An atlas kept in the store, so that the second report of a run tests no pair of checkpoints again.

It lies in ``store/atlas/``, under the key of its circuits and of the groups of facts that it is of.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import read_artifact, write_artifact
from circuit_drift.explore.atlas import Atlas, GroupAtlas
from circuit_drift.record.groups import FactGroup
from circuit_drift.record.record import Point
from circuit_drift.store.store import Store, key_of
from circuits.graph.shape import known_shape, shape_document

ATLAS = "atlas"
VERSION = 2
ARRAYS = ("mean", "apart", "stops", "whole", "changed")


def kept_atlas(folder: Path, points: Sequence[Point], groups: Sequence[FactGroup], make: Callable[[], Atlas]) -> Atlas:
    """The atlas of points of a run: from the store, else made and kept there.

    Args:
        folder: the store.
        points: C, each with a circuit.
        groups: of facts.
        make: makes it.
    """
    circuits = [point.keys.get("circuit") for point in points]
    if not all(circuits) or not folder.is_dir():
        return make()
    asked = [[group.name, group.facts.tolist()] for group in groups]
    store, key = Store(folder), key_of({"version": VERSION, "circuits": circuits, "groups": asked})
    if (stored := _stored(store, key)) is not None:
        return replace(stored, labels=tuple(point.label for point in points))
    atlas = make()
    document = {**_document(atlas), "provenance": {"key": key, "circuits": circuits}}
    arrays = {f"{name}{place}": array for place, own in enumerate(atlas.groups) for name, array in _arrays(own).items()}
    with suppress(StoreError):  # a store may be there to be read alone
        write_artifact(store.folder(ATLAS, key), ATLAS, document, arrays)
    return atlas


def _stored(store: Store, key: str) -> Atlas | None:
    """What is stored; what cannot be read is made anew."""
    if not store.has(ATLAS, key):
        return None
    with suppress(StoreError, LookupError, TypeError):
        document, arrays = read_artifact(store.folder(ATLAS, key), ATLAS)
        return _restored(document, arrays)
    return None


def _document(atlas: Atlas) -> dict[str, Any]:
    """All but the labels, which are the run's, and the arrays."""
    groups = [
        {"name": own.name, "facts": own.facts, "edges": list(own.edges), "largest": own.largest} for own in atlas.groups
    ]
    about = {"usual": atlas.usual, "total": atlas.total, "metric": atlas.metric}
    return {"shape": shape_document(atlas.shape), "groups": groups, **about}


def _arrays(group: GroupAtlas) -> dict[str, NDArray[Any]]:
    """Those of a group; places of levels, most of what there is, take a byte each."""
    return {name: getattr(group, name) for name in ARRAYS} | {"stops": group.stops.astype(np.uint8)}


def _restored(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Atlas:
    groups = tuple(
        GroupAtlas(
            name=own["name"],
            facts=own["facts"],
            edges=tuple(own["edges"]),
            largest=own["largest"],
            **{name: arrays[f"{name}{place}"] for name in ARRAYS},
        )
        for place, own in enumerate(document["groups"])
    )
    about = {name: document[name] for name in ("usual", "total", "metric")}
    return Atlas(shape=known_shape(**document["shape"]), labels=(), groups=groups, **about)
