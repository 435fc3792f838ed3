"""Tests that hold whatever the distribution: exchange what would be exchangeable if nothing differed.

Few exchanges are all listed, and p is exact. Where they are drawn, p is the upper end of what the draws leave possible
(`drawn_p`), so that no call hangs on the draw.

`sign_flip_p` and `label_p` ask of many elements at once, as a whole: two statistics, the largest standardised and the
summed squared change, are exchanged together, so that neither heavy tails of single elements nor their dependence on
each other matter; p is twice the smaller of the two.
"""

import itertools

import numpy as np

from checkpoints.stats.bootstrap import upper_share
from checkpoints.stats.units import Floats

LISTED_SIGNS, LISTED_ORDERS = 10, 8
"""Units, and pairs, up to which every pattern of signs, and every order, is listed."""
DRAWS, DRAWN_ORDERS = 999, 20_000
COLUMNS = 1 << 16


def drawn_p(hits: int, draws: int) -> float:
    """The p if ``hits`` of so many exchanges drawn at random reach what was observed: its 95 % upper limit."""
    return upper_share(hits, draws)


def sign_flip_p(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable paired differences [U, E] are as a whole if none is real, by flipping the signs of units."""
    units = len(difference)
    if units <= LISTED_SIGNS:
        patterns = 1 - 2 * ((np.arange(1, 2 ** (units - 1))[:, None] >> np.arange(units)) & 1)
    else:
        patterns = np.random.default_rng(seed).choice([-1, 1], size=(draws, units))
    weights = np.concatenate([np.ones((1, units)), patterns]).astype(np.float32)
    square = (difference.astype(np.float64) ** 2).sum(0)
    return _whole_p(weights, difference, square, drawn=units > LISTED_SIGNS)


def smallest_sign_flip_p(units: int) -> float:
    """The smallest p that `sign_flip_p` can give for so many units."""
    return min(1.0, 2 / 2.0 ** (units - 1) if units <= LISTED_SIGNS else 2 * drawn_p(0, DRAWS))


def label_p(a: Floats, b: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable two sets of units, [U, E] and [V, E], are if they are one, by permuting their labels."""
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([a, b]).astype(np.float64)
    pooled -= pooled.mean(0)
    observed = np.r_[np.full(len(a), -1 / len(a)), np.full(len(b), 1 / len(b))]
    weights = np.stack([observed, *(rng.permutation(observed) for _ in range(draws))]).astype(np.float32)
    return _whole_p(weights, pooled, (pooled**2).sum(0), drawn=True)


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


def _whole_p(weights: Floats, units: Floats, square: Floats, *, drawn: bool) -> float:
    """Twice the smaller p of two statistics: the largest standardised element, and the summed squared change.

    Args:
        weights: [P, U] contrasts, the observed one first.
        units: [U, E].
        square: [E] sums of squares, which no contrast changes.
        drawn: the contrasts are a sample of all there are.
    """
    largest, energy = np.zeros(len(weights)), np.zeros(len(weights))
    changing = np.flatnonzero(square > 0)
    for start in range(0, len(changing), COLUMNS):
        columns = changing[start : start + COLUMNS]
        change = (weights @ units[:, columns].astype(np.float32)).astype(np.float32) ** 2
        energy += change.sum(1, dtype=np.float64)
        np.maximum(largest, (change / square[columns].astype(np.float32)).max(1), out=largest)
    reached = min(int((s >= s[0] * (1 - 1e-6)).sum()) for s in (largest, energy))
    p = drawn_p(reached - 1, len(weights) - 1) if drawn else reached / len(weights)
    return min(1.0, 2 * p)
