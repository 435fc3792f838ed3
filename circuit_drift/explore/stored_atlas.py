"""An atlas kept in the store, so that the second report of a run tests no pair of checkpoints again.

It lies in ``store/atlas/``, under the key of its circuits and of the groups of facts that it is of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuit_drift.explore.atlas import Atlas, GroupAtlas
from circuit_drift.record.groups import FactGroup
from circuit_drift.record.record import Point
from circuit_drift.store.kept import kept
from circuits.graph.shape import known_shape, shape_document

ATLAS = "atlas"
VERSION = 3
ARRAYS = ("mean", "apart", "stops", "whole", "changed")


def kept_atlas(folder: Path, points: Sequence[Point], groups: Sequence[FactGroup], make: Callable[[], Atlas]) -> Atlas:
    """The atlas of points of a run: from the store, else made and kept there.

    Args:
        folder: the store.
        points: C, each with a circuit.
        groups: of facts.
        make: makes it.
    """
    asked = {"version": VERSION, "groups": [[group.name, group.facts.tolist()] for group in groups]}
    circuits = [point.keys.get("circuit") for point in points]
    found = kept(folder, ATLAS, circuits, asked, make=make, write=_written, read=_restored)
    return replace(found, labels=tuple(point.label for point in points))


def _written(atlas: Atlas) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    arrays = [_arrays(group) for group in atlas.groups]
    return _document(atlas), {f"{name}{place}": own[name] for place, own in enumerate(arrays) for name in ARRAYS}


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
