"""How often one more sibling is called beyond the floor of its siblings: no model, seconds.

    python -m benchmarks.calibration.floor --draws 4000

Every training is a point; a pair's changes are distances between two of them, in one dimension or the largest of
thirty, as of heads and edges. Points are normal, or t distributed with 3 degrees of freedom; changes share a part of
their variance, as those of one circuit do. Beside the rule stands what the largest pair of siblings alone would call.
With `--shift` B is so many standard deviations away in every change: power. Standard errors are .004 at .05 and 4,000
draws.
"""

import argparse
from itertools import combinations

import numpy as np
from numpy.random import Generator

from checkpoints.stats.siblings import combined_p, sibling_p

LEVEL = 0.05
LAWS = {"normal": lambda rng, size: rng.standard_normal(size), "t (3)": lambda rng, size: rng.standard_t(3, size)}
CASES = ((1, 0.0, 1), (10, 0.0, 1), (10, 0.5, 1), (30, 0.9, 1), (10, 0.5, 30))
"""Changes, the part of variance that they share, dimensions of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="for each row")
    parser.add_argument("--siblings", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--shift", type=float, default=0.0, help="of B, in standard deviations of the scatter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| scatter | changes, sharing, dimensions | siblings | one above the largest pair | any of them |", end="")
    print(" one beyond the floor | the pair beyond it |\n|---|---|---|---|---|---|---|")
    for law in LAWS:
        for case in CASES:
            for siblings in options.siblings:
                rng = np.random.default_rng(options.seed)
                called = [_called(rng, law, case, siblings, options.shift) for _ in range(options.draws)]
                shares = " | ".join(f"{share:.3f}" for share in np.mean(called, axis=0))
                print(f"| {law} | {', '.join(map(str, case))} | {siblings} | {shares} |", flush=True)


def _called(
    rng: Generator, law: str, case: tuple[int, float, int], siblings: int, shift: float
) -> tuple[bool, bool, bool, bool]:
    """Whether the first change, and any, is above every pair; whether the first, and the pair, is beyond the floor."""
    changes, shared, dimensions = case
    points = shared**0.5 * LAWS[law](rng, (siblings + 2, 1, dimensions))
    points = points + (1 - shared) ** 0.5 * LAWS[law](rng, (siblings + 2, changes, dimensions))
    points[-1] += shift
    pairs = np.array([np.abs(c - d).max(-1) for c, d in combinations(points[:-1], 2)])
    own = np.abs(points[-1] - points[0]).max(-1)
    above = own > pairs.max(0)
    p = sibling_p(own / np.sqrt((pairs**2).mean(0)), siblings)
    beyond = above & (p <= LEVEL)
    return bool(above[0]), bool(above.any()), bool(beyond[0]), bool(beyond.any() and combined_p(p) <= LEVEL)


if __name__ == "__main__":
    main()
