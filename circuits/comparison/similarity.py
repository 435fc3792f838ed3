"""How alike two score vectors are, beside what the same checkpoint gives with other prompts and what chance gives.

The floor and the comparison it belongs to are both taken between halves of the facts: *within* compares two disjoint
halves of one checkpoint, *across* one half at A with the other half at B. If nothing but the prompts differs, the two
are alike; circuits found from all facts look more similar than halves do, whatever happened to the model.

Whether *across* lies below *within* is a permutation test: if only prompts differ, A and B may be exchanged fact by
fact (or facts between the two sides, where they are other facts), and within - across is recomputed each time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.bootstrap import percentiles
from checkpoints.stats.permutation import drawn_p
from checkpoints.stats.units import Floats

COSINE = "cosine, all edges"
SPLITS_LEVEL = 0.9
NOISE_LEVEL = 0.05
EXCHANGED_SPLITS = 4
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Similarity:
    """One measure of similarity; 1 = the same.

    Attributes:
        measure: its name, with the number of edges it looks at.
        value: between A and B, all facts.
        within: mean over splits, halves of one checkpoint (A and B averaged): the noise floor.
        within_low, within_high: 5th and 95th percentile over the splits.
        across: mean over splits, a half at A against the other half at B.
        across_low, across_high: 5th and 95th percentile.
        random: mean for circuits of the same size and the same strengths on random edges.
        p: permutation p that A and B are as alike as halves of one checkpoint; NaN where nothing was exchanged.
    """

    measure: str
    value: float
    within: float
    within_low: float
    within_high: float
    across: float
    across_low: float
    across_high: float
    random: float
    p: float = float("nan")

    @property
    def excess(self) -> float:
        """How much less alike A and B are than two halves of one checkpoint."""
        return self.within - self.across

    @property
    def beyond_noise(self) -> bool:
        """Whether A and B are less alike than prompts alone would make them: p at most 0.05.

        Where nothing was exchanged: less alike than 95 % of the splits of one checkpoint, a test of little power.
        """
        return self.p <= NOISE_LEVEL if np.isfinite(self.p) else self.across < self.within_low - ROUNDING


class Ranked:
    """A score vector [E] and its strongest edges, down to the largest of several sizes."""

    def __init__(self, scores: Floats, sizes: Sequence[int]) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        self.sizes = tuple(sizes)
        self.size = np.abs(self.scores)
        self.total = float(self.size.sum()) or 1.0
        self.order = strongest(self.size, max(sizes))

    @cached_property
    def places(self) -> NDArray[np.integer]:
        """[E] where each edge stands in the order, from 0; E where it does not."""
        places = np.full(len(self.size), len(self.size), dtype=np.int32)
        places[self.order] = np.arange(len(self.order), dtype=np.int32)
        return places

    @cached_property
    def length(self) -> float:
        """Of the vector."""
        return float(np.linalg.norm(self.scores))

    def top(self, n: int) -> NDArray[np.integer]:
        """[n] the strongest edges."""
        return self.order[:n]


def strongest(size: Floats, n: int) -> NDArray[np.integer]:
    """[n] places of the largest of sizes [E], the largest first, of equal ones the first first."""
    cut = len(size) - n
    chosen = np.flatnonzero(size >= np.partition(size, cut)[cut])
    return np.asarray(chosen[np.argsort(-size[chosen], kind="stable")][:n])


def measure_names(sizes: Sequence[int]) -> tuple[str, ...]:
    """The measures, in the order of `measures`."""
    n = sizes[len(sizes) // 2]
    jaccards = (f"Jaccard, {size} edges" for size in sizes)
    return (
        *jaccards,
        f"weighted Jaccard, {n} edges",
        f"Spearman, {n} edges",
        f"rank-biased overlap, {n} edges",
        COSINE,
    )


def jaccards(a: Ranked, b: Ranked) -> Floats:
    """Jaccard overlap of the strongest edges, one number a size: the first of `measures`."""
    return _jaccards(_shared(a, b), a.sizes)


def measures(a: Ranked, b: Ranked) -> Floats:
    """The numbers of `measure_names`.

    Weighted Jaccard compares shares of |score|; Spearman the signed scores over the union of both; rank-biased overlap
    (Webber et al. 2010) the order by |score| with a mean depth of that size, down to the largest size.
    """
    n = a.sizes[len(a.sizes) // 2]
    shared = _shared(a, b)
    overlap = _rank_biased_overlap(shared, 1 - 1 / max(2, n))
    lengths = a.length * b.length
    cosine = a.scores @ b.scores / lengths if lengths else 0.0
    return np.array([*_jaccards(shared, a.sizes), _weighted_jaccard(a, b, n), _spearman(a, b, n), overlap, cosine])


def _shared(a: Ranked, b: Ranked) -> NDArray[np.integer]:
    """[n] how many edges are among the strongest of both, down to each depth of the largest size."""
    deepest = np.maximum(np.arange(len(a.order)), b.places[a.order])
    return np.cumsum(np.bincount(deepest[deepest < len(a.order)], minlength=len(a.order)))


def _jaccards(shared: NDArray[np.integer], sizes: Sequence[int]) -> Floats:
    return np.array([shared[n - 1] / (2 * n - shared[n - 1]) for n in sizes])


def _weighted_jaccard(a: Ranked, b: Ranked, n: int) -> float:
    both = a.top(n)[b.places[a.top(n)] < n]
    smaller = np.minimum(a.size[both] / a.total, b.size[both] / b.total).sum()
    either = a.size[a.top(n)].sum() / a.total + b.size[b.top(n)].sum() / b.total - smaller
    return float(smaller / max(either, np.finfo(float).tiny))


def _spearman(a: Ranked, b: Ranked, n: int) -> float:
    from scipy.stats import rankdata

    union = np.concatenate([a.top(n), b.top(n)[a.places[b.top(n)] >= n]])
    return _correlation(rankdata(a.scores[union]), rankdata(b.scores[union]))


def _rank_biased_overlap(shared: NDArray[np.integer], persistence: float) -> float:
    """Mean share of agreement over depths, depth d weighing persistence ** (d - 1), down to the lists' ends."""
    depth = np.arange(1, len(shared) + 1)
    weights = persistence ** (depth - 1)
    return float((shared / depth) @ weights / weights.sum())


