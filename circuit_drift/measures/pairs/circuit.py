"""Circuits of two checkpoints: edge by edge, node by node, and as whole graphs."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import circuits
from checkpoints.results.text import counted
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.page.page import Section
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.recall import recall_change, recalled
from circuit_drift.record.record import Point
from circuits.comparison.graph_diff import GraphDiff

if TYPE_CHECKING:
    import pandas as pd

CAPTIONS = {
    "nodes": "A node's score is the sum over its out-edges. The table holds those that changed for real.",
    "profile": "Of the whole graph of |score|, with 95 % intervals of the change: where the work lies, "
    "and over how many edges it spreads.",
    "transfer": "Faithfulness of each checkpoint's circuit in each model: tells other wiring with the same "
    "function from a function that has moved.",
}
HEADINGS = {"nodes": "Nodes", "similarity": "Similarity", "profile": "Depth and spread"}


class CircuitPairing(Pairing):
    """See `circuits.diff`; on the facts that either checkpoint recalls."""

    noun = "circuit"
    tables = ("edges", "nodes", "similarity", "profile", "transfer")
    place = 0

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | None:
        """Edge by edge, and how the recall of the facts changed."""
        if a.circuit is None or b.circuit is None:
            return None
        change = recall_change(a.circuit.answer_rank == 0, b.circuit.answer_rank == 0)
        (before, after), facts = recalled([a.circuit, b.circuit], "at A or B")
        return Compared(circuits.diff(before, after, q=q), readouts=(change,), facts=facts)

    def parts(self, change: GraphDiff) -> Iterator[str]:
        """Edges or, where none did, the graph as a whole."""
        if change.n_significant:
            yield counted(change.n_significant, "edge")
        elif change.significant:
            yield "the graph as a whole"

    def sentences(self, pair: PairRecord) -> Iterator[str]:
        """The comparison's own verdict."""
        if pair.circuit is not None:
            yield f"Circuit, on {pair.facts}: {pair.circuit.verdict}"

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """Edges and nodes that changed for real, similarity, depth and spread, transfer."""
        diff = pair.circuit
        if diff is None:
            return
        yield PairTable("edges", "Edges, strongest real changes", _changed(diff.to_frame(), "edge", "status"))
        yield PairTable("nodes", "Nodes, strongest real changes", _changed(diff.node_frame(), "node", "in_a", "in_b"))
        yield PairTable("similarity", "Similarity of the two circuits", diff.similarity_frame())
        yield PairTable("profile", "Depth and spread of the graph", diff.profile_frame())
        if diff.transfer is not None:
            yield PairTable("transfer", "Each circuit in each model", diff.transfer.to_frame())

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """The circuit's figure, then the tables."""
        diff = pair.circuit
        if diff is None:
            return
        yield Section(
            f"circuit-{anchor}",
            f"Circuit {pair.span}",
            text=diff.verdict,
            figure=diff.plot(),
            caption=f"Measured on {pair.facts}. {diff.caption}",
            frame=diff.to_frame(),
        )
        shown = {table.name: table.frame for table in self.frames(pair)}
        for name, heading in HEADINGS.items():
            caption = CAPTIONS.get(name, "")
            yield Section(f"{name}-{anchor}", f"{heading} {pair.span}", caption=caption, frame=shown[name])
        if diff.transfer is not None:
            yield Section(
                f"transfer-{anchor}",
                f"Functional transfer {pair.span}",
                text=diff.transfer.verdict,
                figure=diff.transfer.plot(),
                caption=CAPTIONS["transfer"],
                frame=shown["transfer"],
            )


def _changed(frame: "pd.DataFrame", name: str, *more: str) -> "pd.DataFrame":
    return frame.loc[frame["changed"], [name, "a", "b", "delta", "low", "high", "q", *more]]
