"""Change points in a sequence of noisy score vectors, from their inner products alone.

Inner products of mean vectors are taken between different facts only, so that prompt noise, which is large and shared
by all checkpoints, does not count as likeness or as change (cross-validated, as in Walther et al. 2016).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.stats.bootstrap import draw_units, percentiles
from checkpoints.stats.permutation import drawn_p
from checkpoints.stats.units import Floats

if TYPE_CHECKING:
    from circuits.graph.scores import AttributionGraph

LARGEST = 2048
PIECE = 16_000_000
LEAST = 0.1
RESAMPLES = 200
FEW = 3
"""Units from which on a cut's place has an interval; of fewer it is the whole stretch."""


@dataclass(frozen=True, slots=True)
class Split:
    """Where a stretch of checkpoints falls in two.

    Attributes:
        index: the first checkpoint of the second part.
        low, high: 95 % bootstrap interval of the index, over the facts.
        p: permutation p of no change within the stretch.
        sudden: a jump there fits better than steady drift through the stretch (`drift_gain`) in 97.5 % of resamples of
            the facts; steady drift breaks exchangeability as a jump does, and is best cut somewhere.
    """

    index: int
    low: int
    high: int
    p: float
    sudden: bool = True


class Products:
    """Inner products of every unit of every checkpoint with every other.

    Args:
        scores: T arrays [U, E], the same units at each checkpoint. Units are merged where there are too many.
    """

    def __init__(self, scores: Sequence[Floats]) -> None:
        self._multiply([partial(_columns, table) for table in scores], *scores[0].shape)

    @classmethod
    def of(cls, graphs: "Sequence[AttributionGraph]") -> "Products":
        """Those of graphs, whose scores may lie in files: a part of the edges is read at a time."""
        found = cls.__new__(cls)
        found._multiply([graph.columns for graph in graphs], graphs[0].units, graphs[0].n_edges)
        return found

    def _multiply(self, tables: Sequence[Callable[[slice], Floats]], rows: int, edges: int) -> None:
        """Take tables [rows, edges] by their columns."""
        self.steps, self.units = len(tables), min(rows, max(4, LARGEST // len(tables)))
        size = self.steps * self.units
        gram = np.zeros((size, size))
        for start in range(0, edges, max(1, PIECE // size)):
            part = slice(start, min(start + max(1, PIECE // size), edges))
            flat = np.concatenate([_merged(columns(part), self.units) for columns in tables]).astype(np.float32)
            gram += flat @ flat.T
        self.gram = gram.reshape(self.steps, self.units, self.steps, self.units)

    def kernel(self, weights: Floats | None = None) -> Floats:
        """[T, T] estimates of the inner products of the noiseless means, units weighted; NaN of one unit alone."""
        weights = np.ones(self.units) if weights is None else weights
        pairs = np.outer(weights, weights)
        np.fill_diagonal(pairs, 0.0)
        if not pairs.any():
            return np.full((self.steps, self.steps), np.nan)
        return np.asarray(np.einsum("iujv,uv->ij", self.gram, pairs, optimize=True) / pairs.sum())

    def shuffled(self, stretch: slice, rng: np.random.Generator) -> Floats:
        """The kernel of a stretch after every unit has shuffled its checkpoints by itself."""
        size = stretch.stop - stretch.start
        orders = np.stack([rng.permutation(size) for _ in range(self.units)], axis=1) + stretch.start
        unit = np.arange(self.units)
        places = orders * self.units + unit  # [T, units] rows of the products as one square table
        table = self.gram.reshape(self.steps * self.units, -1)
        rows = np.stack([table[own].sum(0) for own in places])
        same = self.gram[orders[:, None], unit, orders[None], unit].sum(2)
        return np.asarray((rows[:, places].sum(2) - same) / (self.units * (self.units - 1)))

    def reliability(self) -> Floats:
        """[T] share of the squared length of each mean vector that is not prompt noise."""
        raw = np.einsum("iuiv->i", self.gram) / self.units**2
        return np.asarray(np.diag(self.kernel()) / np.where(raw > 0, raw, np.nan))


def cosines(kernel: Floats) -> Floats:
    """[T, T] cosines; NaN for a checkpoint whose mean is not distinguishable from noise."""
    length = np.sqrt(np.where(np.diag(kernel) > 0, np.diag(kernel), np.nan))
    return np.asarray(np.clip(kernel / np.outer(length, length), -1, 1))


def apart(kernel: Floats, cut: int) -> float:
    """1 - cosine between the summed directions on both sides of a cut; NaN where one side is nothing but noise."""
    length = np.sqrt(np.where(np.diag(kernel) > 0, np.diag(kernel), np.nan))
    directions = np.nan_to_num(kernel / np.outer(length, length))
    sides = np.zeros((2, len(kernel)))
    sides[0, :cut] = sides[1, cut:] = 1.0
    product = sides @ directions @ sides.T
    own = product[0, 0] * product[1, 1]
    return float(1 - product[0, 1] / np.sqrt(own)) if min(product[0, 0], product[1, 1]) > 0 else float("nan")


def best_split(kernel: Floats) -> tuple[int, float]:
    """Where cutting a stretch in two lowers the scatter of directions most, and by how much."""
    likeness = np.nan_to_num(cosines(kernel), nan=0.0)
    sums = likeness.cumsum(0).cumsum(1)  # [i, j]: of all entries up to there, so that any part's sum is four of them
    cut, whole = np.arange(1, len(likeness)), sums[-1, -1]
    before = sums[cut - 1, cut - 1]
    after = whole - sums[cut - 1, -1] - sums[-1, cut - 1] + before
    # a part's scatter is its trace less the mean of its rows' sums; the traces of two parts are that of the whole
    gains = before / cut + after / (len(likeness) - cut) - whole / len(likeness)
    best = int(np.argmax(gains))
    return best + 1, float(gains[best])


def drift_gain(kernel: Floats) -> float:
    """By how much steady drift from checkpoint to checkpoint lowers the scatter of directions, beside `best_split`'s.

    The fit of mean + slope (i - mean i) to the directions takes (c K c) / (c c) off their scatter, K their likeness and
    c the centred places; a jump takes as many parameters, and picks its place.
    """
    centred = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    return float(centred @ np.nan_to_num(cosines(kernel), nan=0.0) @ centred / (centred @ centred))


def splits(products: Products, *, level: float = 0.05, draws: int = 199, seed: int = 0) -> tuple[Split, ...]:
    """Change points by binary segmentation: cut while a permutation test allows and the sides differ by 0.1 in cosine.

    The second condition keeps changes of mere strength or noise level, which also break exchangeability, from counting.
    """
    rng = np.random.default_rng(seed)
    found = list(_cut(products, slice(0, products.steps), level, draws, rng))
    return tuple(sorted(found, key=lambda split: split.index))


def _cut(products: Products, stretch: slice, level: float, draws: int, rng: np.random.Generator) -> Iterator[Split]:
    if stretch.stop - stretch.start < 2:
        return
    kernel = products.kernel()[stretch, stretch]
    cut, gain = best_split(kernel)
    null = [best_split(products.shuffled(stretch, rng))[1] for _ in range(draws)]
    p = drawn_p(sum(value >= gain for value in null), draws)
    if p > level or apart(kernel, cut) < LEAST:
        return
    index = stretch.start + cut
    low, high, sudden = _resampled(products, stretch, rng)
    yield Split(index, min(low, index), max(high, index), p, sudden)
    yield from _cut(products, slice(stretch.start, index), level, draws, rng)
    yield from _cut(products, slice(index, stretch.stop), level, draws, rng)


def _resampled(products: Products, stretch: slice, rng: np.random.Generator) -> tuple[int, int, bool]:
    """Ends of the interval of the place of a cut, and whether the jump there is sure to beat steady drift."""
    drawn = draw_units(rng, products.units, RESAMPLES)
    if products.units < FEW:
        return stretch.start + 1, stretch.stop - 1, False
    places, leads = [], []
    for weights in drawn:
        if np.count_nonzero(weights) > 1:  # one unit alone tells nothing
            kernel = products.kernel(weights)[stretch, stretch]
            place, gain = best_split(kernel)
            places.append(place)
            leads.append(gain - drift_gain(kernel))
    low, high = percentiles(np.array(places, dtype=np.float64), method="nearest")
    return stretch.start + int(low), stretch.start + int(high), bool(percentiles(np.array(leads))[0] > 1e-9)


def _columns(table: Floats, part: slice) -> Floats:
    return table[:, part]


def _merged(scores: Floats, units: int) -> Floats:
    """Means over ``units`` groups of rows."""
    if len(scores) == units:
        return scores
    return np.stack([part.mean(0) for part in np.array_split(scores, units)])
