"""The graph of an architecture: its nodes and edges by name. Numpy only.

Writers add to the residual stream: ``input``, heads ``a{l}.h{h}``, MLPs ``m{l}``. Readers take from it: each head's
query ``a{l}.h{h}<q>``, key and value (``a{l}.h{h}<k>``, or ``a{l}.kv{g}<k>`` where a group of query heads shares one
key/value head), each MLP ``m{l}``, and ``logits``. An edge joins a writer to a later reader: ``a0.h3->m4``.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import CheckpointMismatch

Bools = NDArray[np.bool_]


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

    def columns_before(self, layer: int) -> slice:
        """Columns read between the writes of the layer before and a layer's own, all from the same writers.

        They are the MLP of the layer before, if there is one, and the layer's query, key and value readers; behind the
        last layer (``layer`` = n_layers) its MLP and the logits. An MLP is no reader of its own output: that entry is
        no edge (`mask`).
        """
        start = self.mlp_column(layer - 1) if layer else 0
        return slice(start, self.attention_columns(layer).stop if layer < self.n_layers else len(self.readers))

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


@cache
def known_shape(n_layers: int, n_heads: int, n_kv_heads: int, parallel: bool = False) -> GraphShape:
    """The shape of these sizes, one object for all graphs that have it: its names and its mask are made once."""
    return GraphShape(n_layers, n_heads, n_kv_heads, parallel)


def shape_document(shape: GraphShape) -> dict[str, Any]:
    """A graph shape as JSON."""
    return {name: getattr(shape, name) for name in ("n_layers", "n_heads", "n_kv_heads", "parallel")}


def require_same_shape(a: GraphShape, b: GraphShape) -> None:
    """Refuse to compare graphs of different architectures."""
    if a != b:
        raise CheckpointMismatch(f"the graphs have different shapes, {shape_document(a)} and {shape_document(b)}")