def similarities(
    a: Floats,
    b: Floats,
    *,
    weights: tuple[Floats, Floats],
    sizes: Sequence[int],
    splits: int = 24,
    exchanges: int = 99,
    paired: bool = True,
    seed: int = 0,
) -> tuple[Similarity, ...]:
    """Every measure between two checkpoints, with its noise floor and its random null.

    Args:
        a: [U, E] scores of the units at A.
        b: [V, E] at B.
        weights: [U] and [V] facts in each unit.
        sizes: numbers of edges to look at, in rising order.
        splits: random splits of the units into halves.
        exchanges: permutations behind p; with none, p is NaN.
        paired: the units of A and B are the same facts, so that *across* must take different halves, and the cosine of
            all facts products of different ones (`cross_cosine`).
        seed: of the splits.
    """
    rng = np.random.default_rng(seed)
    whole_a, whole_b = Ranked(_mean(a, weights[0]), sizes), Ranked(_mean(b, weights[1]), sizes)
    value = measures(whole_a, whole_b)
    if paired:
        value[-1] = cross_cosine(a, b, weights[0])
    within, across, chance = [], [], []
    for _ in range(splits):
        order = rng.permutation(len(a))
        halves_a = _halves(a, weights[0], order, sizes)
        halves_b = _halves(b, weights[1], order if paired else rng.permutation(len(b)), sizes)
        within += [measures(*halves_a), measures(*halves_b)]
        across += [measures(halves_a[0], halves_b[1]), measures(halves_a[1], halves_b[0])]
    for _ in range(8):
        chance.append(measures(whole_a, Ranked(rng.permutation(whole_b.scores), sizes)))
    low, high = percentiles(np.array(within), level=SPLITS_LEVEL)
    across_low, across_high = percentiles(np.array(across), level=SPLITS_LEVEL)
    p = np.full(len(value), np.nan)
    if exchanges:
        p = permuted_p(a, b, weights, sizes, splits=min(splits, EXCHANGED_SPLITS), exchanges=exchanges, paired=paired)
    columns = (value, np.mean(within, 0), low, high, np.mean(across, 0), across_low, across_high, np.mean(chance, 0), p)
    return tuple(
        Similarity(name, *(float(column[i]) for column in columns)) for i, name in enumerate(measure_names(sizes))
    )


