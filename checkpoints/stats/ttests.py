"""t tests of differences of means, element by element, with Benjamini-Hochberg q; numpy, and scipy where called."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.units import FEWEST, Floats, nanmean

MIN_UNITS = 5
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class TTest:
    """Differences of means, element by element, all of one shape.

    Attributes:
        delta: mean difference b - a.
        low: lower end of its 95 % t interval; NaN where fewer than `FEWEST` units apply.
        high: upper end.
        p: two-sided; 1 where nothing differs, NaN where fewer than `MIN_UNITS` units apply.
        q: Benjamini-Hochberg over all elements that have a p.
    """

    delta: Floats
    low: Floats
    high: Floats
    p: Floats
    q: Floats


def paired_test(a: Floats, b: Floats, *, level: float = LEVEL) -> TTest:
    """`difference_test` of b - a, over the same units on both sides."""
    return difference_test(b - a, level=level)


def difference_test(difference: Floats, *, level: float = LEVEL) -> TTest:
    """Student's t test of the mean over the first axis against 0.

    Args:
        difference: [U, ...] of one unit each; NaN marks what does not apply. Sums are of double precision.
        level: coverage of the interval.
    """
    delta, variance, n = _moments(difference)
    return _t_test(delta, variance, n - 1, n, level)


def apart_from_0(values: Floats, *, level: float = 1 - LEVEL) -> NDArray[np.bool_]:
    """[...] whether the mean of values [U, ...] over the units is shown to differ from 0: its q is <= level."""
    return np.asarray(difference_test(values).q <= level)


def welch_test(a: Floats, b: Floats, *, level: float = LEVEL) -> TTest:
    """Welch's t test of two sets of other units, [U, ...] and [V, ...], over the first axis."""
    mean_a, va, na = _moments(a)
    mean_b, vb, nb = _moments(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (va + vb) ** 2 / (va**2 / (na - 1) + vb**2 / (nb - 1))
    freedom = np.where(np.isfinite(freedom), freedom, na + nb - 2)
    return _t_test(mean_b - mean_a, va + vb, freedom, np.minimum(na, nb), level)


def mean_interval(
    values: Floats, cluster: NDArray[np.integer] | None = None, *, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Student's t interval of a mean over the first axis, each value counting once, units independent.

    mean +- t sqrt(C / (C - 1) sum_c r_c^2) / N, with r_c the sum over unit c of value - mean, C units and t at C - 1
    degrees of freedom: the textbook interval where every unit has one value, and that of the units' means where all
    have equally many. It covers 95 % from three units on where their means are near normal; percentiles of resamples
    cover 73 % at three units and 90 % at twelve (Hesterberg 2015).

    Args:
        values: [n, ...]; NaN marks what does not apply.
        cluster: [n] which unit a value belongs to (`units.independent_units`); each its own unless given.
        level: coverage.

    Returns:
        lower and upper ends, each [...]; NaN where fewer than `FEWEST` units apply.
    """
    mean, error, half, _, _ = _of_units(values, cluster, level)
    return np.asarray(mean - half * error), np.asarray(mean + half * error)


def skewed_interval(
    values: Floats, cluster: NDArray[np.integer] | None = None, *, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """`mean_interval` that reaches further on the side to which the units are skewed; for scores, whose units are.

    By |g| (2 t^2 + 1) / (6 sqrt(C)) standard errors, with g = m3 / m2^1.5 the skewness of the C units' residual sums:
    the first term of Student's t under skew (Johnson 1978; Hall 1992), taken where it widens, not where it narrows.
    Where effects are exponential it covers .93 to .95 at 3 to 24 units, Student's .91 to .93
    (`benchmarks/calibration/heads.py`); where they are normal .95 to .96.

    Args:
        values: [n, ...]; NaN marks what does not apply.
        cluster: [n] which unit a value belongs to; each its own unless given.
        level: coverage.

    Returns:
        lower and upper ends, each [...]; NaN where fewer than `FEWEST` units apply.
    """
    mean, error, half, away, units = _of_units(values, cluster, level)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((away**2).sum(axis=0) / units)
        skew = np.nan_to_num((away**3).sum(axis=0) / units / spread**3)
        more = skew * (2 * half**2 + 1) / (6 * np.sqrt(units))
    low, high = half + np.maximum(-more, 0.0), half + np.maximum(more, 0.0)
    return np.asarray(mean - low * error), np.asarray(mean + high * error)


def _of_units(
    values: Floats, cluster: NDArray[np.integer] | None, level: float
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Mean, standard error, how many of these an interval reaches, residual sums [C, ...] of units, their number."""
    values = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.arange(len(values)) if cluster is None else cluster, return_inverse=True)
    applies = ~np.isnan(values)
    mean = nanmean(values)
    away = np.zeros((int(index.max(initial=0)) + 1, *values.shape[1:]))
    found = np.zeros_like(away)
    residuals = np.where(applies, values - mean, 0.0)
    for unit, residual, one in zip(index.tolist(), residuals, applies, strict=True):
        away[unit] += residual
        found[unit] += one
    units = np.asarray((found > 0).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt((away**2).sum(axis=0) * units / (units - 1)) / applies.sum(axis=0)
        half = reach(units - 1, units, level=level)
    return mean, error, half, away, units


def selected_interval(
    test: TTest, chosen: NDArray[np.bool_], units: int, *, rate: float = 1 - LEVEL
) -> tuple[Floats, Floats]:
    """Intervals of the differences that were chosen for being large, by the false coverage rate.

    With R of m chosen, each has the level 1 - rate R / m: on average no more than ``rate`` of the intervals of what is
    chosen miss (Benjamini and Yekutieli 2005). Plain 95 % intervals of named edges held the truth in .09 to .68.

    Args:
        test: of all m differences, with their 95 % intervals.
        chosen: which are reported, of the same shape.
        units: on which the test rests; of the smaller side where the sides are of other units.
        rate: of false coverage.

    Returns:
        lower and upper ends, NaN where not chosen.
    """
    from scipy.stats import t

    asked = int(np.isfinite(test.p).sum())
    if not chosen.any():
        return np.full(test.delta.shape, np.nan), np.full(test.delta.shape, np.nan)
    level = rate * int(chosen.sum()) / asked
    wider = t.ppf(1 - level / 2, units - 1) / t.ppf((1 + LEVEL) / 2, units - 1)
    below, above = (test.delta - test.low) * wider, (test.high - test.delta) * wider
    return np.where(chosen, test.delta - below, np.nan), np.where(chosen, test.delta + above, np.nan)


def reach(freedom: Floats, units: Floats | int, *, level: float = LEVEL) -> Floats:
    """How many standard errors a t interval reaches to each side; NaN below `FEWEST` units.

    Args:
        freedom: [...] degrees of freedom; one less than the units where that is not known.
        units: of the smaller side.
        level: coverage.
    """
    from scipy.special import stdtrit

    known = np.where(np.isfinite(freedom), freedom, units - 1)
    return np.asarray(np.where(units < FEWEST, np.nan, stdtrit(np.maximum(known, 1), (1 + level) / 2)))


def smallest_p(units: Floats | int) -> Floats:
    """The smallest p that so many units can give: that of a sign test with every sign alike, 2^(1 - units)."""
    return np.asarray(2.0 ** (1 - np.maximum(units, 1)))


def false_discovery(p: Floats) -> Floats:
    """Benjamini-Hochberg q-values over all that are not NaN, in the shape given."""
    flat = p.ravel()
    q = np.full_like(flat, np.nan)
    tested = np.flatnonzero(~np.isnan(flat))
    if len(tested):
        order = tested[np.argsort(flat[tested], kind="stable")]
        scaled = flat[order] * len(order) / np.arange(1, len(order) + 1)
        q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q.reshape(p.shape)


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean over the first axis, variance of that mean, and how many values apply; NaN where too few do."""
    applies = ~np.isnan(values)
    n = applies.sum(axis=0)
    whole = bool(applies.all())
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.asarray(values.sum(axis=0, dtype=np.float64, where=True if whole else applies) / n)
        away = np.asarray(values - mean)
        scatter = np.square(away, out=away).sum(axis=0, where=True if whole else applies)
        return mean, np.asarray(scatter / (n - 1) / n), np.asarray(n)


def _t_test(delta: Floats, variance: Floats, freedom: Floats, units: Floats, level: float) -> TTest:
    """From the variance of the mean difference, its degrees of freedom, and the units of the smaller side.

    The bound of `smallest_p` keeps a handful of identical differences, whose variance is 0, from counting as proof.
    """
    from scipy.stats import t

    error, freedom = np.sqrt(variance), np.maximum(freedom, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(np.abs(delta) / error, freedom)
    p = np.where(delta == 0, 1.0, np.maximum(p, smallest_p(units)))
    p = np.asarray(np.where(units < MIN_UNITS, np.nan, p))
    distinct, place = np.unique(freedom, return_inverse=True)
    half = np.where(units < FEWEST, np.nan, t.ppf((1 + level) / 2, distinct)[place].reshape(np.shape(freedom)) * error)
    return TTest(delta, delta - half, delta + half, p, false_discovery(p))
