"""Seconds and memory of a diff of two stored graphs with all its statistics: GPT-2-small and 8B shapes.

OMP_NUM_THREADS=1 python benchmarks/circuits_diff_cost.py
"""

import resource
import time

import numpy as np

import circuits
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


def main() -> None:
    print("| graphs | edges | s | peak of the process, MiB |\n|---|---|---|---|")
    for name, (shape, units) in SHAPES.items():
        a, b = stored(shape, units, 1), stored(shape, units, 2)
        start = time.process_time()
        told = circuits.diff(a, b)
        spent = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {name} | {len(told.a):,} | {spent:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
