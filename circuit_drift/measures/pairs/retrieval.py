"""The circuits of retrieval of two checkpoints, edge by edge and node by node."""

from collections.abc import Iterator, Mapping
from typing import Any

import circuits
from checkpoints.results.text import counted
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.page.page import Section
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point
from circuits.comparison.graph_diff import GraphDiff

MEASURE = "retrieval-circuit"
EDGES = ["edge", "a", "b", "delta", "low", "high", "q", "status"]
NODES = ["node", "a", "b", "delta", "low", "high", "q", "in_a", "in_b"]
NAMED = 5


class RetrievalCircuitPairing(Pairing):
    """See `circuits.diff`, of the needles' graphs; the needles are one group."""

    noun = "circuit of retrieval"
    tables = ("retrieval_edges", "retrieval_nodes")
    place = 1

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | None:
        """Edge by edge, over identical needles."""
        before, after = (point.results.get(MEASURE) for point in (a, b))
        return None if before is None or after is None else Compared(circuits.diff(before, after, q=q))

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """How many edges changed, and the nodes whose writing did."""
        change: GraphDiff | None = pair.changes.get(MEASURE)
        if change is None:
            return
        swap = pair.a.results[MEASURE].meta["swap"]
        frame = change.node_frame()
        moved = frame[frame["changed"]].head(NAMED)
        named = ", ".join(f"{row.node} {row.a:+.2g} → {row.b:+.2g}" for row in moved.itertuples(index=False))
        sign = "below 0: corrupting it lowers the metric"
        yield (
            f"Retrieval circuit ({swap} swap): {change.n_significant} of {counted(len(change.a), 'edge')} changed over "
            f"{counted(change.n, 'needle')}{f'; nodes, by the sum of their edges ({sign}): {named}' if named else ''}."
        )

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """Edges and nodes that changed for real."""
        change: GraphDiff | None = pair.changes.get(MEASURE)
        if change is None:
            return
        edges, nodes = change.to_frame(), change.node_frame()
        yield PairTable("retrieval_edges", "Edges of retrieval that changed", edges.loc[edges["changed"], EDGES])
        yield PairTable("retrieval_nodes", "Nodes of retrieval that changed", nodes.loc[nodes["changed"], NODES])

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """The figure of the diff, then the tables."""
        change: GraphDiff | None = pair.changes.get(MEASURE)
        if change is None:
            return
        yield Section(
            f"retrieval-circuit-{anchor}",
            f"Circuit of retrieval {pair.span}",
            text=" ".join(self.sentences(pair)),
            figure=change.plot(),
            caption=change.caption.replace("facts", "needles"),
            frame=change.to_frame(),
        )
        for table in self.frames(pair):
            yield Section(f"{table.name.replace('_', '-')}-{anchor}", f"{table.title} {pair.span}", frame=table.frame)
