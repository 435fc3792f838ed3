"""How alike and how far apart circuits of a pair are, kept in the store: their draws take longest in a comparison."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from circuit_drift.measures.pairs.grouped import apart_of
from circuit_drift.record.groups import FactGroup
from circuit_drift.record.record import Point
from circuit_drift.store.kept import kept
from circuits.comparison.diff import similarity
from circuits.comparison.similarity import Similarity
from circuits.graph.scores import AttributionGraph
from circuits.tracking.contrasts import Contrast

SIMILARITY, CONTRAST = "similarity", "contrast"
VERSION = 1


def kept_similarity(
    store: Path | None,
    points: tuple[Point, Point],
    group: FactGroup,
    cluster: Sequence[str],
    graphs: tuple[AttributionGraph, AttributionGraph],
) -> tuple[Similarity, ...]:
    """`circuits.comparison.diff.similarity` of two graphs, found in a store or put there.

    Args:
        store: its folder; None = nothing is kept.
        points: whose circuits the graphs are of.
        group: the facts that they are over.
        cluster: labels of facts that are one unit where they agree in them.
        graphs: at A and at B.
    """
    return kept(
        store,
        SIMILARITY,
        [point.keys.get("circuit") for point in points],
        {"version": VERSION, "facts": group.facts.tolist(), "cluster": list(cluster)},
        make=lambda: similarity(*graphs),
        write=lambda found: ({"similarity": [asdict(one) for one in found]}, {}),
        read=lambda document, _: tuple(Similarity(**one) for one in document["similarity"]),
    )


def kept_contrast(
    store: Path | None,
    points: tuple[Point, Point],
    group: FactGroup,
    cluster: Sequence[str],
    graphs: tuple[AttributionGraph, AttributionGraph],
) -> Contrast:
    """`apart_of` of two graphs, found in a store or put there; arguments as for `kept_similarity`."""
    return kept(
        store,
        CONTRAST,
        [point.keys.get("circuit") for point in points],
        {"version": VERSION, "facts": group.facts.tolist(), "group": group.name, "cluster": list(cluster)},
        make=lambda: apart_of(group, *graphs),
        write=lambda found: ({"contrast": asdict(found)}, {}),
        read=lambda document, _: Contrast(**document["contrast"]),
    )
