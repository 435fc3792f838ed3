"""How alike the circuits of pairs of checkpoints are: each checkpoint is halved once, and what is found is stored.

It lies in ``store/overlap/``, under the key of both circuits.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuit_drift.record.recall import recalled_facts
from circuit_drift.record.record import Point
from circuit_drift.store.kept import Stored, kept

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from circuits.comparison.overlap import Halved
    from circuits.comparison.similarity import Similarity

OVERLAP = "overlap"
VERSION = 1
HELD = 5
"""Checkpoints whose halves are kept in memory: a point, the one before it, the last and a twin, on their facts."""


class Overlaps:
    """The Jaccard overlap of the circuits of two points at their own size, on the facts that either recalls.

    Args:
        store: where they were measured, and where what is found is kept.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.halved: OrderedDict[tuple[int, bytes | None], Halved] = OrderedDict()

    def of(self, a: Point, b: Point) -> "Similarity":
        """Of two points that have a circuit."""

        def made() -> "Similarity":
            from circuits.comparison.overlap import overlap_of

            assert a.circuit is not None and b.circuit is not None
            facts = recalled_facts([a.circuit, b.circuit])
            facts = None if facts is None or len(facts) == len(a.circuit) else facts
            return overlap_of(self._halves(a, facts), self._halves(b, facts))

        return self._kept([point.keys.get("circuit") for point in (a, b)], made)

    def with_task(self, point: Point, other: str) -> "Similarity":
        """Of a point's circuit of the facts that it recalls and its circuit of another task, that of a measure's graph.

        Halves of the facts against halves of the other task's prompts: what any two tasks share in this model.
        """

        def made() -> "Similarity":
            from circuits.comparison.overlap import halve, overlap_of

            graph = point.circuit
            assert graph is not None
            facts = recalled_facts([graph])
            return overlap_of(halve(graph if facts is None else graph.only(facts)), halve(point.results[other]))

        return self._kept([point.keys.get(name) for name in ("circuit", other)], made)

    def _kept(self, circuits: "list[str | None]", make: "Callable[[], Similarity]") -> "Similarity":
        return kept(self.store, OVERLAP, circuits, {"version": VERSION}, make=make, write=_written, read=_read)

    def _halves(self, point: Point, facts: "NDArray[np.integer] | None") -> "Halved":
        """A point's halves, over some of its facts or over all; those asked for last are kept."""
        from circuits.comparison.overlap import halve

        assert point.circuit is not None
        key = id(point), None if facts is None else facts.tobytes()
        if key not in self.halved:
            self.halved[key] = halve(point.circuit if facts is None else point.circuit.only(facts))
        self.halved.move_to_end(key)
        while len(self.halved) > HELD:
            self.halved.popitem(last=False)
        return self.halved[key]


def _written(found: "Similarity") -> Stored:
    return {"similarity": asdict(found)}, {}


def _read(document: Mapping[str, Any], _arrays: Mapping[str, Any]) -> "Similarity":
    from circuits.comparison.similarity import Similarity

    return Similarity(**document["similarity"])
