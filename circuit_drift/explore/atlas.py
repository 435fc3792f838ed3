"""Edge scores of checkpoints, thinned until a page holds them, so that any two can be compared where it is read.

Kept are the strongest edges of every checkpoint, as many as the largest circuit that can be asked for has, so that
each smaller circuit is exactly the one pruned from all edges; and for every two checkpoints the q of these edges, over
*all* edges of the graph, as the first of `STOPS` that it does not exceed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.changes import change_test
from checkpoints.stats.ttests import MIN_UNITS, apart_from_0, false_discovery
from checkpoints.stats.units import Floats
from circuit_drift.record.groups import FactGroup
from circuits.graph.alike import require_alike
from circuits.graph.shape import GraphShape, shape_document

if TYPE_CHECKING:
    import circuits

STOPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Levels that a reader may hold changes to."""
USUAL = STOPS.index(0.05)
UNTESTED = len(STOPS)
"""The place of a q beyond the last stop, or of none at all."""
FINE, COARSE, FEW_PAIRS = 999, 199, 3
"""Draws behind each p: as many as in a diff where there are few pairs."""
MOST_EDGES, LARGEST = 500, 2
"""Edges kept of a group of facts, and how much larger than the usual circuit the largest is."""
CACHED = 60_000_000


@dataclass(frozen=True)
class GroupAtlas:
    """Kept edges of one group of facts. C checkpoints, K edges, C (C - 1) / 2 pairs, (0, 1), (0, 2), ... in order.

    Attributes:
        name: of the group.
        facts: how many it has.
        edges: K names.
        mean: [C, K] mean scores over the facts.
        apart: [C, K] whether the mean is shown to differ from 0, at 5 % false discoveries of all edges.
        stops: [pairs, K] the first of `STOPS` that q does not exceed; `UNTESTED` = none.
        whole: [pairs] p that no edge changed.
        changed: [pairs, stops] of all edges, those with q at most each stop.
        largest: edges from which the largest circuit is pruned.
    """

    name: str
    facts: int
    edges: tuple[str, ...]
    mean: Floats
    apart: NDArray[np.bool_]
    stops: NDArray[np.integer]
    whole: Floats
    changed: NDArray[np.integer]
    largest: int

    def to_json(self) -> dict[str, Any]:
        """As the page's script reads it; rows of digits where a number is one."""
        return {
            "name": self.name,
            "facts": self.facts,
            "edges": list(self.edges),
            "mean": [[float(f"{value:.6g}") for value in row] for row in self.mean],
            "apart": ["".join("1" if each else "0" for each in row) for row in self.apart],
            "stops": ["".join(map(str, row)) for row in self.stops.tolist()],
            "whole": [float(f"{value:.3g}") for value in self.whole],
            "changed": self.changed.tolist(),
            "largest": self.largest,
        }


@dataclass(frozen=True)
class Atlas:
    """Thinned scores of C checkpoints.

    Attributes:
        shape: their graph.
        labels: C names.
        groups: of facts, each by itself.
        usual: edges that a circuit is pruned from unless told otherwise.
        total: edges of the graph.
        metric: what scores are changes of.
    """

    shape: GraphShape
    labels: tuple[str, ...]
    groups: tuple[GroupAtlas, ...]
    usual: int
    total: int
    metric: str

    def to_json(self) -> dict[str, Any]:
        """As the page's script reads it."""
        return {
            "shape": shape_document(self.shape),
            "labels": list(self.labels),
            "groups": [group.to_json() for group in self.groups],
            "usual": self.usual,
            "total": self.total,
            "metric": self.metric,
            "levels": list(STOPS),
            "level": USUAL,
        }


def atlas_of(
    graphs: "Sequence[circuits.AttributionGraph]", labels: Sequence[str], groups: Sequence[FactGroup]
) -> Atlas:
    """Thin the scores of checkpoints.

    Args:
        graphs: C, measured alike on the same facts.
        labels: C names.
        groups: of facts, by their positions; where scores were kept for groups of facts only, one of all of them.

    Raises:
        CheckpointMismatch: they were not measured alike.
        BadPrompt: edges that were not measured.
    """
    first = graphs[0]
    for graph in graphs[1:]:
        require_alike(first, graph)

    @lru_cache(maxsize=max(2, CACHED // (first.units * first.n_edges)))
    def scores(place: int) -> Floats:
        return graphs[place].edge_scores

    def of(group: FactGroup) -> GroupAtlas:
        facts = group.facts if first.units == len(first) else np.arange(first.units)

        def chosen(place: int) -> Floats:
            return scores(place)[facts]

        mean = np.stack([chosen(place).mean(0, dtype=np.float64) for place in range(len(graphs))])
        kept, largest = strongest(mean, LARGEST * first.circuit_edges)
        apart = np.stack([apart_from_0(chosen(place))[kept] for place in range(len(graphs))])
        tests = list(_tests(chosen, len(graphs)))
        return GroupAtlas(
            name=group.name,
            facts=len(group),
            edges=tuple(first.edge_names[edge] for edge in kept),
            mean=mean[:, kept],
            apart=apart,
            stops=np.stack([stop_of(q[kept]) for q, _ in tests]),
            whole=np.array([whole for _, whole in tests]),
            changed=np.array([[int((q <= stop).sum()) for stop in STOPS] for q, _ in tests]),
            largest=largest,
        )

    return Atlas(
        shape=first.shape,
        labels=tuple(labels),
        groups=tuple(of(group) for group in groups),
        usual=first.circuit_edges,
        total=first.n_edges,
        metric=str(first.meta.get("metric") or "metric"),
    )


def strongest(mean: Floats, size: int, most: int = MOST_EDGES) -> tuple[NDArray[np.integer], int]:
    """Edges that are among the ``size`` strongest at some checkpoint, in order; fewer of each where they are too many.

    Args:
        mean: [C, E].
        size: of the strongest edges of each checkpoint.
        most: edges in all.

    Returns:
        [K] their positions, and how many of each checkpoint's strongest they are sure to hold.
    """
    ranks = np.argsort(-np.abs(mean), axis=1, kind="stable")
    size = min(size, mean.shape[1])
    while len(kept := np.unique(ranks[:, :size])) > most and size > 1:
        size = max(1, size * 9 // 10)
    return kept, size


def stop_of(q: Floats) -> NDArray[np.integer]:
    """The place of the first of `STOPS` that each q does not exceed."""
    return np.searchsorted(STOPS, np.nan_to_num(q, nan=np.inf))


def _tests(chosen: Any, count: int) -> Iterator[tuple[Floats, float]]:
    """For each two checkpoints the q of every edge and the p of the whole, as in a diff."""
    draws = FINE if count * (count - 1) // 2 <= FEW_PAIRS else COARSE
    for a, b in combinations(range(count), 2):
        difference = chosen(b) - chosen(a)
        found = change_test(difference, draws=draws)
        few = len(difference) < MIN_UNITS
        yield false_discovery(np.full_like(found.elements, np.nan) if few else found.elements), found.whole
