"""Seconds and memory of a diff of two stored graphs with all its statistics: GPT-2-small and 8B shapes.

    OMP_NUM_THREADS=1 python -m benchmarks.circuits_diff_cost
    OMP_NUM_THREADS=1 python -m benchmarks.circuits_diff_cost --overlaps 12
    OMP_NUM_THREADS=1 python -m benchmarks.circuits_diff_cost --exchanges 4

With ``--overlaps`` the overlaps of so many checkpoints with the one before and with the last, as a report draws them:
each halved once, against halved anew for each pair. Processor seconds. With ``--exchanges`` what p of the likeness of
two graphs of OLMo-2-7B's shape over 37 facts takes, from so many: halves weighted, against units moved.
"""

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np

import circuits
from benchmarks.series.synthetic import OLMO2_7B
from circuits.comparison.overlap import halve, overlap_of
from circuits.comparison.similarity import Ranked, measures, permuted_p
from circuits.graph.scores import AttributionGraph
from circuits.graph.shape import GraphShape

SHAPES = {
    "GPT-2 small, 64 facts": (GraphShape(12, 12, 12), 64),
    "8B, ungrouped heads, 8 groups": (GraphShape(32, 32, 32), 8),
}


def stored(shape: GraphShape, units: int, seed: int) -> AttributionGraph:
    """Heavy-tailed scores around one pattern, in float32."""
    pattern = np.random.default_rng(0).standard_t(2, shape.mask.shape).astype(np.float32) * shape.mask
    rng = np.random.default_rng(seed)
    scores = np.stack([pattern * rng.normal(1, 0.3, pattern.shape).astype(np.float32) for _ in range(units)])
    ones = np.ones(units)
    return AttributionGraph(
        scores, shape, ones, -ones, np.zeros(units, int), np.arange(units), ({},) * units, {"prompts": "p"}
    )


def diffs() -> None:
    print("| graphs | edges | s | peak of the process, MiB |\n|---|---|---|---|")
    for name, (shape, units) in SHAPES.items():
        a, b = stored(shape, units, 1), stored(shape, units, 2)
        start = time.process_time()
        told = circuits.diff(a, b)
        spent = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {name} | {len(told.a):,} | {spent:.2f} | {peak:.0f} |", flush=True)


def overlaps(graphs: Sequence[AttributionGraph]) -> tuple[float, float]:
    """Seconds of the overlaps of each with the one before and with the last, halved once and for each pair."""
    pairs = [pair for at in range(1, len(graphs)) for pair in ((at - 1, at), (at, len(graphs) - 1))]
    start = time.process_time()
    halved = [halve(graph) for graph in graphs]
    once = [overlap_of(halved[a], halved[b]) for a, b in pairs]
    between = time.process_time()
    anew = [overlap_of(halve(graphs[a]), halve(graphs[b])) for a, b in pairs]
    assert once == anew
    return between - start, time.process_time() - between


def exchanged(a: AttributionGraph, b: AttributionGraph, exchanges: int) -> tuple[float, float]:
    """Seconds of so many exchanges of the facts of two graphs, four splits each: weighted, and moved and copied."""
    first, second, units = a.edge_scores, b.edge_scores, len(a)
    sizes, weights = [a.circuit_edges // 4, a.circuit_edges], (np.ones(units), np.ones(units))
    start = time.process_time()
    permuted_p(first, second, weights, sizes, splits=4, exchanges=exchanges, paired=True)
    between = time.process_time()
    rng, pooled = np.random.default_rng(0), np.concatenate([first, second])
    for _ in range(exchanges + 1):
        side = np.arange(units) + np.where(rng.integers(0, 2, units, dtype=bool), units, 0)
        moved = pooled[side], pooled[(side + units) % (2 * units)]
        for _ in range(4):
            order = np.split(rng.permutation(units), [units // 2])
            one, other, third, fourth = (Ranked(scores[half].mean(0), sizes) for scores in moved for half in order)
            for pair in ((one, other), (third, fourth), (one, fourth), (other, third)):
                measures(*pair)
    return between - start, time.process_time() - between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlaps", type=int, help="of so many checkpoints, instead of the diffs")
    parser.add_argument("--exchanges", type=int, help="so many of the facts of two graphs, instead of the diffs")
    given = parser.parse_args()
    if given.exchanges is not None:
        weighted, copied = exchanged(stored(OLMO2_7B, 37, 1), stored(OLMO2_7B, 37, 2), given.exchanges)
        print(f"{given.exchanges} exchanges: weighted {weighted:.1f} s, copied {copied:.1f} s, {weighted / copied:.2f}")
        return
    count = given.overlaps
    if count is None:
        diffs()
        return
    name, (shape, units) = next(iter(SHAPES.items()))
    once, anew = overlaps([stored(shape, units, seed) for seed in range(count)])
    print(f"{name}, {count} checkpoints: halved once {once:.2f} s, for each pair {anew:.2f} s, {once / anew:.2f}")


if __name__ == "__main__":
    main()
