"""Paired differences of many elements that count only where two tests agree, each exact or nearly so for another null.

- *Exchange*: A and B are exchangeable unit by unit, so that differences are symmetric about 0. Flipping the signs of
  units is exact for it (`checkpoints.stats.permutation`).
- *Mean*: every difference has the mean 0, however skewed. No test is exact for it at few units (Bahadur and Savage
  1956), and flipping signs calls a skewed difference too often: a sample of mostly small values of one sign has a small
  spread as well. Drawing the *centred* units anew with replacement, and taking the spread anew in every draw, repeats
  that tie between mean and spread (the bootstrap-t; Hall 1992).

p is the larger of the two. The statistic is the moderated one of `sign_flip_test`, with the same s0. Where units are
drawn anew it has a side: a skewed difference of mean 0 looks changed *against* its skew, hardly ever along it, while
what scales a skewed score moves it along. So every element is turned until its units are skewed upwards, and p is twice
the smaller tail of the turned statistics of all elements. Drawing anew at few units gives wider tails than there are,
so that this errs on the side of calling nothing.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.bootstrap import resampling
from checkpoints.stats.energy import energy_p, smallest_energy_p
from checkpoints.stats.permutation import (
    BINS,
    DRAWS,
    LISTED_SIGNS,
    PIECE,
    Exchanged,
    by_columns,
    drawn_p,
    sign_flip_test,
    sum_of_squares,
)
from checkpoints.stats.ttests import MIN_UNITS, TTest, difference_test, false_discovery
from checkpoints.stats.units import Floats

HALVED = 2_000
"""Elements from which those more skewed than the median one, and those less, are held each against their own half."""
ANEW = 9_999
"""Draws behind `mean_change_p`, which asks about one number and can afford them."""


def change_test(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> Exchanged:
    """Paired differences [U, E]: p of the largest, and of single ones, by both tests; of the summed squared change.

    The last is that of `sign_flip_test`, which keeps its level where differences are skewed. Beside ten real changes
    .02 to .06 of what is named is false at 8 to 53 units where the other differences are exponential, by sign flips
    alone a fifth. That costs power at few units: of edges that were halved .79 are named at 16 facts (by sign flips
    .94), at 32 all.

    Level and power: `benchmarks/calibration/counts.py`, `benchmarks/circuits_calibration.py`.
    """
    flipped = sign_flip_test(difference, draws=draws, seed=seed)
    largest, anew = _anew(difference, draws=draws, seed=seed)
    return replace(flipped, largest=max(flipped.largest, largest), elements=np.maximum(flipped.elements, anew))


def change_p(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> float:
    """How probable paired differences [U, E] are as a whole if none is real: `change_test`'s whole."""
    return change_test(difference, draws=draws, seed=seed).whole


def moderated_test(difference: Floats, *, seed: int = 0) -> TTest:
    """Differences [U, ...] of units: t intervals, and of each element p by both tests, with its q over all elements.

    Level and power: `benchmarks/calibration/heads.py`.

    Args:
        difference: NaN marks what does not apply, and adds nothing to a sum.
        seed: of the draws.
    """
    flat = np.nan_to_num(difference.reshape(len(difference), -1))
    flipped, (_, anew) = sign_flip_test(flat, seed=seed), _anew(flat, draws=DRAWS, seed=seed)
    elements = np.maximum(flipped.elements, anew)
    tests = moderated(difference_test(difference), replace(flipped, elements=elements))
    return replace(tests, q=np.maximum(tests.q, smallest_change_q(len(flat))))


def smallest_change_q(units: int) -> float:
    """The smallest q of `moderated_test` for so many units, however many elements there are: elements go together."""
    return 2.0 ** (1 - units) if units <= LISTED_SIGNS else 1 / (DRAWS + 1)


def mean_change_p(difference: Floats, *, seed: int = 0) -> float:
    """Two-sided p of the mean of one number's paired differences [U], by both tests; the larger.

    Sign flips of the mean, all of them up to 16 units; and the bootstrap-t, twice the smaller tail of Student's t over
    centred units drawn anew. Under exponential differences Student's t passes .05 in .06 to .09 (8 to 48 units), this
    in .04 to .06 (`benchmarks/calibration/counts.py`).

    Args:
        difference: of one unit each; NaN does not apply and is left out.
        seed: of the draws.

    Returns:
        p, never below `smallest_mean_change_p`; NaN below `MIN_UNITS` units, and where one is infinite.
    """
    units = np.asarray(difference, dtype=np.float64)
    units = units[~np.isnan(units)]
    if len(units) < MIN_UNITS or np.isinf(units).any():
        return float("nan")
    if not units.any():
        return 1.0
    weights, mean = resampling(len(units), draws=ANEW, seed=seed), units.mean()
    anew = _student(weights @ (units - mean), weights @ (units - mean) ** 2, len(units))
    own = float(_student(units.sum(), (units**2).sum(), len(units)))
    tails = int((anew <= own).sum()), int((anew >= own).sum())
    return min(1.0, max(energy_p(units[:, None], seed=seed), 2 * drawn_p(min(tails), ANEW)))


