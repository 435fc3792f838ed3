"""Jaccard overlap of circuits beside its noise floor, each checkpoint halved once however often it is compared.

The numbers are those of `circuits.comparison.similarity` for the overlap alone, which is all that a series shows.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.bootstrap import percentiles
from checkpoints.stats.units import ENOUGH, Floats
from circuits.comparison.similarity import (
    EXCHANGED_SPLITS,
    SPLITS_LEVEL,
    Similarity,
    jaccards,
    measure_names,
    permuted_p,
)
from circuits.graph.pruning import circuit_size
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import Bools

CHANCES = 8
EXCHANGES = 99


@dataclass(frozen=True, slots=True)
class Halved:
    """The strongest edges of one checkpoint: of all units, and of each half of some random splits of them.

    Attributes:
        mean: [E] scores over all units.
        whole: [E] the n strongest edges.
        halves: [S, 2, E] those of both halves of each split.
        units, seed: how many units were split, and the seed of the splits.
    """

    mean: Floats
    whole: Bools
    halves: Bools
    units: int
    seed: int

    @property
    def size(self) -> int:
        """n, how many edges."""
        return int(self.whole.sum())


def halve(graph: AttributionGraph, *, n_edges: int | None = None, splits: int = 24, seed: int = 0) -> Halved:
    """Find the strongest edges of a graph and of halves of its units; graphs of as many units are split alike.

    Args:
        graph: with its scores.
        n_edges: how many edges; by default those of its circuit (`AttributionGraph.circuit_edges`).
        splits: random halves.
        seed: of the splits.
    """
    scores, weights = graph.edge_scores, graph.unit_sizes.astype(float)
    n = graph.circuit_edges if n_edges is None else circuit_size(scores.shape[1], n_edges)
    rng = np.random.default_rng(seed)
    middle = len(scores) // 2
    halves = np.empty((splits, 2, scores.shape[1]), dtype=bool)
    for split in halves:
        order = rng.permutation(len(scores))
        for half, part in zip(split, (order[:middle], order[middle:]), strict=True):
            half[:] = _strongest(_mean(scores[part], weights[part]), n)
    mean = np.asarray(_mean(scores, weights), dtype=np.float64)
    return Halved(mean, _strongest(mean, n), halves, len(scores), seed)


def overlap_of(a: Halved, b: Halved, *, chances: int = CHANCES) -> Similarity:
    """Jaccard overlap of two checkpoints that were halved alike, beside its floor and random edges, without p.

    *within* compares both halves of one checkpoint, *across* one half at A with the other half at B.

    Args:
        a: the one.
        b: the other.
        chances: draws of random circuits; with none, ``random`` is NaN.
    """
    pairs = list(zip(a.halves, b.halves, strict=True))
    within = np.array([jaccard(*halves) for pair in pairs for halves in pair])
    across = np.array([jaccard(x, y) for one, other in pairs for x, y in ((one[0], other[1]), (one[1], other[0]))])
    low, high = percentiles(within, level=SPLITS_LEVEL)
    across_low, across_high = percentiles(across, level=SPLITS_LEVEL)
    return Similarity(
        measure=measure_names([a.size])[0],
        value=jaccard(a.whole, b.whole),
        within=float(within.mean()),
        within_low=float(low),
        within_high=float(high),
        across=float(across.mean()),
        across_low=float(across_low),
        across_high=float(across_high),
        random=_chance(a, b, chances) if chances else float("nan"),
    )


def overlap(
    a: AttributionGraph, b: AttributionGraph, *, n_edges: int | None = None, splits: int = 24, seed: int = 0
) -> Similarity:
    """Jaccard overlap of the circuits of two graphs over the same facts, beside its noise floor.

    Args:
        a: scores at A.
        b: at B.
        n_edges: size of the circuits; by default that of each graph's circuit.
        splits: random halves for the floor.
        seed: of the splits.
    """
    first, second = (halve(graph, n_edges=n_edges, splits=splits, seed=seed) for graph in (a, b))
    weights = a.unit_sizes.astype(float), b.unit_sizes.astype(float)
    p = permuted_p(
        *(a.edge_scores, b.edge_scores, weights, [first.size]),
        splits=min(splits, EXCHANGED_SPLITS),
        exchanges=EXCHANGES,
        paired=True,
        measure=jaccards,
    )
    return replace(overlap_of(first, second), p=float(p[0]))


def overlap_of_tasks(a: AttributionGraph, b: AttributionGraph, n_edges: int) -> float:
    """Jaccard overlap of the n strongest edges of two graphs over prompts of different tasks, in one model or two.

    What circuits have in common whatever is asked: a floor that random edges, which know no strong parts, are too low
    for.
    """
    means = (np.asarray(_mean(graph.edge_scores, graph.unit_sizes.astype(float)), dtype=np.float64) for graph in (a, b))
    return jaccard(*(_strongest(mean, n_edges) for mean in means))


def overlap_of_relations(graph: AttributionGraph, n_edges: int, *, label: str = "relation") -> float:
    """Mean overlap of the circuits of facts of different relations, in one model: a floor that costs no measurement.

    Facts of another relation ask for other contents in the same way, so that it is a higher floor than another task is.

    Args:
        graph: of facts, each scored by itself.
        n_edges: size of each circuit.
        label: what tells relations apart.

    Returns:
        mean Jaccard over all pairs of labels with `ENOUGH` facts and more; NaN with fewer than two, or where a fact
        has no label, or facts were scored in groups.
    """
    if graph.units < len(graph) or not all(label in each for each in graph.labels):
        return float("nan")
    names = np.array([str(each[label]) for each in graph.labels])
    often = [name for name in np.unique(names) if np.count_nonzero(names == name) >= ENOUGH]
    circuits = [_strongest(graph.edge_scores[names == name].mean(0, dtype=np.float64), n_edges) for name in often]
    pairs = [jaccard(a, b) for a, b in combinations(circuits, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def jaccard(a: Bools, b: Bools) -> float:
    """Share of the edges of either set that are in both; 0 of two empty sets."""
    return int(np.count_nonzero(a & b)) / max(1, int(np.count_nonzero(a | b)))


def _chance(a: Halved, b: Halved, draws: int) -> float:
    """Mean overlap of A's circuit with circuits of B's strengths on random edges."""
    rng = np.random.default_rng(a.seed)
    for _ in range(len(a.halves)):
        rng.permutation(a.units)  # the splits drew before
    return float(np.mean([jaccard(a.whole, _strongest(rng.permutation(b.mean), b.size)) for _ in range(draws)]))


def _strongest(scores: Floats, n: int) -> Bools:
    """[E] the n edges of largest |score|."""
    cut = len(scores) - n
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argpartition(np.abs(np.asarray(scores, dtype=np.float64)), [cut])[cut:]] = True
    return chosen


def _mean(scores: Floats, weights: NDArray[np.floating]) -> Floats:
    return np.asarray((weights / weights.sum()).astype(scores.dtype) @ scores)
