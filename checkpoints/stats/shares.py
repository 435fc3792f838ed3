"""Shares of independent units: exact intervals, tests and the number of units that would decide.

Where several trials are one unit, as facts of one relation, `exchange_p` and `clustered_share` take their place.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.bootstrap import LEVEL, upper_share, widened, wilson_interval
from checkpoints.stats.ttests import mean_interval, reach, skewed_interval, smallest_p
from checkpoints.stats.units import FEWEST, Floats, cluster_means, nanmean

MOST = 100_000
MANY = 12
"""Units from which scores between 0 and 1 are spread as far as they look, unless all agree."""
AGREE = 1e-6
"""How near to each other the means of units are that agree: float32 rounding."""
DRAWS = 4000


def exact_share_interval(hits: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """The exact two-sided interval of a share of which ``hits`` of ``trials`` were seen (Clopper and Pearson 1934)."""
    tail = (1 + level) / 2
    return 1 - upper_share(trials - hits, trials, level=tail), upper_share(hits, trials, level=tail)


def share_above_p(hits: int, trials: int, bound: float) -> float:
    """How probable at least so many hits are if the share is ``bound`` or less: an exact binomial p."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, trials, bound))


def mcnemar_p(gained: int, lost: int) -> float:
    """The exact two-sided McNemar p of units that changed sides, so many one way and so many the other."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def exchange_p(net: NDArray[np.integer]) -> float:
    """The exact two-sided p of a summed change of units, each exchanged as a whole; McNemar's where units are single.

    Every pattern of signs is counted, by adding one unit after the other.

    Args:
        net: gained less lost, of each unit.
    """
    counts = np.ones(1)
    for size in np.abs(net[net != 0]):
        grown = np.zeros(len(counts) + 2 * int(size))
        grown[: len(counts)] += counts / 2
        grown[-len(counts) :] += counts / 2
        counts = grown
    away = np.abs(np.arange(len(counts)) - (len(counts) - 1) // 2)
    return min(1.0, float(counts[away >= abs(int(net.sum()))].sum()))


def paired_difference(
    a: NDArray[np.bool_], b: NDArray[np.bool_], cluster: NDArray[np.integer] | None = None
) -> tuple[float, float]:
    """95 % interval of how much a share of the same trials rises from A to B, in [-1, 1].

    Trials that are units of their own: Newcombe's method 10 (1998), from Wilson's intervals of both shares and their
    correlation. It tells of no certainty where all of few units changed, or none. Clusters: Student's t over them, at
    least as wide as the exact interval of a share that none of so many clusters showed.

    Args:
        a: [N] of each trial at A.
        b: [N] at B, in the same order.
        cluster: [N] which cluster a trial is of; each its own unless given.

    Returns:
        lower and upper end; NaN below `FEWEST` units.
    """
    units = len(a) if cluster is None else len(np.unique(cluster))
    if units < FEWEST:
        return float("nan"), float("nan")
    rise = float(b.mean() - a.mean())
    if cluster is not None and units < len(a):
        low, high = (float(end) for end in mean_interval(b.astype(float) - a, cluster))
        least = upper_share(0, units, level=(1 + LEVEL) / 2)
        return max(-1.0, min(low, rise - least)), min(1.0, max(high, rise + least))
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    agreed = float(both * neither - only_a * only_b)
    agreed = max(agreed - units / 2, 0.0) if agreed > 0 else agreed
    phi = agreed / margins**0.5 if margins else 0.0
    lows, highs = wilson_interval(np.array([a.sum(), b.sum()]), np.array([units, units]))
    below, above = np.array([a.mean(), b.mean()]) - lows, highs - np.array([a.mean(), b.mean()])
    down = below[1] ** 2 - 2 * phi * below[1] * above[0] + above[0] ** 2
    up = above[1] ** 2 - 2 * phi * above[1] * below[0] + below[0] ** 2
    return rise - float(np.sqrt(max(down, 0.0))), rise + float(np.sqrt(max(up, 0.0)))


def clustered_share(hit: NDArray[np.bool_], cluster: NDArray[np.integer], bound: float) -> tuple[float, float, float]:
    """A share whose trials come in clusters: its 95 % interval over clusters, and p that it is ``bound`` or less.

    Student's t over clusters, each trial counting once (`ttests.mean_interval`); where all trials agree, the exact
    interval of so many clusters. p is no smaller than as many clusters of one sign can give.

    Args:
        hit: [N] of each trial.
        cluster: [N] which cluster it is of.
        bound: of the share.

    Returns:
        lower and upper end, p; NaN below `FEWEST` clusters.
    """
    from scipy.stats import t

    units = len(np.unique(cluster))
    if units < FEWEST:
        return float("nan"), float("nan"), float("nan")
    share = float(hit.mean())
    ends = np.array(mean_interval(hit.astype(float), cluster))
    error = float(ends[1] - ends[0]) / 2 / float(reach(units - 1.0, units))  # type: ignore[arg-type]
    p = float(t.sf((share - bound) / error, units - 1)) if error else float(share <= bound)
    low, high = widened(*np.clip(ends, 0, 1), units=units)
    return float(low), float(high), max(p, float(smallest_p(units)) / 2)


def score_interval(values: Floats, cluster: NDArray[np.integer] | None = None) -> tuple[Floats, Floats]:
    """95 % interval of a mean of scores between 0 and 1, of which few units can look more alike than they are.

    `ttests.skewed_interval` within 0 to 1, and no narrower than Gaffke's bounds (`bounded_mean`) where few units say
    nothing of what was not seen: both ends where all units agree, none of so many being another; and below
    `MANY` units the end that faces inwards where the other one runs out of the range. Without it intervals of scores
    that are nearly always 1 cover .71 to .90 at three and five units (`benchmarks/calibration/heads.py --shares`).

    Args:
        values: [n, ...] in [0, 1]; NaN marks what does not apply.
        cluster: [n] which unit a value belongs to; each its own unless given.

    Returns:
        lower and upper ends, each [...]; NaN where fewer than `FEWEST` units apply.
    """
    cluster = np.arange(len(values)) if cluster is None else cluster
    low, high = skewed_interval(values, cluster)
    means = cluster_means(np.asarray(values, dtype=np.float64), cluster)
    flat = means.reshape(len(means), -1)
    ends = np.array([low.ravel(), high.ravel()])
    units = (~np.isnan(flat)).sum(axis=0)
    told = np.where(units >= FEWEST, flat, 0.0)  # no column without a value
    alike = np.nanmax(told, axis=0) - np.nanmin(told, axis=0) <= AGREE
    out = (units < MANY) & np.array([ends[1] >= 1, ends[0] <= 0])
    doubted = (units >= FEWEST) & (alike | out)
    for number in np.unique(units[doubted.any(axis=0)]).tolist():
        here = np.flatnonzero(doubted.any(axis=0) & (units == number))
        bounds = bounded_mean(np.sort(flat[:, here], axis=0)[:number])
        for end, bound, wider in zip((0, 1), bounds, (np.minimum, np.maximum), strict=True):
            ends[end, here] = np.where(doubted[end, here], wider(ends[end, here], bound), ends[end, here])
    low, high = np.clip(ends, 0.0, 1.0).reshape(2, *means.shape[1:])
    return low, high


def change_interval(change: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """95 % interval of a mean change of scores between 0 and 1, of which few units can look more alike than they are.

    The one that its spread gives; where all units change alike, as where a head scores 0 everywhere at both ends, that
    of `bounded_mean` within -1 to 1: none of 48 units that did otherwise leaves a change of up to .074 open.

    Args:
        change: [U, ...] in [-1, 1] of one unit each; NaN marks what does not apply.
        low: [...] lower end by the spread of units.
        high: [...] upper end.
    """
    units, least, most = _applying(change)
    unseen = ((1 - LEVEL) / 2) ** (1 / np.maximum(units, 1))
    below, above = (least + 1) * unseen - 1, 1 - (1 - most) * unseen
    alike = (units >= FEWEST) & (most - least <= AGREE)
    return np.where(alike, below, low), np.where(alike, above, high)


def others_change_interval(a: Floats, b: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The same of scores over other units on both sides, from the interval that their spreads give.

    Where the units of a side agree, those of both sides' scores (`score_interval`), squared and added (Newcombe 1998).

    Args:
        a: [U, ...] in [0, 1] of one unit each; NaN marks what does not apply.
        b: [V, ...].
        low: [...] lower end of the mean of b less that of a.
        high: [...] upper end.
    """
    alike, ends = np.zeros(a.shape[1:], dtype=bool), []
    for side in (a, b):
        units, least, most = _applying(side)
        alike |= (units >= FEWEST) & (most - least <= AGREE)
        mean, (lowest, highest) = nanmean(side), score_interval(side, np.arange(len(side)))
        ends.append((mean, mean - lowest, highest - mean))
    (mean_a, below_a, above_a), (mean_b, below_b, above_b) = ends
    delta = mean_b - mean_a
    down, up = np.hypot(below_b, above_a), np.hypot(above_b, below_a)
    return np.where(alike, delta - down, low), np.where(alike, delta + up, high)


