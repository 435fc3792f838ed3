"""What takes longest in a comparison of circuits, kept in the store: tests of edges, likeness, contrasts, ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from checkpoints.results.fields import Arrays, pack, unpack
from circuit_drift.measures.pairs.grouped import Workings, alike_of, apart_of, ranks_of, tested_of
from circuit_drift.record.groups import FactGroup
from circuit_drift.record.record import Point
from circuit_drift.store.kept import Stored, kept
from circuits.comparison.graph_diff import GraphDiff
from circuits.comparison.reliability import RankBand
from circuits.comparison.similarity import Similarity
from circuits.graph.scores import AttributionGraph
from circuits.tracking.contrasts import Contrast

SIMILARITY, CONTRAST, TESTS, RANKS = "similarity", "contrast", "edge_tests", "ranks"
VERSION = 2
TESTED = 3
"""Version of the tests of edges and of the profile's intervals, which are kept with them."""


def kept_workings(store: Path | None, points: tuple[Point, Point], cluster: Sequence[str]) -> Workings:
    """The workings of a comparison, each found in a store or put there.

    Args:
        store: its folder; None = nothing is kept.
        points: whose circuits are compared.
        cluster: labels of facts that are one unit where they agree in them.
    """
    if store is None:
        return Workings()
    asked = _Kept(store, points, tuple(cluster))
    return Workings(asked.alike, asked.apart, asked.tested, asked.ranks)


@dataclass(frozen=True)
class _Kept:
    """Of one pair; each function is that of `Workings`."""

    store: Path
    points: tuple[Point, Point]
    cluster: tuple[str, ...]

    def alike(self, group: FactGroup, a: AttributionGraph, b: AttributionGraph) -> tuple[Similarity, ...]:
        return kept(
            *self._place(SIMILARITY),
            self._asked(group),
            make=lambda: alike_of(group, a, b),
            write=lambda found: ({"similarity": [asdict(one) for one in found]}, {}),
            read=lambda document, _: tuple(Similarity(**one) for one in document["similarity"]),
        )

    def apart(self, group: FactGroup, a: AttributionGraph, b: AttributionGraph) -> Contrast:
        return kept(
            *self._place(CONTRAST),
            self._asked(group, group=group.name),
            make=lambda: apart_of(group, a, b),
            write=lambda found: ({"contrast": asdict(found)}, {}),
            read=lambda document, _: Contrast(**document["contrast"]),
        )

    def tested(self, group: FactGroup, a: AttributionGraph, b: AttributionGraph, q: float) -> GraphDiff:
        found = kept(
            *self._place(TESTS),
            self._asked(group, q=q, tested=TESTED),
            make=lambda: tested_of(group, a, b, q),
            write=_packed,
            read=_restored,
        )
        circuits = {side: replace(getattr(found, side), shape=a.shape) for side in ("circuit_a", "circuit_b")}
        return replace(found, shape=a.shape, **circuits)

    def ranks(self, group: FactGroup, a: AttributionGraph, b: AttributionGraph) -> tuple[RankBand, ...]:
        return kept(
            *self._place(RANKS),
            self._asked(group),
            make=lambda: ranks_of(group, a, b),
            write=lambda found: ({"ranks": [asdict(one) for one in found]}, {}),
            read=lambda document, _: tuple(RankBand(**one) for one in document["ranks"]),
        )

    def _place(self, kind: str) -> tuple[Path, str, list[str | None]]:
        return self.store, kind, [point.keys.get("circuit") for point in self.points]

    def _asked(self, facts: FactGroup, **more: Any) -> dict[str, Any]:
        return {"version": VERSION, "facts": facts.facts.tolist(), "cluster": list(self.cluster), **more}


def _restored(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> GraphDiff:
    found: GraphDiff = unpack(GraphDiff, document["diff"], "", arrays)
    return found


def _packed(diff: GraphDiff) -> Stored:
    arrays: Arrays = {}
    return {"diff": pack(diff, "", arrays)}, arrays
