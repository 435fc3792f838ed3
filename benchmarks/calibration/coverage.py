"""How often 95 % intervals of a circuit diff hold what all facts show, and how often one changed edge is found.

    python -m benchmarks.calibration.coverage series/first-light@9000 --against series/first-light@9600 --draws 200

Facts are drawn with replacement from those of the series' world that the first checkpoint recalls, so that the truth
is what all of them show. Of named edges the intervals by the false coverage rate stand beside plain ones: the mean over
draws of the share of named edges whose interval misses, 0 where none is named, taken from 1. One edge is moved by 1.5
standard deviations, beside changes without a mean. Standard errors of the shares in brackets.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from benchmarks.calibration.population import arguments, graphs
from checkpoints.stats.changes import change_test
from checkpoints.stats.permutation import sign_flip_test
from checkpoints.stats.ttests import difference_test, false_discovery, selected_interval
from circuits.comparison.profile import PROFILES, profile_changes, profiler
from circuits.graph.scores import AttributionGraph

LEVEL = 0.05
SPREADS, SHIFT = (3, 6, 12), 1.5


def main() -> None:
    parser = arguments(__doc__, draws=40)
    parser.add_argument("--only", default="", help="tables whose title holds this word")
    options = parser.parse_args()
    first, *others = graphs(options).items()
    for name, graph in others:
        for title, columns, simulate in (table for table in TABLES if options.only in table[0]):
            print(f"\n| {title}, {first[0]} to {name}, facts | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
            for size in options.sizes:
                rng = np.random.default_rng(options.seed)
                draws = np.array([simulate(first[1], graph, size, rng) for _ in range(options.draws)])
                cells = (f"{share:.3f} ({error:.3f})" for share, error in zip(*summary(draws), strict=True))
                print(f"| {size} | {' | '.join(cells)} |", flush=True)


def summary(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of draws [D, C] and their standard errors, each [C]."""
    return draws.mean(0), draws.std(0) / len(draws) ** 0.5


def of_the_profile(a: AttributionGraph, b: AttributionGraph, size: int, rng: Generator) -> list[float]:
    """Whether the interval of each number of the profile holds the change over all facts."""
    profile = profiler(a.shape)
    truth = profile(b.edge_scores.mean(0, dtype=np.float64)) - profile(a.edge_scores.mean(0, dtype=np.float64))
    facts = rng.integers(0, len(a), size)
    found = profile_changes(a.shape, a.edge_scores[facts], b.edge_scores[facts], paired=True)
    return [float(change.low <= true <= change.high) for change, true in zip(found, truth, strict=True)]


def of_named_edges(a: AttributionGraph, b: AttributionGraph, size: int, rng: Generator) -> list[float]:
    """1 - share of the named edges that a selected and a plain interval miss; whether any is named."""
    change = b.edge_scores.astype(np.float64) - a.edge_scores
    drawn = change[rng.integers(0, len(change), size)]
    exchanged = change_test(drawn, seed=int(rng.integers(1 << 30)))
    named = (false_discovery(exchanged.elements) <= LEVEL) & (exchanged.whole <= LEVEL)
    if not named.any():
        return [1.0, 1.0, 0.0]
    test, truth = difference_test(drawn), change.mean(0)
    low, high = selected_interval(test, named, size, rate=LEVEL)
    plain = (test.low <= truth) & (truth <= test.high)
    return [float(((low <= truth) & (truth <= high))[named].mean()), float(plain[named].mean()), 1.0]


def of_one_edge(a: AttributionGraph, b: AttributionGraph, size: int, rng: Generator) -> list[float]:
    """Whether one edge's change is found, beside real ones less their means; by both tests, then by sign flips alone.

    The edges are those whose change scatters `SPREADS` times as far as the median edge's: the moderated statistic holds
    an edge against that median, so that how far it scatters tells more than its rank.
    """
    change = b.edge_scores.astype(np.float64) - a.edge_scores
    change -= change.mean(0)
    spread = change.std(0, ddof=1)
    found = []
    for times in SPREADS:
        edge = int(np.abs(spread / np.median(spread) - times).argmin())
        drawn = change[rng.integers(0, len(change), size)]
        drawn[:, edge] += rng.choice([-1, 1]) * SHIFT * spread[edge]
        found += [float(test(drawn).whole <= LEVEL) for test in (change_test, sign_flip_test)]
    return found


Simulation = Callable[[AttributionGraph, AttributionGraph, int, Generator], list[float]]
TABLES: tuple[tuple[str, tuple[str, ...], Simulation], ...] = (
    ("interval of the profile covers", PROFILES, of_the_profile),
    ("interval of named edges covers", ("selected", "plain", "any named"), of_named_edges),
    (
        "one small edge is found",
        tuple(f"{times} x the median{by}" for times in SPREADS for by in ("", ", sign flips")),
        of_one_edge,
    ),
)


if __name__ == "__main__":
    main()
