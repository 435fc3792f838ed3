"""Circuits: sets of edges of an architecture's graph. Numpy only; nodes and edges are named in `GraphShape`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.result import ROWS, Result
from checkpoints.results.text import counted
from checkpoints.stats.units import Floats
from circuits.graph.shape import Bools, GraphShape, shape_document

if TYPE_CHECKING:
    from pathlib import Path

    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Circuit(Result):
    """A set of edges.

    Attributes:
        shape: the graph the edges are taken from.
        mask: [F, B] the edges in the circuit.
        scores: [F, B] mean score of every edge of the graph, or ``None``.
    """

    artifact, title = "circuit", "Circuit"

    shape: GraphShape
    mask: Bools
    scores: Floats | None = None

    @property
    def n_edges(self) -> int:
        """How many edges."""
        return int(self.mask.sum())

    @property
    def edges(self) -> tuple[str, ...]:
        """Edge names, writers in order."""
        writers, readers = self.shape.writers, self.shape.readers
        return tuple(f"{writers[i]}->{readers[j]}" for i, j in np.argwhere(self.mask).tolist())

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that an edge touches, in the order of computation, ``logits`` last.

        A shared key/value head touches those of its query heads that are in for another edge, or all where none is.
        """
        found = {self.shape.writers[i] for i in np.flatnonzero(self.mask.any(1))}
        read = [self.shape.heads_reading(self.shape.readers[j]) for j in np.flatnonzero(self.mask.any(0))]
        found.update(heads[0] for heads in read if len(heads) == 1)
        found.update(*[heads for heads in read if found.isdisjoint(heads)])
        return tuple(name for name in (*self.shape.writers, "logits") if name in found)

    def to_networkx(self) -> "nx.DiGraph":
        """A directed graph of the nodes; an edge carries ``score``, and ``readers`` (q, k, v apart).

        Several edges between two nodes, through a head's query, key and value, become one, their scores summed.
        A shared key/value head leads to every query head of its group that is in the circuit, with an equal part of
        its score, so that the scores add up to those of the circuit.
        """
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        inside = set(self.nodes)
        for i, j in np.argwhere(self.mask):
            writer, reader = self.shape.writers[i], self.shape.readers[j]
            score = float(self.scores[i, j]) if self.scores is not None else float("nan")
            heads = [node for node in self.shape.heads_reading(reader) if node in inside]
            for node in heads:
                before = graph.get_edge_data(writer, node, {"score": 0.0, "readers": ""})
                readers = f"{before['readers']} {reader}".strip()
                graph.add_edge(writer, node, score=before["score"] + score / len(heads), readers=readers)
        return graph

    def to_frame(self) -> "pd.DataFrame":
        """One row an edge: edge, writer, reader, score."""
        import pandas as pd

        rows = [(f"{w}->{r}", w, r, s) for w, r, s in self._rows()]
        return pd.DataFrame(rows, columns=["edge", "writer", "reader", "score"])

    def export(self, path: "Path | str") -> "Path":
        """Write it for another tool, in the format the file's name ends in; see `circuits.graph.exports.export`."""
        from circuits.graph.exports import export

        return export(self, path)

    def plot(self, n: int = 150, *, metric: str | None = "metric") -> "go.Figure":
        """Its n strongest edges in the fixed layout, head on x, layer on y, told apart by the sign of their scores.

        Args:
            n: how many edges.
            metric: what the scores are changes of; ``None`` for shares without a sign (information flow routes).
        """
        from circuits.graph.layout import edges_figure

        rows, columns = np.nonzero(self.mask)
        scores = self.scores[rows, columns] if self.scores is not None else np.zeros(len(rows))
        strongest = np.argsort(-np.abs(scores), kind="stable")[:n]
        edges = [(self.shape.writers[rows[i]], self.shape.readers[columns[i]]) for i in strongest]
        title = f"Circuit of {counted(self.n_edges, 'edge')} over {counted(len(self.nodes), 'node')}"
        return edges_figure(self.shape, edges, scores[strongest], title=title, metric=metric)

    def _rows(self) -> Iterable[tuple[str, str, float]]:
        for i, j in np.argwhere(self.mask):
            score = float(self.scores[i, j]) if self.scores is not None else float("nan")
            yield self.shape.writers[i], self.shape.readers[j], score

    @property
    def verdict(self) -> str:
        """Its size."""
        return f"{self.n_edges} of {int(self.shape.mask.sum())} edges, {len(self.nodes)} nodes"

    def _stored(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        tables = {"mask": self.mask} if self.scores is None else {"mask": self.mask, "scores": self.scores}
        return {"shape": shape_document(self.shape)}, {n: table[self.shape.mask] for n, table in tables.items()}

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Circuit":
        shape = GraphShape(**document["shape"])
        tables = {name: np.zeros(shape.mask.shape, dtype=edges.dtype) for name, edges in arrays.items()}
        for name, edges in arrays.items():
            tables[name][shape.mask] = edges
        return cls(shape, **tables)

    def _table(self) -> str:
        strongest = self.to_frame().sort_values("score", key=np.abs, ascending=False, kind="stable")
        return str(strongest.head(ROWS).to_html(index=False, border=0))