def cross_cosine(a: Floats, b: Floats, weights: Floats) -> float:
    """Cosine of the mean scores of two checkpoints over the same units, from products of different units alone.

    U_xy / sqrt(U_xx U_yy) with U_xy = sum over i != j of w_i w_j x_i . y_j: a unit's noise, which both checkpoints
    share, is never multiplied with itself (Walther et al. 2016; Diedrichsen et al. 2021). NaN where U_xx or U_yy
    is not above 0: nothing but noise.

    Args:
        a: [U, E] scores at A.
        b: [U, E] at B.
        weights: [U] of the units.
    """
    x, y = (values.astype(np.float64) * weights[:, None] for values in (a, b))
    total_x, total_y = x.sum(0), y.sum(0)
    cross = float(total_x @ total_y - np.einsum("ue,ue->", x, y))
    lengths = [float(total @ total - np.einsum("ue,ue->", z, z)) for total, z in ((total_x, x), (total_y, y))]
    return float(np.clip(cross / np.sqrt(lengths[0] * lengths[1]), -1, 1)) if min(lengths) > 0 else float("nan")


def permuted_p(
    a: Floats,
    b: Floats,
    weights: tuple[Floats, Floats],
    sizes: Sequence[int],
    *,
    splits: int,
    exchanges: int,
    paired: bool,
    measure: Callable[[Ranked, Ranked], Floats] = measures,
) -> Floats:
    """[M] p of within - across of every number of a measure, over the same splits in every exchange of A and B.

    Args:
        a: [U, E] scores of the units at A.
        b: [V, E] at B.
        weights: [U] and [V] facts in each unit.
        sizes: numbers of edges to look at, in rising order.
        splits: random splits of the units into halves.
        exchanges: permutations.
        paired: the units of A and B are the same facts, which change sides one by one.
        measure: [M] numbers of two halves.
    """
    rng = np.random.default_rng(len(a))
    orders = [(rng.permutation(len(a)), rng.permutation(len(b))) for _ in range(splits)]
    halves = [
        half for first, second in orders for half in (*_halved(first), *_halved(len(a) + (first if paired else second)))
    ]
    of = np.concatenate(weights)

    def excess(places: NDArray[np.integer]) -> Floats:
        """[M] with the units of A and B, A's first, exchanged for those at these places."""
        means = _means(a, b, of, [places[half] for half in halves])
        found = []
        for four in np.split(means, splits):
            one, other, third, fourth = (Ranked(mean, sizes) for mean in four)
            within = measure(one, other) + measure(third, fourth)
            found.append(within - measure(one, fourth) - measure(other, third))
        return np.asarray(np.mean(found, axis=0))

    observed = excess(np.arange(len(of)))
    hits = np.zeros(len(observed), dtype=int)
    for _ in range(exchanges):
        hits += excess(_flipped(rng, len(a)) if paired else rng.permutation(len(of))) >= observed - ROUNDING
    return np.array([drawn_p(int(hit), exchanges) for hit in hits])


def _flipped(rng: np.random.Generator, units: int) -> NDArray[np.integer]:
    """[2 units] places of A's units, then of B's, after a random half of the facts has changed sides."""
    side = np.arange(units) + np.where(rng.integers(0, 2, units, dtype=bool), units, 0)
    return np.concatenate([side, (side + units) % (2 * units)])


def _means(a: Floats, b: Floats, weights: Floats, parts: Sequence[NDArray[np.integer]]) -> Floats:
    """[P, E] weighted means over parts of the units of A and B, B's counted on; neither is copied."""
    shares = np.zeros((len(parts), len(weights)), dtype=a.dtype)
    for row, part in zip(shares, parts, strict=True):
        row[part] = weights[part] / weights[part].sum()
    return np.asarray(shares[:, : len(a)] @ a + shares[:, len(a) :] @ b)


def _halves(scores: Floats, weights: Floats, order: NDArray[np.integer], sizes: Sequence[int]) -> tuple[Ranked, Ranked]:
    first, second = (Ranked(_mean(scores[part], weights[part]), sizes) for part in _halved(order))
    return first, second


def _halved(order: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    return np.split(order, [len(order) // 2])


def _mean(scores: Floats, weights: Floats) -> Floats:
    return np.asarray((weights / weights.sum()).astype(scores.dtype) @ scores)


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else 0.0
