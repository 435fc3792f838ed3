"""Circuits chosen from scores, and circuits chosen by chance. Pure functions of numpy arrays."""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Literal, get_args

import numpy as np

from checkpoints.errors import BadPrompt, require_choice
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.graph.shape import Bools, GraphShape

PruneRule = Literal["absolute", "lowers", "greedy"]


DEFAULT_SHARE = 0.05
FEWEST_EDGES = 20


def default_size(edges: int) -> int:
    """The size a circuit of a graph of so many edges is pruned from unless told otherwise: 5 %, at least 20."""
    return min(edges, max(FEWEST_EDGES, round(DEFAULT_SHARE * edges)))


def circuit_size(edges: int, wanted: int | None) -> int:
    """The size wanted, or the default one; all edges at most.

    Raises:
        BadPrompt: no whole number of at least 1.
    """
    if wanted is None:
        return default_size(edges)
    require_size(wanted, edges, "edges")
    if wanted < 1:
        raise BadPrompt("circuits of 0 edges cannot be compared; leave n_edges out for 5 % of the edges")
    return min(edges, wanted)


def prune(shape: GraphShape, scores: Floats, n: int, *, rule: PruneRule = "absolute") -> Circuit:
    """Choose n existing edges, then remove dead ends until nothing changes.

    A node lives if it has an out-edge and (is ``input`` or has an in-edge); an edge lives if both its ends do. The
    circuit may hold fewer than n edges. Ties go to the earlier edge; what was not measured (NaN) is never in.

    Args:
        shape: the graph.
        scores: [F, B].
        n: how many edges to start from.
        rule: ``absolute`` takes the largest |score|; ``lowers`` those whose corruption lowers the metric most (what
            published runs call signed); ``greedy`` grows from ``logits``, each time by the largest |score| into a
            node already in.

    Raises:
        BadPrompt: an unknown rule, or n is no number of edges (a share, say).
    """
    require_size(n, int(shape.mask.sum()), "edges")
    require_choice("rule", rule, get_args(PruneRule))
    if rule == "greedy":
        chosen = _grow(shape, np.abs(scores), n)
    else:
        chosen = np.zeros(shape.mask.shape, dtype=bool)
        rows, columns = np.nonzero(shape.mask)
        values = scores[rows, columns]
        first = np.argsort(values if rule == "lowers" else -np.abs(values), kind="stable")[:n]
        chosen[rows[first], columns[first]] = True
    return Circuit(shape, drop_dead_ends(shape, chosen & ~np.isnan(scores)), scores)


def require_size(n: int, total: int, unit: str) -> None:
    """Refuse what is no number of edges or nodes.

    Raises:
        BadPrompt: a share, or less than none.
    """
    if not isinstance(n, int | np.integer) or n < 0:
        raise BadPrompt(f"a circuit is pruned to a whole number of the {total:,} {unit}, not to {n!r}")


def threshold(shape: GraphShape, scores: Floats, least: float) -> Circuit:
    """Every edge with |score| >= ``least``, without dead ends."""
    return Circuit(shape, drop_dead_ends(shape, shape.mask & (np.abs(scores) >= least)), scores)


def _grow(shape: GraphShape, strength: Floats, n: int) -> Bools:
    """The n edges that a best-first search from ``logits`` meets."""
    chosen = np.zeros(shape.mask.shape, dtype=bool)
    feeds = node_inputs(shape)
    opened = np.zeros(len(shape.readers), dtype=bool)
    heap: list[tuple[float, int, int]] = []

    def open_readers(columns: Sequence[int]) -> None:
        for column in columns:
            if not opened[column]:
                opened[column] = True
                for row in np.flatnonzero(shape.mask[:, column] & ~np.isnan(strength[:, column])):
                    heappush(heap, (-float(strength[row, column]), int(row), column))

    open_readers([len(shape.readers) - 1])
    for _ in range(n):
        if not heap:
            break
        _, row, column = heappop(heap)
        chosen[row, column] = True
        open_readers(np.flatnonzero(feeds[row]).tolist())
    return chosen


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
