"""Is a change of edge scores more than prompt noise? Tests on stored scores; numpy and scipy only.

Two locks. Edge by edge: t tests with Benjamini-Hochberg q values. As a whole: a permutation test (signs of the paired
differences, or labels of the pooled units) of the largest and of the summed change, valid however heavy the tails of
single edges are. Where permutations are drawn rather than listed, the upper end of what they leave possible for p is
taken (Clopper and Pearson 1934), so that no call hangs on the draw. No edge is called changed unless the whole is, so
that two measurements of one checkpoint are called different less often than the stated level.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
COLUMNS = 1 << 16
LISTED = 10
DRAWS = 999


@dataclass(frozen=True, slots=True)
class EdgeTests:
    """Edge by edge, all [E].

    Attributes:
        delta: mean difference B - A.
        low, high: ends of its t interval.
        p: two-sided; 1 where nothing differs.
        q: Benjamini-Hochberg over all edges.
    """

    delta: Floats
    low: Floats
    high: Floats
    p: Floats
    q: Floats


def paired_tests(difference: Floats, *, level: float = 0.95) -> EdgeTests:
    """Student t tests of the mean of ``difference`` [U, E] against 0."""
    units = len(difference)
    delta = difference.mean(0, dtype=np.float64)
    error = difference.std(0, ddof=1, dtype=np.float64) / np.sqrt(units)
    return _tests(delta, error, np.full(delta.shape, float(units - 1)), level)


def welch_tests(a: Floats, b: Floats, *, level: float = 0.95) -> EdgeTests:
    """Welch's t tests of the means of two independent sets of units, [U, E] and [V, E]."""
    delta = b.mean(0, dtype=np.float64) - a.mean(0, dtype=np.float64)
    variances = [x.var(0, ddof=1, dtype=np.float64) / len(x) for x in (a, b)]
    total = variances[0] + variances[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True))
    return _tests(delta, np.sqrt(total), np.nan_to_num(freedom, nan=1.0), level)


def _tests(delta: Floats, error: Floats, freedom: Floats, level: float) -> EdgeTests:
    from scipy.stats import false_discovery_control, t

    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.abs(delta) / error
    p = np.where(delta == 0, 1.0, 2 * t.sf(np.nan_to_num(statistic, nan=0.0, posinf=np.inf), freedom))
    widths, place = np.unique(freedom.round(2), return_inverse=True)
    half = t.ppf((1 + level) / 2, widths)[place] * error
    return EdgeTests(delta, delta - half, delta + half, p, false_discovery_control(p))


def paired_global_p(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable differences [U, E] are if none is real, by flipping the signs of units."""
    units = len(difference)
    if units <= LISTED:
        patterns = 1 - 2 * ((np.arange(1, 2 ** (units - 1))[:, None] >> np.arange(units)) & 1)
    else:
        patterns = np.random.default_rng(seed).choice([-1, 1], size=(draws, units))
    weights = np.concatenate([np.ones((1, units)), patterns]).astype(np.float32)
    square = (difference.astype(np.float64) ** 2).sum(0)
    return _permutation_p(weights, difference, square, drawn=units > LISTED)


def smallest_p(units: int) -> float:
    """The smallest global p that flipping the signs of so many units can give."""
    return min(1.0, 2 / 2.0 ** (units - 1) if units <= LISTED else 2 * upper_share(0, DRAWS))


def unpaired_global_p(a: Floats, b: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable two sets of units, [U, E] and [V, E], are if they are one, by permuting their labels."""
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([a, b]).astype(np.float64)
    pooled -= pooled.mean(0)
    observed = np.r_[np.full(len(a), -1 / len(a)), np.full(len(b), 1 / len(b))]
    weights = np.stack([observed, *(rng.permutation(observed) for _ in range(draws))]).astype(np.float32)
    return _permutation_p(weights, pooled, (pooled**2).sum(0), drawn=True)


def _permutation_p(weights: Floats, units: Floats, square: Floats, *, drawn: bool) -> float:
    """Twice the smaller p of two statistics: the largest standardised edge, and the summed squared change.

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
    p = upper_share(reached - 1, len(weights) - 1) if drawn else reached / len(weights)
    return min(1.0, 2 * p)


def upper_share(hits: int, draws: int, *, level: float = 0.95) -> float:
    """Upper confidence limit of a share of which ``hits`` of ``draws`` were seen (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return float(beta.ppf(level, hits + 1, draws - hits)) if hits < draws else 1.0
