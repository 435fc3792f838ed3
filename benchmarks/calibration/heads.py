"""How often intervals of head scores cover, and how often a comparison of heads is wrong: no model, seconds.

    python benchmarks/calibration/heads.py

A head's score on a prompt is its mean, an effect of the needle and an effect of the prompt; `--correlation` is the
needle's share of the variance (0.4 is the median of the real series' score differences). Effects are normal, or with
`--skewed` exponential less their mean, each head's with its own sign. `--shift` moves three heads by so many standard
deviations of the needles' means, and then the last columns hold the share of the three that is named. Beside what the
toolkit does stand Student's t intervals, intervals with prompts as the units, and t tests. Shares beside exact binomial
95 % intervals.
"""

import argparse

import numpy as np
from numpy.random import Generator
from scipy.stats import binomtest

from checkpoints.stats.changes import moderated_test
from checkpoints.stats.ttests import difference_test, mean_interval, skewed_interval
from checkpoints.stats.units import cluster_means

NEEDLES = (3, 5, 7, 8, 12, 24)
DEPTHS, HEADS, SHIFTED = 10, 144, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="comparisons for each row")
    parser.add_argument("--correlation", type=float, default=0.4, help="share of the variance between needles")
    parser.add_argument("--skewed", action="store_true", help="exponential effects")
    parser.add_argument("--shift", type=float, default=0.0, help="of three heads, in standard deviations")
    parser.add_argument("--needles", type=int, nargs="+", default=NEEDLES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    calls = "changed heads named" if options.shift else "a head named where none changed"
    print(f"| needles | interval covers | Student's t | with prompts as units | {calls} | by t tests |")
    print("|---|---|---|---|---|---|")
    for needles in options.needles:
        covered, named = [], []
        cluster = np.repeat(np.arange(needles), DEPTHS)
        for _ in range(options.draws):
            change = scores(rng, needles, options.correlation, skewed=options.skewed)
            found = skewed_interval(change, cluster), mean_interval(change, cluster), mean_interval(change)
            covered.append([np.mean(holds(*ends)) for ends in found])
            units = cluster_means(change, cluster)
            units[:, :SHIFTED] += options.shift * units.std()
            called = [test(units).q <= 0.05 for test in (moderated_test, difference_test)]
            named += (
                [[bool(q[h]) for q in called] for h in range(SHIFTED)]
                if options.shift
                else [[bool(q.any()) for q in called]]
            )
        shares = " | ".join(f"{each:.3f}" for each in np.mean(covered, axis=0))
        print(f"| {needles} | {shares} | {share(named, 0)} | {share(named, 1)} |", flush=True)


def scores(rng: Generator, needles: int, correlation: float, *, skewed: bool = False) -> np.ndarray:
    """[prompts, heads] differences about 0, the same needles' effects at all depths."""
    sign = rng.choice([-1, 1], HEADS) if skewed else np.ones(HEADS)

    def effects(*shape: int) -> np.ndarray:
        return sign * (rng.exponential(size=shape) - 1) if skewed else rng.standard_normal(shape)

    of_needles = effects(needles, 1, HEADS) * correlation**0.5
    of_prompts = effects(needles, DEPTHS, HEADS) * (1 - correlation) ** 0.5
    return (of_needles + of_prompts).reshape(-1, HEADS)


def holds(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether each head's interval holds its true mean, 0."""
    return (low < 0) & (high > 0)


def share(calls: list[list[bool]], place: int) -> str:
    """A share of calls with its interval."""
    hits = sum(call[place] for call in calls)
    limits = binomtest(hits, len(calls)).proportion_ci()
    return f"{hits / len(calls):.3f} [{limits.low:.3f}, {limits.high:.3f}]"


if __name__ == "__main__":
    main()
