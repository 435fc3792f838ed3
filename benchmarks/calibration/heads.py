"""How often intervals of head scores cover, and how often a comparison of heads is wrong: no model, seconds.

    python benchmarks/calibration/heads.py

A head's score on a prompt is its mean, an effect of the needle and an effect of the prompt; `--correlation` is the
needle's share of the variance (0.4 is the median of the real series' score differences). Effects are normal, or with
`--skewed` exponential less their mean, each head's with its own sign. `--shift` moves three heads by so many standard
deviations of the needles' means, and then the last columns hold the share of the three that is named. Beside what the
toolkit does stand Student's t intervals, intervals with prompts as the units, and t tests. Shares beside exact binomial
95 % intervals. With `--shares` scores are shares instead, most of them nearly always 1 or 0, one a needle: how often
intervals cover, and how wide they are, as the toolkit gives them, without exact ends where needles agree, and by
Student's t within 0 to 1.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy.stats import binomtest

from checkpoints.stats.changes import moderated_test
from checkpoints.stats.shares import score_interval
from checkpoints.stats.ttests import difference_test, mean_interval, skewed_interval
from checkpoints.stats.units import cluster_means

NEEDLES = (3, 5, 7, 8, 12, 24)
DEPTHS, HEADS, SHIFTED = 10, 144, 3
SHARES: dict[str, tuple[float, Callable[[Generator, tuple[int, int]], np.ndarray]]] = {
    "beta (4, .5), nearly always 1": (8 / 9, lambda rng, size: rng.beta(4, 0.5, size)),
    "beta (.5, 8), nearly always 0": (1 / 17, lambda rng, size: rng.beta(0.5, 8, size)),
    "five answers, right by beta (2, .3)": (20 / 23, lambda rng, size: rng.binomial(5, rng.beta(2, 0.3, size)) / 5),
    "fifty answers, right by beta (2, .3)": (20 / 23, lambda rng, size: rng.binomial(50, rng.beta(2, 0.3, size)) / 50),
    "beta (20, 2)": (10 / 11, lambda rng, size: rng.beta(20, 2, size)),
    "beta (2, 2)": (1 / 2, lambda rng, size: rng.beta(2, 2, size)),
    "1 or 0, 1 of .9": (0.9, lambda rng, size: (rng.random(size) < 0.9).astype(float)),
}
"""Distributions of a needle's score, each with its mean."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="comparisons for each row")
    parser.add_argument("--correlation", type=float, default=0.4, help="share of the variance between needles")
    parser.add_argument("--skewed", action="store_true", help="exponential effects")
    parser.add_argument("--shift", type=float, default=0.0, help="of three heads, in standard deviations")
    parser.add_argument("--needles", type=int, nargs="+", default=NEEDLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", action="store_true", help="scores between 0 and 1")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    if options.shares:
        of_shares(rng, options.needles, options.draws)
        return
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


def of_shares(rng: Generator, sizes: list[int], draws: int) -> None:
    """Coverage and mean width under each of `SHARES`, so many draws of as many heads."""
    print("| scores | needles | covers | width | without exact ends | width | Student's t | width |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (mean, draw) in SHARES.items():
        for needles in sizes:
            values, units = draw(rng, (needles, draws * HEADS)), np.arange(needles)
            cells = []
            for interval in (score_interval, skewed_interval, mean_interval):
                low, high = np.clip(interval(values, units), 0, 1)
                held = (low <= mean + 1e-9) & (high >= mean - 1e-9)
                cells += [f"{held.mean():.3f}", f"{(high - low).mean():.2f}"]
            print(f"| {name} | {needles} | {' | '.join(cells)} |", flush=True)


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
