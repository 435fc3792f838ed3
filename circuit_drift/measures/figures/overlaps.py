"""How alike the circuits of pairs of checkpoints are: each checkpoint is halved once, and what is found is stored.

It lies in ``store/overlap/``, under the key of both circuits.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import StoreError
from checkpoints.results.artifacts import read_artifact, write_artifact
from circuit_drift.record.recall import recalled_facts
from circuit_drift.record.record import Point
from circuit_drift.store.store import Store, key_of

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
        self.store = Store(store)
        self.halved: OrderedDict[tuple[int, bytes | None], Halved] = OrderedDict()

    def of(self, a: Point, b: Point) -> "Similarity":
        """Of two points that have a circuit."""
        from circuits.comparison.overlap import overlap_of

        assert a.circuit is not None and b.circuit is not None
        parts = [point.keys.get("circuit") for point in (a, b)]
        key = key_of({"version": VERSION, "circuits": parts})
        if (stored := _stored(self.store, key)) is not None:
            return stored
        facts = recalled_facts([a.circuit, b.circuit])
        facts = None if facts is None or len(facts) == len(a.circuit) else facts
        found = overlap_of(self._halves(a, facts), self._halves(b, facts))
        return self._kept(found, key, parts)

    def with_task(self, point: Point, other: str) -> "Similarity":
        """Of a point's circuit of the facts that it recalls and its circuit of another task, that of a measure's graph.

        Halves of the facts against halves of the other task's prompts: what any two tasks share in this model.
        """
        from circuits.comparison.overlap import halve, overlap_of

        graph = point.circuit
        assert graph is not None
        parts = [point.keys.get(name) for name in ("circuit", other)]
        key = key_of({"version": VERSION, "circuits": parts})
        if (stored := _stored(self.store, key)) is not None:
            return stored
        facts = recalled_facts([graph])
        found = overlap_of(halve(graph if facts is None else graph.only(facts)), halve(point.results[other]))
        return self._kept(found, key, parts)

    def _kept(self, found: "Similarity", key: str, parts: "list[str | None]") -> "Similarity":
        """What was found, left in the store where that can be."""
        if self.store.path.is_dir() and all(parts):
            document = {"similarity": asdict(found), "provenance": {"key": key, "circuits": parts}}
            with suppress(StoreError):  # a store may be there to be read alone
                write_artifact(self.store.folder(OVERLAP, key), OVERLAP, document, {})
        return found

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


def _stored(store: Store, key: str) -> "Similarity | None":
    """What is stored of a pair; what cannot be read is found anew."""
    from circuits.comparison.similarity import Similarity

    if not store.has(OVERLAP, key):
        return None
    with suppress(StoreError, LookupError, TypeError):
        return Similarity(**read_artifact(store.folder(OVERLAP, key), OVERLAP)[0]["similarity"])
    return None
