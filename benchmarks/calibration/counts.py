"""How often intervals of ledger counts and of faithfulness cover, and tests of skewed differences err: no model.

    python -m benchmarks.calibration.counts --draws 1000

Counts: units that are known with one probability each, and units of two kinds of which a fifth is nearly always known.
Faithfulness: a fact's logit difference is gamma distributed (shape 3), its circuit keeps a share of .8 with a normal
scatter of .25, or 1 less an exponential of mean .3. Recall: relations of six facts each, of which a share changes sides
that is beta distributed about .1 (correlation within a relation .3), every relation one way or the other. Tests: 300
edges whose differences are exponential less their mean, each with its own sign; all of one size, or of sizes over three
orders. Named: the ten largest of 300, or so many, edges moved by two standard deviations, the others skewed about 0.
Mean of one number, as the needles' NLL: exponential or normal differences of so many units. Standard errors in
brackets.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from checkpoints.stats.bootstrap import wilson_interval
from checkpoints.stats.changes import change_test, mean_change_p
from checkpoints.stats.permutation import Exchanged, sign_flip_test
from checkpoints.stats.shares import clustered_share, exchange_p, mcnemar_p, share_above_p
from checkpoints.stats.ttests import difference_test, false_discovery
from circuits.intervention.faithfulness import interval

EDGES, EACH, MOVED = 300, 6, 10
LEVEL, SHARE = 0.05, 0.00625
"""Of a pair, and what Holm asks of one of eight questions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="for each row; a tenth of them for tests")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 53, 100], help="units, facts")
    parser.add_argument("--only", default="", help="tables whose title holds this word")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for title, simulate, share in TABLES:
        if options.only not in title:
            continue
        draws = max(1, options.draws // share)
        print(f"\n| {title} | {' | '.join(map(str, options.sizes))} |\n|{'---|' * (len(options.sizes) + 1)}")
        for kind in simulate:
            cells = []
            for size in options.sizes:
                rng = np.random.default_rng(options.seed)
                found = np.array([simulate[kind](rng, size) for _ in range(draws)], dtype=float)
                cells.append(f"{found.mean():.3f} ({found.std() / draws**0.5:.3f})")
            print(f"| {kind}, {draws} draws | {' | '.join(cells)} |", flush=True)


def count_covers(chances: tuple[float, ...]) -> Callable[[Generator, int], bool]:
    """Whether the interval of a count over as many units holds the expected count; units are of these chances."""

    def simulate(rng: Generator, size: int) -> bool:
        known = rng.random(size) < rng.choice(chances, size)
        low, high = wilson_interval(np.array(known.sum()), np.array(size))
        return bool(low <= np.mean(chances) <= high)

    return simulate


def faithfulness_covers(shares: Callable[[Generator, int], np.ndarray]) -> Callable[[Generator, int], bool]:
    """Whether the interval of faithfulness holds .8 or .7, that of infinitely many facts: shares times differences."""

    def simulate(rng: Generator, size: int) -> bool:
        whole = rng.gamma(3, 2, size)
        kept = shares(rng, size)
        low, high = interval(kept * whole, whole, np.zeros(size))
        return low <= EXPECTED[shares] <= high

    return simulate


def scattered(rng: Generator, size: int) -> np.ndarray:
    """[size] shares of .8 with a normal scatter."""
    return 0.8 + 0.25 * rng.normal(size=size)


def skewed(rng: Generator, size: int) -> np.ndarray:
    """[size] shares of at most 1, .7 on average."""
    return 1 - 0.3 * rng.exponential(size=size)


EXPECTED = {scattered: 0.8, skewed: 0.7}


def turned(rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[6 * size] which facts changed sides, of which relation, and [size] which way each relation went."""
    relation = np.repeat(np.arange(size), EACH)
    spread = 1 / 0.3 - 1
    hit = rng.random(len(relation)) < rng.beta(0.1 * spread, 0.9 * spread, size)[relation]
    return hit, relation, rng.choice([-1, 1], size)


def turnover_called(rng: Generator, size: int) -> bool:
    """Whether more than a tenth is found to change sides, relations as units."""
    hit, relation, _ = turned(rng, size)
    return clustered_share(hit, relation, 0.1)[2] <= LEVEL


def turnover_called_by_facts(rng: Generator, size: int) -> bool:
    """The same, every fact its own unit."""
    hit, _, _ = turned(rng, size)
    return share_above_p(int(hit.sum()), len(hit), 0.1) <= LEVEL


def recall_called(rng: Generator, size: int) -> bool:
    """Whether recall is found to rise or fall, relations as units."""
    hit, relation, way = turned(rng, size)
    return exchange_p(way * np.bincount(relation[hit], minlength=size)) <= LEVEL


def recall_called_by_facts(rng: Generator, size: int) -> bool:
    """The same, every fact its own unit."""
    hit, relation, way = turned(rng, size)
    return mcnemar_p(int((hit & (way[relation] > 0)).sum()), int((hit & (way[relation] < 0)).sum())) <= LEVEL


def called(orders: float, test: Callable[..., Exchanged] = change_test) -> Callable[[Generator, int], bool]:
    """Whether skewed differences without a mean are called different, sizes of edges over so many orders."""

    def simulate(rng: Generator, size: int) -> bool:
        scale = 10.0 ** rng.uniform(-orders, 0, EDGES) * rng.choice([-1, 1], EDGES)
        drawn = (rng.exponential(size=(size, EDGES)) - 1) * scale
        return test(drawn, seed=int(rng.integers(1 << 30))).whole <= LEVEL

    return simulate


Draw = Callable[[Generator, tuple[int, int]], np.ndarray]


def exponential(rng: Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.exponential(size=shape) - 1


def lognormal(rng: Generator, shape: tuple[int, int]) -> np.ndarray:
    """Of variance 1."""
    return (rng.lognormal(size=shape) - np.exp(0.5)) / (np.e * (np.e - 1)) ** 0.5


def normal(rng: Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(size=shape)


def mixed(rng: Generator, shape: tuple[int, int]) -> np.ndarray:
    """Half of the edges exponential, half normal."""
    return np.where(rng.random(shape[1]) < 0.5, exponential(rng, shape), normal(rng, shape))


def named(
    draw: Draw, *, false: bool, edges: int = EDGES, test: Callable[..., Exchanged] = change_test
) -> Callable[[Generator, int], float]:
    """The share of named edges that are false, 0 where none is named; or of the moved ones the share that is named."""

    def simulate(rng: Generator, size: int) -> float:
        scale = 10.0 ** rng.uniform(-3, 0, edges) * rng.choice([-1, 1], edges)
        drawn = draw(rng, (size, edges)) * scale
        moved = np.argsort(-np.abs(scale))[:MOVED]
        drawn[:, moved] += 2 * scale[moved] * rng.choice([-1, 1], MOVED)
        found = test(drawn, seed=int(rng.integers(1 << 30)))
        told = (false_discovery(found.elements) <= LEVEL) & (found.whole <= LEVEL)
        right = int(told[moved].sum())
        return float(1 - right / max(1, told.sum())) * bool(told.any()) if false else right / MOVED

    return simulate


def mean_called(
    level: float, shift: float = 0.0, *, normal: bool = False, student: bool = False
) -> Callable[[Generator, int], bool]:
    """Whether a mean, so many standard deviations from 0, is called at a level, by both tests or by Student's t."""

    def simulate(rng: Generator, size: int) -> bool:
        drawn = shift + (rng.normal(size=size) if normal else rng.exponential(size=size) - 1)
        return bool((difference_test(drawn).p if student else mean_change_p(drawn)) <= level)

    return simulate


Simulations = dict[str, Callable[[Generator, int], float]]
TABLES: tuple[tuple[str, Simulations, int], ...] = (
    (
        "interval of a ledger's count covers",
        {"one chance of .3": count_covers((0.3,)), "chances of .1 and .95": count_covers((0.1, 0.1, 0.1, 0.1, 0.95))},
        1,
    ),
    (
        "interval of faithfulness covers",
        {"scattered shares": faithfulness_covers(scattered), "skewed shares": faithfulness_covers(skewed)},
        1,
    ),
    (
        "recall of relations called different",
        {
            "turnover": turnover_called,
            "turnover, by facts": turnover_called_by_facts,
            "rise or fall": recall_called,
            "rise or fall, by facts": recall_called_by_facts,
        },
        1,
    ),
    (
        "skewed differences called different",
        {
            "of one size": called(0.0),
            "of three orders": called(3.0),
            "of three orders, sign flips alone": called(3.0, sign_flip_test),
        },
        10,
    ),
    (
        "share of the named that are false",
        {
            **{draw.__name__: named(draw, false=True) for draw in (exponential, lognormal, mixed, normal)},
            "exponential, 3,000 edges": named(exponential, false=True, edges=3_000),
            "exponential, sign flips alone": named(exponential, false=True, test=sign_flip_test),
        },
        10,
    ),
    (
        "moved edges named",
        {
            **{draw.__name__: named(draw, false=False) for draw in (exponential, lognormal, mixed, normal)},
            "exponential, 3,000 edges": named(exponential, false=False, edges=3_000),
            "exponential, sign flips alone": named(exponential, false=False, test=sign_flip_test),
        },
        10,
    ),
    (
        "mean of one number called",
        {
            "exponential, .05": mean_called(LEVEL),
            "the same by Student's t": mean_called(LEVEL, student=True),
            "exponential, .00625": mean_called(SHARE),
            "the same by Student's t ": mean_called(SHARE, student=True),
            "normal, .05": mean_called(LEVEL, normal=True),
            "normal, moved by .8 standard deviations, .00625": mean_called(SHARE, 0.8, normal=True),
            "the same by Student's t  ": mean_called(SHARE, 0.8, normal=True, student=True),
        },
        1,
    ),
)


if __name__ == "__main__":
    main()
