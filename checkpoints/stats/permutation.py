"""Tests that hold whatever the distribution: exchange what would be exchangeable if nothing differed.

Few exchanges are all listed, and p is exact. Where they are drawn, p is the upper end of what the draws leave possible
(`drawn_p`), so that no call hangs on the draw.

`sign_flip_test` and `label_test` ask of many elements at once, as a whole and one by one. Two statistics of the whole
are exchanged together, so that neither heavy tails of single elements nor their dependence on each other matter: the
largest *moderated* element, and the summed squared change; p is twice the smaller of the two. An element's moderated
statistic is that of SAM (Tusher et al. 2001),

    t_e = |change_e| / (s_e + s0),    s_e^2 = sum over the units of d_e^2,    s0 = the median over the elements of s_e,

whose s0 keeps elements with a tiny, skewed spread from leading: exchanging signs is exact where differences are
symmetric about 0, and facts' differences are skewed. With s0 = 0 the largest element is called at a nominal 5 % in
25 % of draws of 16 real facts whose mean difference is 0, with it in 5 % (`benchmarks/circuits_calibration.py`). Under
independent exponential differences over three orders of size the largest element still is called in 30 to 50 %, the
summed squared change in 3 to 7 %: `checkpoints.stats.changes` asks more of the largest.

p of one element is the share of the statistics of *all* elements under the exchanges that reach its own; elements that
changed without doubt by this p (q <= 0.05) are then left out of what it is counted among, as their exchanged statistics
are no null (Xie, Pan and Khodursky 2005).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.bootstrap import upper_share
from checkpoints.stats.ttests import false_discovery
from checkpoints.stats.units import Floats

LISTED_SIGNS, LISTED_ORDERS = 10, 8
"""Units, and pairs, up to which every pattern of signs, and every order, is listed."""
DRAWS, DRAWN_ORDERS = 999, 20_000
PIECE = 1 << 18
"""Statistics made at a time: so many stay in the processor's cache."""
BINS = 1 << 14
"""Steps on which statistics of elements are compared; within one, they count as equal."""
SURE = 0.05


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What exchanging says of many elements.

    Attributes:
        largest: p that none of them changed, by the largest moderated element.
        energy: the same by the summed squared change.
        elements: [E] p of each that it did not change; 1 where its units all changed by 0.
    """

    largest: float
    energy: float
    elements: Floats

    @property
    def whole(self) -> float:
        """That none of them changed: twice the smaller of the two."""
        return min(1.0, 2 * min(self.largest, self.energy))


def drawn_p(hits: int, draws: int) -> float:
    """The p if ``hits`` of so many exchanges drawn at random reach what was observed: its 95 % upper limit."""
    return upper_share(hits, draws)


def sign_flip_test(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> Exchanged:
    """Paired differences [U, E], as a whole and one by one, by flipping the signs of units.

    Level: see `benchmarks/RESULTS.md`; exact where differences are symmetric about 0.
    """
    units = len(difference)
    if units <= LISTED_SIGNS:
        patterns = 1 - 2 * ((np.arange(1, 2 ** (units - 1))[:, None] >> np.arange(units)) & 1)
    else:
        patterns = np.random.default_rng(seed).choice([-1, 1], size=(draws, units))
    weights = np.concatenate([np.ones((1, units)), patterns]).astype(np.float32)
    square = by_columns(difference, sum_of_squares)
    return _exchange(weights, difference, square, drawn=units > LISTED_SIGNS)


def by_columns(units: Floats, made: Callable[[Floats], Floats]) -> Floats:
    """[E] what is made of each column of units [U, E], some at a time: no second table of them all is held."""
    parts = np.array_split(units, max(1, units.size // PIECE), axis=1)
    return np.concatenate([made(part) for part in parts])


def sum_of_squares(units: Floats) -> Floats:
    """[E] of units [U, E], in double precision."""
    return np.asarray((units.astype(np.float64) ** 2).sum(0))


def sign_flip_p(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable paired differences [U, E] are as a whole if none is real: `sign_flip_test`'s whole."""
    return sign_flip_test(difference, draws=draws, seed=seed).whole


def smallest_sign_flip_p(units: int) -> float:
    """The smallest p that `sign_flip_p` can give for so many units."""
    return min(1.0, 2 / 2.0 ** (units - 1) if units <= LISTED_SIGNS else 2 * drawn_p(0, DRAWS))


