"""Means with intervals, paired tests and false discovery rates; numpy, and scipy where it is called."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Unit = Literal["auto", "needle", "prompt"]
ENOUGH_NEEDLES = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: the mean.
        low: lower end of the interval.
        high: upper end.
        n: how many samples it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def nanmean(values: Floats, axis: int = 0) -> Floats:
    """Mean over what applies; NaN, silently, where nothing does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))


def nansd(values: Floats, axis: int = 0) -> Floats:
    """Standard deviation of the sample over what applies; NaN, silently, where fewer than two values do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanstd(values, axis=axis, ddof=1))


def independent_units(
    needle: NDArray[np.integer], unit: Unit = "auto"
) -> tuple[Literal["needle", "prompt"], NDArray[np.integer]]:
    """What may count as independent samples, and which of them each prompt belongs to.

    The prompts of one needle share its text and its haystack.

    Args:
        needle: [N] which needle a prompt hides.
        unit: ``auto`` takes needles when there are at least eight, prompts below.
    """
    if unit == "prompt" or (unit == "auto" and len(np.unique(needle)) < ENOUGH_NEEDLES):
        return "prompt", np.arange(len(needle))
    return "needle", needle


def cluster_means(values: Floats, cluster: NDArray[np.integer]) -> Floats:
    """Mean of the rows of each cluster, [clusters, ...]: the units a test may treat as independent."""
    return np.stack([nanmean(values[cluster == c]) for c in np.unique(cluster)])


@lru_cache(maxsize=8)
def resampling(units: int, *, draws: int = 2000, seed: int = 0) -> Floats:
    """[draws, units] how often each unit is drawn, with replacement; share it to keep several metrics paired.

    The same for the same arguments, and read-only: every head of every checkpoint is resampled alike.
    """
    weights = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)
    weights.flags.writeable = False
    return weights


def resampled_means(values: Floats, cluster: NDArray[np.integer], weights: Floats) -> Floats:
    """Means of resampled clusters, each value counting once.

    Args:
        values: [n, ...]; NaN marks what does not apply.
        cluster: [n] which cluster a value belongs to.
        weights: [draws, clusters] from `resampling`.

    Returns:
        [draws, ...]; NaN where a draw holds nothing that applies.
    """
    _, index = np.unique(cluster, return_inverse=True)
    member = (index == np.arange(weights.shape[1])[:, None]).astype(np.float64)
    flat = values.reshape(len(values), -1)
    applies = ~np.isnan(flat)
    sums, counts = member @ np.where(applies, flat, 0.0), member @ applies
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ sums) / (weights @ counts)
    return np.asarray(means.reshape(len(weights), *values.shape[1:]))


def percentiles(draws: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Ends of the percentile interval over the first axis."""
    tail = (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def bootstrap(
    values: Floats,
    cluster: NDArray[np.integer] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Percentile interval of the mean over the first axis, independent units drawn with replacement.

    Args:
        values: [n, ...]; NaN marks what does not apply.
        cluster: [n] which unit a value belongs to (`independent_units`); each its own unless given.
        level: coverage.
        draws: resamples.
        seed: of the resamples.

    Returns:
        lower and upper ends, each [...]; NaN where fewer than two units apply, which say nothing of a spread.
    """
    values = np.asarray(values)
    cluster = np.arange(len(values)) if cluster is None else cluster
    weights = resampling(len(np.unique(cluster)), draws=draws, seed=seed)
    low, high = percentiles(resampled_means(values, cluster, weights), level=level)
    spread = (~np.isnan(cluster_means(values, cluster))).sum(axis=0) > 1
    return np.where(spread, low, np.nan), np.where(spread, high, np.nan)


def widened(low: Floats, high: Floats, *, units: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """An interval of a share, made honest where every unit agrees and resampling sees no spread at all.

    At 0 of ``units`` the upper end becomes the exact binomial (Clopper-Pearson) one, at all of them the lower end.

    Args:
        low: lower ends of the bootstrap interval, any shape.
        high: upper ends.
        units: independent units that were resampled.
        level: coverage.
    """
    reach = 1 - ((1 - level) / 2) ** (1 / units)
    return np.where(low == 1, 1 - reach, low), np.where(high == 0, reach, high)


@dataclass(frozen=True, slots=True)
class Test:
    """Difference of means, element by element.

    Attributes:
        delta: mean difference b - a.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided; NaN where fewer than `MIN_UNITS` units apply.
    """

    __test__ = False

    delta: Floats
    low: Floats
    high: Floats
    p: Floats


MIN_UNITS = 5


def paired_test(a: Floats, b: Floats) -> Test:
    """Paired t test over the first axis, never more certain than a sign test with every sign alike (2^(1 - n)).

    The bound keeps a handful of identical differences, whose variance is 0, from counting as proof.
    """
    difference = b - a
    n = (~np.isnan(difference)).sum(axis=0)
    delta = nanmean(difference)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = nanmean((difference - delta) ** 2) * n / (n - 1)
        error = np.sqrt(variance / n)
    p, half = _t(delta, error, n - 1)
    p = np.where(delta == 0, 1.0, np.maximum(p, 2.0 ** (1 - n)))
    return Test(delta, delta - half, delta + half, np.where(n < MIN_UNITS, np.nan, p))


def welch_test(a: Floats, b: Floats) -> Test:
    """Welch's t test of two independent samples over the first axis."""
    na, nb = (~np.isnan(a)).sum(axis=0), (~np.isnan(b)).sum(axis=0)
    delta = nanmean(b) - nanmean(a)
    with np.errstate(invalid="ignore", divide="ignore"):
        va = nanmean((a - nanmean(a)) ** 2) / (na - 1)
        vb = nanmean((b - nanmean(b)) ** 2) / (nb - 1)
        freedom = (va + vb) ** 2 / (va**2 / (na - 1) + vb**2 / (nb - 1))
    freedom = np.where(np.isfinite(freedom), freedom, na + nb - 2)
    p, half = _t(delta, np.sqrt(va + vb), freedom)
    few = np.minimum(na, nb)
    p = np.where(delta == 0, 1.0, np.maximum(p, 2.0 ** (1 - few)))
    return Test(delta, delta - half, delta + half, np.where(few < MIN_UNITS, np.nan, p))


def _t(delta: Floats, error: Floats, freedom: Floats) -> tuple[Floats, Floats]:
    from scipy import stats

    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stats.t.sf(np.abs(delta) / error, np.maximum(freedom, 1))
    return np.asarray(p), np.asarray(stats.t.ppf(0.975, np.maximum(freedom, 1)) * error)


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
