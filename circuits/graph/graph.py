"""Nodes, edges, and sets of edges: the graph of an architecture and the circuits in it. Numpy only.

Writers add to the residual stream: ``input``, heads ``a{l}.h{h}``, MLPs ``m{l}``. Readers take from it: each head's
query ``a{l}.h{h}<q>``, key and value (``a{l}.h{h}<k>``, or ``a{l}.kv{g}<k>`` where a group of query heads shares one
key/value head), each MLP ``m{l}``, and ``logits``. An edge joins a writer to a later reader: ``a0.h3->m4``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import CheckpointMismatch
from checkpoints.results.artifacts import read_artifact, write_artifact

if TYPE_CHECKING:
    from pathlib import Path

    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
KIND = "circuit"


@dataclass(frozen=True)
class GraphShape:
    """The graph of an architecture.

    Attributes:
        n_layers, n_heads, n_kv_heads: sizes.
        parallel: a layer's heads do not feed its own MLP.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """``input``, then each layer's heads and its MLP."""
        layers = range(self.n_layers)
        return ("input", *(n for i in layers for n in (*(f"a{i}.h{h}" for h in range(self.n_heads)), f"m{i}")))

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Each layer's query, key and value heads and its MLP, then ``logits``."""
        names = [name for i in range(self.n_layers) for name in self._layer_readers(i)]
        return (*names, "logits")

    @cached_property
    def mask(self) -> Bools:
        """[F, B] which edges exist."""
        mask = np.zeros((len(self.writers), len(self.readers)), dtype=bool)
        for layer in range(self.n_layers):
            before = self.first_writer(layer)
            mask[:before, self.attention_columns(layer)] = True
            mask[: before + (0 if self.parallel else self.n_heads), self.mlp_column(layer)] = True
        mask[:, -1] = True
        return mask

    def first_writer(self, layer: int) -> int:
        """How many writers come before a layer, hence the row of its head 0."""
        return 1 + layer * (self.n_heads + 1)

    def attention_columns(self, layer: int) -> slice:
        """Columns of a layer's query, key and value readers."""
        start = layer * self._readers_per_layer
        return slice(start, start + self._readers_per_layer - 1)

    def mlp_column(self, layer: int) -> int:
        """Column of a layer's MLP."""
        return (layer + 1) * self._readers_per_layer - 1

    @property
    def _readers_per_layer(self) -> int:
        return self.n_heads + 2 * self.n_kv_heads + 1

    def _layer_readers(self, layer: int) -> list[str]:
        shared = "h" if self.n_kv_heads == self.n_heads else "kv"
        queries = [f"a{layer}.h{h}<q>" for h in range(self.n_heads)]
        rest = [f"a{layer}.{shared}{g}<{letter}>" for letter in "kv" for g in range(self.n_kv_heads)]
        return [*queries, *rest, f"m{layer}"]

    def heads_reading(self, reader: str) -> tuple[str, ...]:
        """The nodes that compute from a reader: all query heads of the group for a shared key/value head."""
        node = reader.split("<")[0]
        layer, _, part = node.partition(".")
        if not part.startswith("kv"):
            return (node,)
        size = self.n_heads // self.n_kv_heads
        group = int(part[2:])
        return tuple(f"{layer}.h{h}" for h in range(group * size, (group + 1) * size))


@dataclass(frozen=True)
class Circuit:
    """A set of edges.

    Attributes:
        shape: the graph the edges are taken from.
        mask: [F, B] the edges in the circuit.
        scores: [F, B] mean score of every edge of the graph, or ``None``.
    """

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
        return tuple(f"{writers[i]}->{readers[j]}" for i, j in np.argwhere(self.mask))

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
        """Write it for another tool, in the format the file's name ends in; see `circuits.export`."""
        from circuits.graph.exports import export

        return export(self, path)

    def save(self, folder: "Path | str") -> "Path":
        """Write the circuit to a result folder."""
        arrays: dict[str, NDArray[Any]] = {"mask": self.mask[self.shape.mask]}
        if self.scores is not None:
            arrays["scores"] = self.scores[self.shape.mask]
        return write_artifact(folder, KIND, {"shape": shape_document(self.shape)}, arrays)

    @classmethod
    def load(cls, folder: "Path | str") -> "Circuit":
        """Read what `save` wrote; needs no torch."""
        document, arrays = read_artifact(folder, KIND)
        shape = GraphShape(**document["shape"])
        tables: dict[str, NDArray[Any]] = {
            name: np.zeros(shape.mask.shape, dtype=edges.dtype) for name, edges in arrays.items()
        }
        for name, edges in arrays.items():
            tables[name][shape.mask] = edges
        return cls(shape, **tables)

    def plot(self) -> "go.Figure":
        """The circuit in the fixed layout: head on x, layer on y."""
        from circuits.figures.plots import circuit_figure

        return circuit_figure(self)

    def _rows(self) -> Iterable[tuple[str, str, float]]:
        for i, j in np.argwhere(self.mask):
            score = float(self.scores[i, j]) if self.scores is not None else float("nan")
            yield self.shape.writers[i], self.shape.readers[j], score

    def _repr_html_(self) -> str:
        head = f"<p><b>Circuit</b>: {self.n_edges} of {int(self.shape.mask.sum())} edges, {len(self.nodes)} nodes</p>"
        strongest = self.to_frame().sort_values("score", key=np.abs, ascending=False, kind="stable")
        return str(head + strongest.head(20).to_html(index=False, border=0))


def shape_document(shape: GraphShape) -> dict[str, Any]:
    """A graph shape as JSON."""
    return {name: getattr(shape, name) for name in ("n_layers", "n_heads", "n_kv_heads", "parallel")}


def require_same_shape(a: GraphShape, b: GraphShape) -> None:
    """Refuse to compare graphs of different architectures."""
    if a != b:
        raise CheckpointMismatch(f"the graphs have different shapes, {shape_document(a)} and {shape_document(b)}")