def label_test(a: Floats, b: Floats, *, draws: int = DRAWS, seed: int = 0) -> Exchanged:
    """Two sets of units, [U, E] and [V, E], as a whole and element by element, by permuting their labels.

    s_e is the spread about the mean of both sets, which no permutation changes. The level holds for sets of one size,
    or of one spread: what is asked is whether the two are one distribution.
    """
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([a, b]).astype(np.float64)
    pooled -= pooled.mean(0)
    observed = np.r_[np.full(len(a), -1 / len(a)), np.full(len(b), 1 / len(b))]
    weights = np.stack([observed, *(rng.permutation(observed) for _ in range(draws))]).astype(np.float32)
    return _exchange(weights, pooled, (pooled**2).sum(0), drawn=True)


def label_p(a: Floats, b: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable two sets of units, [U, E] and [V, E], are if they are one: `label_test`'s whole."""
    return label_test(a, b, draws=draws, seed=seed).whole


def order_p(x: Floats, y: Floats, *, seed: int = 0) -> float:
    """Share of orders of y [n] that correlate with x [n] at least as strongly, sign aside: exact up to n = 8."""
    n = len(x)
    if n <= LISTED_ORDERS:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (DRAWN_ORDERS, 1)), axis=1)
        orders = np.concatenate([np.arange(n)[None], drawn])
    products = np.abs((y - y.mean())[orders] @ (x - x.mean()))
    reached = products >= products[0] * (1 - 1e-12)
    return float(reached.mean()) if n <= LISTED_ORDERS else drawn_p(int(reached[1:].sum()), DRAWN_ORDERS)


def _exchange(weights: Floats, units: Floats, square: Floats, *, drawn: bool) -> Exchanged:
    """Probabilities of the whole, by two statistics, and of each element, pooled over all.

    Args:
        weights: [P, U] contrasts, the observed one first.
        units: [U, E].
        square: [E] sums of squares, which no contrast changes.
        drawn: the contrasts are a sample of all there are.
    """
    elements, changing = np.ones(len(square)), np.flatnonzero(square > 0)
    if not len(changing):
        return Exchanged(1.0, 1.0, elements)
    spread = np.sqrt(square)
    spread += np.median(spread[changing])
    found = _statistics(weights, units, spread, changing)
    largest, energy = (_reached(statistic, drawn=drawn) for statistic in (found.largest, found.energy))
    elements[changing] = _share(found.pooled, found.own)
    sure = false_discovery(elements)[changing] <= SURE
    if sure.any() and not sure.all():
        rest = found.pooled - _statistics(weights, units, spread, changing[sure]).pooled
        elements[changing] = np.where(sure, _share(rest, found.own, own=1), _share(rest, found.own))
    return Exchanged(largest, energy, elements)


def _reached(statistic: Floats, *, drawn: bool) -> float:
    """How probable the first of P statistics is among all of them."""
    reached = int((statistic >= statistic[0] * (1 - 1e-6)).sum())
    return drawn_p(reached - 1, len(statistic) - 1) if drawn else reached / len(statistic)


@dataclass(frozen=True, slots=True)
class _Statistics:
    """What P exchanges make of elements.

    Attributes:
        largest: [P] the largest statistic.
        energy: [P] the summed squared change.
        pooled: [BINS + 1] how many statistics of all exchanges and elements fall on each step.
        own: [E] the step of each element's own.
    """

    largest: Floats
    energy: Floats
    pooled: Floats
    own: NDArray[np.integer]


def _statistics(weights: Floats, units: Floats, spread: Floats, chosen: NDArray[np.integer]) -> _Statistics:
    step = float(np.linalg.norm(weights[0])) / BINS  # no statistic is larger than a contrast's length: Cauchy-Schwarz
    largest, energy, pooled = np.zeros(len(weights)), np.zeros(len(weights)), np.zeros(BINS + 1)
    own = np.zeros(len(chosen), dtype=np.intp)
    size = max(1, PIECE // len(weights))
    for start in range(0, len(chosen), size):
        columns = chosen[start : start + size]
        change = np.abs(weights @ units[:, columns].astype(np.float32))
        energy += np.einsum("pe,pe->p", change, change, dtype=np.float64)
        change /= spread[columns].astype(np.float32)
        np.maximum(largest, change.max(1), out=largest)
        own[start : start + size] = change[0] * (1 - 1e-6) / step
        pooled += np.bincount((change / step).astype(np.intp).ravel(), minlength=BINS + 1)
    return _Statistics(largest, energy, pooled, own)


def _share(pooled: Floats, places: NDArray[np.integer], *, own: int = 0) -> Floats:
    """Share of pooled statistics at or above each place; ``own``: one more, of its own, that the pool does not hold."""
    return np.asarray((pooled[::-1].cumsum()[::-1][places] + own) / (pooled.sum() + own))