def smallest_mean_change_p(units: int) -> float:
    """The smallest p that `mean_change_p` can give for so many units."""
    return max(smallest_energy_p(units), 2 * drawn_p(0, ANEW))


def _student(total: Floats, square: Floats, units: int) -> Floats:
    """[...] Student's t of samples of so many units, from their sums; infinite where all of one are alike, but 0."""
    scatter = square - total**2 / units
    scatter = np.where(scatter > 1e-9 * square, scatter, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = total / np.sqrt(scatter * units / (units - 1))
    return np.where(total == 0, 0.0, t)


def moderated(tests: TTest, exchanged: Exchanged) -> TTest:
    """The intervals of t tests with other p, and their q; NaN stays where units are too few."""
    p = np.where(np.isnan(tests.p), np.nan, exchanged.elements.reshape(tests.p.shape))
    return replace(tests, p=p, q=false_discovery(p))


def _anew(difference: Floats, *, draws: int, seed: int) -> tuple[float, Floats]:
    """Of centred units drawn anew: p of the largest element, and [E] of each among those of its half (`HALVED`).

    Both are twice the smaller tail of statistics that are positive on the side to which an element is skewed.
    """
    elements, found, done = np.ones(difference.shape[1]), [], 0
    tails = np.zeros((2, draws))
    changing = (difference != 0).any(0)
    step = 2 * len(difference) ** 0.5 / BINS  # no statistic is above the root of the units
    if not changing.any():
        return 1.0, elements
    halves = _halves(difference[:, changing])
    pooled = np.zeros(2 * (BINS + 1))
    for own, anew in _drawn_anew(difference, draws=draws, seed=seed):
        np.maximum(tails, (anew.max(1), -anew.min(1)), out=tails)
        places = _place(anew, step) + halves[done : done + len(own)] * (BINS + 1)
        pooled += np.bincount(places.ravel(), minlength=len(pooled))
        found.append(own)
        done += len(own)
    own = np.concatenate(found) * (1 - 1e-6)
    counts, place = pooled.reshape(2, BINS + 1), _place(own, step)
    below, above = counts.cumsum(1), counts[:, ::-1].cumsum(1)[:, ::-1]
    smaller = np.minimum(below[halves, place], above[halves, place])
    elements[changing] = np.minimum(1.0, (2 * smaller + 1) / (above[halves, 0] + 1))
    reached = min(int((tails[0] >= own.max()).sum()), int((tails[1] >= -own.min()).sum()))
    return drawn_p(min(2 * reached, draws), draws), elements


def _place(statistics: Floats, step: float) -> NDArray[np.intp]:
    """[...] the step of each statistic, 0 in the middle of `BINS`."""
    return np.asarray(np.rint(statistics / np.float32(step)) + BINS // 2, dtype=np.intp)


def _skew(units: Floats) -> Floats:
    """[e] sample skewness of units [U, e]; 0 where all of one are alike."""
    centred = units - units.mean(0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nan_to_num((centred**3).mean(0) / (centred**2).mean(0) ** 1.5))


def _halves(units: Floats) -> NDArray[np.intp]:
    """[e] 1 for the more skewed half of the elements of units [U, e], 0 for the others, and where all are few."""
    skew = np.abs(by_columns(units, _skew))
    return np.asarray((skew > np.median(skew)) & (len(skew) >= HALVED), dtype=np.intp)


def _drawn_anew(difference: Floats, *, draws: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Elements that change, part by part: statistics [e], and [draws, e] of centred units drawn anew.

    Both have the sign that makes the element's units skewed upwards.
    """
    changing = np.flatnonzero((difference != 0).any(0))
    spread = np.sqrt(by_columns(difference, sum_of_squares))
    s0 = float(np.median(spread[changing])) if len(changing) else 0.0
    weights = resampling(len(difference), draws=draws, seed=seed).astype(np.float32)
    size = max(1, PIECE // draws)
    for start in range(0, len(changing), size):
        part = changing[start : start + size]
        units = difference[:, part].astype(np.float64)
        upwards = np.where(_skew(units) < 0, -units, units)
        centred = (upwards - upwards.mean(0)).astype(np.float32)
        anew = weights @ centred
        anew /= np.sqrt(weights @ centred**2) + np.float32(s0)
        yield upwards.sum(0) / (spread[part] + s0), anew
