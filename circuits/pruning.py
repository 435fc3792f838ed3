"""Circuits chosen from scores, and circuits chosen by chance. Pure functions of numpy arrays."""

from collections.abc import Sequence

import numpy as np

from circuits.graph import Bools, Circuit, Floats, GraphShape


def prune(shape: GraphShape, scores: Floats, n: int) -> Circuit:
    """The n existing edges of largest |score|, then dead ends removed until nothing changes.

    A node lives if it has an out-edge and (is ``input`` or has an in-edge); an edge lives if both its ends do. The
    circuit may hold fewer than n edges. Ties go to the earlier edge.

    Args:
        shape: the graph.
        scores: [F, B].
        n: how many edges to start from.
    """
    chosen = np.zeros(shape.mask.shape, dtype=bool)
    rows, columns = np.nonzero(shape.mask)
    strongest = np.argsort(-np.abs(scores[rows, columns]), kind="stable")[: max(n, 0)]
    chosen[rows[strongest], columns[strongest]] = True
    return Circuit(shape, drop_dead_ends(shape, chosen), scores)


def drop_dead_ends(shape: GraphShape, mask: Bools) -> Bools:
    """Remove edges of nodes that nothing reaches or that reach nothing, until none is left."""
    feeds = node_inputs(shape)
    is_logits = np.arange(len(shape.readers)) == len(shape.readers) - 1
    mask = mask.copy()
    while True:
        reads = mask.any(0)
        alive = mask.any(1) & (feeds @ reads)
        alive[0] = mask[0].any()
        computes = (feeds.T @ alive) | is_logits
        kept = mask & alive[:, None] & computes[None, :]
        if (kept == mask).all():
            return mask
        mask = kept


def node_inputs(shape: GraphShape) -> Bools:
    """[F, B] which readers each writer computes from (``input`` from none)."""
    rows = {name: i for i, name in enumerate(shape.writers)}
    feeds = np.zeros((len(shape.writers), len(shape.readers)), dtype=bool)
    for j, reader in enumerate(shape.readers[:-1]):
        for node in shape.heads_reading(reader):
            feeds[rows[node], j] = True
    return feeds


def random_circuits(shape: GraphShape, n: int, draws: int, *, seed: int = 0) -> Sequence[Circuit]:
    """Circuits of n edges drawn uniformly from those that exist, without pruning."""
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(shape.mask)
    circuits = []
    for _ in range(draws):
        mask = np.zeros(shape.mask.shape, dtype=bool)
        chosen = rng.choice(len(rows), size=n, replace=False)
        mask[rows[chosen], columns[chosen]] = True
        circuits.append(Circuit(shape, mask))
    return circuits
