"""Seconds and memory of a diff of two stored graphs with all its statistics: GPT-2-small and 8B shapes.

    OMP_NUM_THREADS=1 python -m benchmarks.circuits_diff_cost
    OMP_NUM_THREADS=1 python -m benchmarks.circuits_diff_cost --overlaps 12

With ``--overlaps`` the overlaps of so many checkpoints with the one before and with the last, as a report draws them:
each halved once, against halved anew for each pair. Processor seconds.
"""

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np

import circuits
from circuits.comparison.overlap import halve, overlap_of
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlaps", type=int, help="of so many checkpoints, instead of the diffs")
    count = parser.parse_args().overlaps
    if count is None:
        diffs()
        return
    name, (shape, units) = next(iter(SHAPES.items()))
    once, anew = overlaps([stored(shape, units, seed) for seed in range(count)])
    print(f"{name}, {count} checkpoints: halved once {once:.2f} s, for each pair {anew:.2f} s, {once / anew:.2f}")


if __name__ == "__main__":
    main()
