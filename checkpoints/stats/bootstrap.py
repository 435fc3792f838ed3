"""Intervals by resampling: independent units drawn anew with replacement, as many as there are."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.units import FEWEST, Floats

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: the mean.
        low: lower end of the interval; NaN where too few units tell none.
        high: upper end.
        n: how many samples it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.low) or np.isnan(self.high):
            return f"{self.value:.3g} (no interval: too few units)"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def draw_units(rng: np.random.Generator, units: int, draws: int) -> Floats:
    """[draws, units] how often each unit is drawn with replacement, the next of a generator's draws."""
    return rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


@lru_cache(maxsize=8)
def resampling(units: int, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """[draws, units] how often each unit is drawn, with replacement; share it to keep several metrics paired.

    The same for the same arguments, and read-only: every head of every checkpoint is resampled alike.
    """
    weights = draw_units(np.random.default_rng(seed), units, draws)
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
    sums = member @ np.where(applies, flat, 0.0)
    counts = member.sum(1, keepdims=True) if applies.all() else member @ applies  # whole numbers: the same bits
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ sums) / (weights @ counts)
    return np.asarray(means.reshape(len(weights), *values.shape[1:]))


def percentiles(
    draws: Floats, *, level: float = LEVEL, method: Literal["linear", "nearest"] = "linear"
) -> tuple[Floats, Floats]:
    """Ends of the percentile interval over the first axis, of the draws that have a value; NaN where none has.

    Args:
        draws: [draws, ...].
        level: coverage.
        method: ``nearest`` gives ends that were drawn.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(draws, tails, axis=0, method=method)
    return low, high


def stretched(value: Floats, draws: Floats, *, units: int) -> Floats:
    """Resamples moved away from the estimate, so that their percentiles reach as far as a t interval does.

    draw' = value + (draw - value) * sqrt(n / (n - 1)) * t / z, with the 97.5 % points of Student's t at n - 1 degrees
    of freedom and of the normal: for a mean these are, in the limit of many draws, the ends of its t interval
    (Hesterberg 2015, who widens the level instead). NaN below `FEWEST` units, whose spread nobody knows.

    Args:
        value: [...] the estimate.
        draws: [D, ...] the same on resampled units.
        units: how many are resampled.
    """
    from scipy.stats import norm, t

    if units < FEWEST:
        return np.full_like(draws, np.nan)
    factor = np.sqrt(units / (units - 1)) * t.ppf(0.975, units - 1) / norm.ppf(0.975)
    return np.asarray(value + (draws - value) * factor)


def widened(low: Floats, high: Floats, *, units: int, level: float = LEVEL) -> tuple[Floats, Floats]:
    """An interval of a share, made honest where every unit agrees and resampling sees no spread at all.

    At 0 of ``units`` the upper end becomes the exact binomial (Clopper-Pearson) one, at all of them the lower end.

    Args:
        low: lower ends of the bootstrap interval, any shape.
        high: upper ends.
        units: independent units that were resampled.
        level: coverage.
    """
    reach = upper_share(0, units, level=(1 + level) / 2)
    return np.where(low == 1, 1 - reach, low), np.where(high == 0, reach, high)


def counted_interval(low: Floats, high: Floats, *, units: int, threshold: float) -> tuple[Floats, Floats]:
    """An interval of how many mean shares are above a threshold, left out where resampling sees no spread of few units.

    All of n units alike leave a share of up to 1 - .025^(1 / n) that did otherwise, so that a mean of 0 may be above
    the threshold while every resample says that it is not: up to 35 units for a threshold of .1.

    Args:
        low: lower ends of the bootstrap interval of the count, any shape.
        high: upper ends.
        units: independent units that were resampled.
        threshold: of the shares.

    Returns:
        lower and upper ends; NaN where they are equal and units too few to rule another count out.
    """
    unknown = (low == high) & (upper_share(0, units, level=(1 + LEVEL) / 2) > threshold)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def wilson_interval(hits: Floats, trials: Floats, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Interval of a share of independent units of which ``hits`` of ``trials`` were seen (Wilson 1927).

    It holds the share itself at any number, and covers 95 % on average; NaN where nothing was tried.

    Args:
        hits: [...] how many.
        trials: [...] of how many.
        level: coverage.
    """
    from scipy.special import ndtri

    hits, trials = np.asarray(hits, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    z = float(ndtri((1 + level) / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (hits + z**2 / 2) / (trials + z**2)
        half = z * np.sqrt(hits * (trials - hits) / trials + z**2 / 4) / (trials + z**2)
    low, high = np.where(hits == 0, 0.0, centre - half), np.where(hits == trials, 1.0, centre + half)
    return np.where(trials > 0, low, np.nan), np.where(trials > 0, high, np.nan)


def upper_share(hits: int, trials: int, *, level: float = LEVEL) -> float:
    """Upper confidence limit of a share of which ``hits`` of ``trials`` were seen (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return float(beta.ppf(level, hits + 1, trials - hits)) if hits < trials else 1.0