def _applying(values: Floats) -> tuple[NDArray[np.integer], Floats, Floats]:
    """How many units [U, ...] apply, the least of them and the most, each [...]; 0 where too few do."""
    units = np.asarray((~np.isnan(values)).sum(axis=0))
    told = np.where(units >= FEWEST, values, 0.0)  # no column without a value
    return units, np.nanmin(told, axis=0), np.nanmax(told, axis=0)


def bounded_mean(units: Floats) -> tuple[Floats, Floats]:
    """95 % interval of a mean of which nothing is known but that it is of values between 0 and 1 (Gaffke 2005).

    The lower end is the 2.5 % point of the units' mean, and a 0 beside them, under weights that are uniform on the
    simplex; the upper end has a 1 in the place of the 0. Of units that are all 0 or 1 they are the ends of the exact
    interval of a share, of units that agree exact as well; no distribution is known for which they cover less
    (Learned-Miller and Thomas 2019). By 4,000 draws, the same for as many units.

    Args:
        units: [U, C] of each unit, in order, no NaN.
    """
    number = len(units)
    reach = upper_share(0, number, level=(1 + LEVEL) / 2)
    least, most = units[0], units[-1]
    weights, tail = _uniform_weights(number), (1 - LEVEL) / 2
    edge = np.zeros((1, units.shape[1]))
    low = np.quantile(weights @ np.concatenate([edge, units]), tail, axis=0)
    high = np.quantile(weights @ np.concatenate([units, edge + 1]), 1 - tail, axis=0)
    alike = most - least <= AGREE
    return np.where(alike, least * (1 - reach), low), np.where(alike, most + (1 - most) * reach, high)


@lru_cache(maxsize=8)
def _uniform_weights(units: int) -> Floats:
    """[DRAWS, units + 1] weights that sum to 1, uniformly drawn; the same for the same number, and read-only."""
    weights = np.random.default_rng(units).dirichlet(np.ones(units + 1), size=DRAWS)
    weights.flags.writeable = False
    return weights


def trials_to_bound(hits: int, trials: int, bound: float, *, level: float = LEVEL) -> int:
    """Trials from which the interval of a share, as large as the one seen, lies on one side of a bound.

    Args:
        hits: seen so far.
        trials: so far.
        bound: above 0.
        level: coverage of the interval.

    Returns:
        the number of trials in all, at most 100,000.
    """
    number = trials
    while number < MOST:
        low, high = exact_share_interval(round(hits / trials * number), number, level=level)
        if high <= bound or low > bound:
            return number
        number += max(1, number // 50)
    return MOST
