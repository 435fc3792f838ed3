"""How surely a node belongs to a circuit: pruning anew on resampled facts, since a circuit's edge is a threshold."""

from collections import Counter

import numpy as np

from checkpoints.stats.bootstrap import resampling
from circuits.graph.pruning import prune
from circuits.graph.scores import AttributionGraph

DRAWS = 100


def membership(graph: AttributionGraph, n: int | None = None, *, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Node -> share of resamples of the facts in whose circuit of n edges it is; nodes that never are do not appear.

    Args:
        graph: its scores.
        n: edges that circuits are pruned from; by default `AttributionGraph.circuit_edges`.
        draws: resamples of the units that were scored.
        seed: of the resamples.
    """
    weights = resampling(graph.units, draws=draws, seed=seed) * graph.unit_sizes
    means = (weights / weights.sum(axis=1, keepdims=True)) @ graph.edge_scores.astype(np.float64)
    size, found = graph.circuit_edges if n is None else n, Counter[str]()
    for mean in means:
        table = np.zeros(graph.mask.shape)
        table[graph.mask] = mean
        found.update(prune(graph.shape, table, size).nodes)
    return {node: count / draws for node, count in found.items()}
