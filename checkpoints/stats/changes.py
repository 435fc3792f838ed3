"""Paired differences of many elements that count only where two tests agree, each exact or nearly so for another null.

- *Exchange*: A and B are exchangeable unit by unit, so that differences are symmetric about 0. Flipping the signs of
  units is exact for it (`checkpoints.stats.permutation`).
- *Mean*: every difference has the mean 0, however skewed. No test is exact for it at few units (Bahadur and Savage
  1956), and flipping signs calls a skewed difference too often: a sample of mostly small values of one sign has a small
  spread as well. Drawing the *centred* units anew with replacement, and taking the spread anew in every draw, repeats
  that tie between mean and spread (the bootstrap-t; Hall 1992).

p is the larger of the two. The statistic is the moderated one of `sign_flip_test`, with the same s0. Drawing anew at
few units gives wider tails than there are, so that this errs on the side of calling nothing.
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

MANY = 32
"""Units from which elements are named only where both tests agree: what was planted is then found as before."""
STRATA, OF_STRATUM = 10, 1_000
"""Strata of elements alike in skew, and elements of one at least: the smallest p can then hold for single ones."""
ANEW = 9_999
"""Draws behind `mean_change_p`, which asks about one number and can afford them."""


def change_test(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> Exchanged:
    """Paired differences [U, E]: p of the largest by both tests; of the summed squared change; of single elements.

    The second is that of `sign_flip_test`, which keeps its level where differences are skewed. Single elements are held
    to both tests from `MANY` units on. Below, drawing anew misses half of the edges that were halved (.52 named, .95 by
    sign flips alone, 16 facts), so that sign flips name them: beside ten real changes a fifth of what is named at 16
    units is false where the other differences are exponential, and .02 where they are those of real facts. An
    element is held against those as skewed as it (`STRATA`).

    Level and power: `benchmarks/calibration/counts.py`, `benchmarks/circuits_calibration.py`.
    """
    flipped = sign_flip_test(difference, draws=draws, seed=seed)
    largest, anew = _anew(difference, draws=draws, seed=seed)
    elements = np.maximum(flipped.elements, anew) if len(difference) >= MANY else flipped.elements
    return replace(flipped, largest=max(flipped.largest, largest), elements=elements)


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
    centred units drawn anew. Under exponential differences Student's t passes .05 in .06 to .10 (8 to 48 units), this
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
    """Of centred units drawn anew: p of the largest element, and [E] of each among those as skewed as it.

    Under skew drawn statistics reach far; among all elements a few skewed ones would set the bar for each.
    """
    elements, largest, found, done = np.ones(difference.shape[1]), np.zeros(draws), [], 0
    changing = (difference != 0).any(0)
    step = len(difference) ** 0.5 / BINS  # no statistic is above the root of the units
    if not changing.any():
        return 1.0, elements
    strata = _strata(difference[:, changing])
    pooled = np.zeros((strata.max() + 1) * (BINS + 1))
    for own, anew in _drawn_anew(difference, draws=draws, seed=seed):
        np.maximum(largest, anew.max(1), out=largest)
        places = (anew / np.float32(step)).astype(np.intp) + strata[done : done + len(own)] * (BINS + 1)
        pooled += np.bincount(places.ravel(), minlength=len(pooled))
        found.append(own)
        done += len(own)
    statistics = np.concatenate(found) * (1 - 1e-6)
    above = pooled.reshape(-1, BINS + 1)[:, ::-1].cumsum(1)[:, ::-1]
    elements[changing] = (above[strata, (statistics / step).astype(np.intp)] + 1) / (above[strata, 0] + 1)
    return drawn_p(int((largest >= statistics.max()).sum()), draws), elements


def _strata(units: Floats) -> NDArray[np.intp]:
    """[e] a stratum for each element of units [U, e], by how skewed they are: at most `STRATA` of equal size."""
    count = max(1, min(STRATA, units.shape[1] // OF_STRATUM))
    skew = by_columns(units, _skew)
    strata: NDArray[np.intp] = np.argsort(np.argsort(np.nan_to_num(skew))) * count // len(skew)
    return strata


def _skew(units: Floats) -> Floats:
    centred = units - units.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs((centred**3).mean(0)) / (centred**2).mean(0) ** 1.5)


def _drawn_anew(difference: Floats, *, draws: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Elements that change, part by part: their statistics [e], and those [draws, e] of centred units drawn anew."""
    changing = np.flatnonzero((difference != 0).any(0))
    spread = np.sqrt(by_columns(difference, sum_of_squares))
    s0 = float(np.median(spread[changing])) if len(changing) else 0.0
    weights = resampling(len(difference), draws=draws, seed=seed).astype(np.float32)
    size = max(1, PIECE // draws)
    for start in range(0, len(changing), size):
        part = changing[start : start + size]
        units = difference[:, part].astype(np.float64)
        centred = (units - units.mean(0)).astype(np.float32)
        anew = np.abs(weights @ centred)
        anew /= np.sqrt(weights @ centred**2) + np.float32(s0)
        yield np.abs(units.sum(0)) / (spread[part] + s0), anew
