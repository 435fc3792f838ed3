"""Two attribution graphs compared: which edges changed for real, and how alike the circuits are against the noise.

From stored scores alone: numpy and scipy, no model. Positive differences mean that B has the larger score. A diff of a
graph with itself is empty, and diff(a, b) is the negative of diff(b, a).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch, require_choice
from checkpoints.stats.changes import change_test, moderated
from checkpoints.stats.permutation import label_test
from checkpoints.stats.ttests import TTest, apart_from_0, difference_test, welch_test
from checkpoints.stats.units import Floats, Pairing
from circuits.comparison.clusters import clustered
from circuits.comparison.graph_diff import GraphDiff
from circuits.comparison.profile import LARGE, ProfileChange, profile_changes
from circuits.comparison.reliability import FEWEST_EDGES, FEWEST_UNITS, RankBand, reliability_by_rank
from circuits.comparison.similarity import Similarity, similarities
from circuits.graph.alike import HOW, require_alike, same_facts
from circuits.graph.pruning import circuit_size
from circuits.graph.scores import AttributionGraph

EXCHANGES = 99
"""Permutations behind the p of every overlap."""


def diff(
    a: AttributionGraph,
    b: AttributionGraph,
    *,
    q: float = 0.05,
    n_edges: int | None = None,
    pairing: Pairing = "paired",
    splits: int | None = None,
    exchanges: int = EXCHANGES,
    cluster: str | Sequence[str] = (),
    seed: int = 0,
) -> GraphDiff:
    """Compare two stored graphs.

    p of an edge, a node and the whole graph are those of the moderated statistic under sign flips of facts and under
    centred facts drawn anew (`checkpoints.stats.changes`), or those under permuted labels. Edges and nodes are held to
    Benjamini-Hochberg q, and named only where the graph changed as a whole. Intervals are Student's, edge by edge.

    Args:
        a: scores at A.
        b: scores at B.
        q: the false discovery rate that edges are held to, and the level of the global test.
        n_edges: size that the circuits are pruned from; by default that of A's (`AttributionGraph.circuit_edges`).
        pairing: ``paired`` compares fact by fact and needs identical facts; ``unpaired`` takes any.
        splits: random halves for the noise floor; by default 24, and 4 for graphs of more than 200,000 edges.
        exchanges: permutations behind the p of every overlap; with none there is no such p.
        cluster: labels of facts that are one unit where they agree in them (``"relation"``, or ``("relation",
            "template")``), each counting once; by default every fact is a unit of its own, as if facts of one relation
            were independent.
        seed: of splits and permutations.

    Raises:
        CheckpointMismatch: other architectures or methods, or other facts where pairing was asked for.
        BadPrompt: fewer than two units on a side, so that noise cannot be told, or an argument out of range; a label
            that a fact lacks.
    """
    same = partial(diff, q=q, n_edges=n_edges, pairing=pairing, splits=splits, exchanges=exchanges, seed=seed)
    if cluster:
        found = same(clustered(a, cluster), clustered(b, cluster))
        named = cluster if isinstance(cluster, str) else " and ".join(cluster)
        return replace(found, meta={**found.meta, "cluster": named})
    _require_comparable(a, b, pairing, q)
    # splits and permutations are drawn in one order whichever way round, so that one is exactly minus the other
    if b.fingerprint < a.fingerprint:
        return _negative(same(b, a))
    scores_a, scores_b = a.edge_scores, b.edge_scores
    writers_a, writers_b = a.of_writers(np.float64), b.of_writers(np.float64)
    n = a.circuit_edges if n_edges is None else circuit_size(scores_a.shape[1], n_edges)
    paired, splits = pairing == "paired", splits or _usual_splits(scores_a.shape[1])
    tests, whole = _tested(scores_a, scores_b, paired=paired, seed=seed)
    node_tests, _ = _tested(writers_a, writers_b, paired=paired, seed=seed)
    return GraphDiff(
        shape=a.shape,
        a=scores_a.mean(0, dtype=np.float64),
        b=scores_b.mean(0, dtype=np.float64),
        tests=tests,
        nodes_a=writers_a.mean(0),
        nodes_b=writers_b.mean(0),
        node_tests=node_tests,
        profile=profile_changes(a.shape, scores_a, scores_b, paired=paired),
        circuit_a=a.prune(n),
        circuit_b=b.prune(n),
        global_p=whole,
        similarity=_similarity(a, b, n, splits=splits, exchanges=exchanges, paired=paired, seed=seed),
        totals=(a.total, b.total),
        pairing=pairing,
        n=min(len(scores_a), len(scores_b)),
        level=q,
        meta={name: a.meta.get(name, usual) for name, usual in HOW.items()},
        both_ends=apart_from_0(scores_a) & apart_from_0(scores_b),
        reliability=_reliability(a, b, splits),
    )


def _tested(a: Floats, b: Floats, *, paired: bool, seed: int) -> tuple[TTest, float]:
    """The moderated tests of every column of scores [units, columns], and p of all columns together."""
    if paired:
        change = b - a
        tests, exchanged = difference_test(change), change_test(change, seed=seed)
    else:
        tests, exchanged = welch_test(a, b), label_test(a, b, seed=seed)
    return moderated(tests, exchanged), exchanged.whole


def similarity(a: AttributionGraph, b: AttributionGraph) -> tuple[Similarity, ...]:
    """The similarity of a diff of two graphs over the same facts, without its tests of edges and nodes.

    Args:
        a: scores at A.
        b: scores at B.

    Raises:
        CheckpointMismatch, BadPrompt: as for `diff`.
    """
    _require_comparable(a, b, "paired", 0.05)
    if b.fingerprint < a.fingerprint:
        a, b = b, a
    how = {"splits": _usual_splits(a.n_edges), "exchanges": EXCHANGES, "seed": 0}
    return _similarity(a, b, a.circuit_edges, paired=True, **how)


def _similarity(
    a: AttributionGraph, b: AttributionGraph, n: int, *, splits: int, exchanges: int, paired: bool, seed: int
) -> tuple[Similarity, ...]:
    return similarities(
        a.edge_scores,
        b.edge_scores,
        weights=(a.unit_sizes.astype(float), b.unit_sizes.astype(float)),
        sizes=_sizes(n, a.n_edges),
        splits=splits,
        exchanges=exchanges,
        paired=paired,
        seed=seed,
    )


def _usual_splits(edges: int) -> int:
    return 24 if edges <= LARGE else 4


def _reliability(a: AttributionGraph, b: AttributionGraph, splits: int) -> tuple[RankBand, ...]:
    """The lower reliability of each band of ranks; none with too few units or edges."""
    if min(a.units, b.units) < FEWEST_UNITS or int(a.mask.sum()) < FEWEST_EDGES:
        return ()
    pairs = zip(*(reliability_by_rank(graph, splits=splits) for graph in (a, b)), strict=True)
    return tuple(min(pair, key=lambda band: band.reliability) for pair in pairs)


def _sizes(n: int, edges: int) -> Sequence[int]:
    """Up to three sizes around n for the overlaps, none beyond half of the edges but n itself."""
    return sorted({max(1, n // 4), n, max(n, min(edges // 2, 4 * n))})


def _negative(forward: GraphDiff) -> GraphDiff:
    """The same diff read from B to A."""
    return replace(
        forward,
        a=forward.b,
        b=forward.a,
        tests=_turned(forward.tests),
        nodes_a=forward.nodes_b,
        nodes_b=forward.nodes_a,
        node_tests=_turned(forward.node_tests),
        profile=tuple(
            ProfileChange(p.name, a=p.b, b=p.a, delta=-p.delta, low=-p.high, high=-p.low) for p in forward.profile
        ),
        circuit_a=forward.circuit_b,
        circuit_b=forward.circuit_a,
        totals=forward.totals[::-1],
    )


def _turned(tests: TTest) -> TTest:
    return replace(tests, delta=-tests.delta, low=-tests.high, high=-tests.low)


def _require_comparable(a: AttributionGraph, b: AttributionGraph, pairing: str, q: float) -> None:
    require_choice("pairing", pairing, get_args(Pairing))
    if not 0 < q < 1:
        raise BadPrompt(f"q is a share of false discoveries between 0 and 1, got {q}")
    require_alike(a, b)
    units = min(a.units, b.units)
    if units < 2:
        raise BadPrompt(
            f"a diff needs scores of at least 2 facts or groups on each side to know its noise, got {units}"
        )
    if pairing == "paired" and not same_facts(a, b):
        raise CheckpointMismatch(
            f"the graphs were measured on different facts ({len(a)} and {len(b)}) or groups of them; measure both on "
            "the same, or pass pairing='unpaired'"
        )
