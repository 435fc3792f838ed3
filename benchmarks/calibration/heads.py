"""How often intervals of head scores cover, and how often a comparison of heads is wrong: no model, seconds.

    python benchmarks/calibration/heads.py

A head's score on a prompt is its mean, an effect of the needle and an effect of the prompt; `--correlation` is the
needle's share of the variance (0.4 is the median of the real series' score differences). Effects are normal, or with
`--skewed` exponential less their mean, each head's with its own sign. Beside what the toolkit does stand the same
numbers with prompts as the units. Shares beside their exact binomial 95 % intervals.
"""

import argparse

import numpy as np
from numpy.random import Generator
from scipy.stats import binomtest

from checkpoints.stats.ttests import mean_interval, paired_test
from checkpoints.stats.units import cluster_means

NEEDLES = (3, 5, 7, 8, 12, 24)
DEPTHS, HEADS = 10, 144


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="comparisons for each row")
    parser.add_argument("--correlation", type=float, default=0.4, help="share of the variance between needles")
    parser.add_argument("--skewed", action="store_true", help="exponential effects")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print("| needles | interval covers | with prompts as units | a head named where none changed | with prompts |")
    print("|---|---|---|---|---|")
    for needles in NEEDLES:
        covered, named = [], []
        cluster = np.repeat(np.arange(needles), DEPTHS)
        for _ in range(options.draws):
            change = scores(rng, needles, options.correlation, skewed=options.skewed)
            covered.append([np.mean(covers(change, unit)) for unit in (cluster, None)])
            units = (cluster_means(change, cluster), change)
            named.append([bool((paired_test(np.zeros_like(u), u).q <= 0.05).any()) for u in units])
        shares = np.mean(covered, axis=0)
        print(f"| {needles} | {shares[0]:.3f} | {shares[1]:.3f} | {share(named, 0)} | {share(named, 1)} |", flush=True)


def scores(rng: Generator, needles: int, correlation: float, *, skewed: bool = False) -> np.ndarray:
    """[prompts, heads] differences about 0, the same needles' effects at all depths."""
    sign = rng.choice([-1, 1], HEADS) if skewed else np.ones(HEADS)

    def effects(*shape: int) -> np.ndarray:
        return sign * (rng.exponential(size=shape) - 1) if skewed else rng.standard_normal(shape)

    of_needles = effects(needles, 1, HEADS) * correlation**0.5
    of_prompts = effects(needles, DEPTHS, HEADS) * (1 - correlation) ** 0.5
    return (of_needles + of_prompts).reshape(-1, HEADS)


def covers(values: np.ndarray, cluster: np.ndarray | None) -> np.ndarray:
    """Whether each head's interval holds its true mean, 0."""
    low, high = mean_interval(values, cluster)
    return (low < 0) & (high > 0)


def share(calls: list[list[bool]], place: int) -> str:
    """A share of calls with its interval."""
    hits = sum(call[place] for call in calls)
    limits = binomtest(hits, len(calls)).proportion_ci()
    return f"{hits / len(calls):.3f} [{limits.low:.3f}, {limits.high:.3f}]"


if __name__ == "__main__":
    main()
