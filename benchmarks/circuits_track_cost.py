"""Change points of long series: seconds of a first cut with its 199 draws, and of one draw against plain loops.

    OMP_NUM_THREADS=1 python -m benchmarks.circuits_track_cost
    OMP_NUM_THREADS=1 python -m benchmarks.circuits_track_cost --sizes 154 1000

A draw shuffles every unit's checkpoints by itself and looks for the best cut. The loops take it as it is written down:
every pair of checkpoints by itself, every cut by itself. Both must find the same. Processor seconds.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from circuits.tracking.changepoints import Products, best_split, cosines, splits

SIZES = (20, 50, 154, 500)
UNITS, EDGES = 37, 200


def walk(size: int) -> list[np.ndarray]:
    """Scores of a series that drifts by small steps."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(size, EDGES)).cumsum(0) * 0.02 + rng.normal(size=EDGES)
    return [mean + rng.normal(size=(UNITS, EDGES)) for mean in means]


def loops(products: Products, rng: np.random.Generator) -> tuple[int, float]:
    """One draw, written out."""
    size, units = products.steps, products.units
    orders, unit = np.stack([rng.permutation(size) for _ in range(units)], axis=1), np.arange(units)
    kernel = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            block = products.gram[orders[i], unit][:, orders[j], unit]
            kernel[i, j] = (block.sum() - np.trace(block)) / (units * (units - 1))
    like = np.nan_to_num(cosines(kernel), nan=0.0)

    def scatter(part: np.ndarray) -> float:
        return float(np.trace(part) - part.sum() / len(part))

    gains = [scatter(like) - scatter(like[:cut, :cut]) - scatter(like[cut:, cut:]) for cut in range(1, size)]
    return int(np.argmax(gains)) + 1, max(gains)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    print(
        "| checkpoints | first cut, 199 draws, s | peak, GiB | one draw, ms | plain loops / one draw |\n"
        + "|---" * 5
        + "|"
    )
    for size in parser.parse_args().sizes:
        products = Products(walk(size))
        whole, _ = seconds(lambda products=products: splits(products, level=0.0))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        draw, one = seconds(
            lambda products=products: best_split(products.shuffled(slice(0, products.steps), np.random.default_rng(1)))
        )
        slow, other = seconds(lambda products=products: loops(products, np.random.default_rng(1)))
        assert one[0] == other[0] and np.isclose(one[1], other[1]), (one, other)
        print(f"| {size} | {whole:.1f} | {peak:.2f} | {1000 * draw:.0f} | {slow / draw:.1f} |", flush=True)


if __name__ == "__main__":
    main()
