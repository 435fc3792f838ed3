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

from checkpoints.stats.bootstrap import resampling
from checkpoints.stats.permutation import BINS, DRAWS, LISTED_SIGNS, PIECE, Exchanged, drawn_p, sign_flip_test
from checkpoints.stats.ttests import TTest, difference_test, false_discovery
from checkpoints.stats.units import Floats


def change_test(difference: Floats, *, draws: int = DRAWS, seed: int = 0) -> Exchanged:
    """Paired differences [U, E]: p of the largest by both tests; of the summed squared change and of single elements.

    The last two are those of `sign_flip_test`: the summed squared change keeps its level where differences are skewed,
    and single elements are named only where the whole differs, by their order among all.

    Level and power: `benchmarks/calibration/counts.py`, `benchmarks/circuits_calibration.py`.
    """
    flipped = sign_flip_test(difference, draws=draws, seed=seed)
    own, largest = 0.0, np.zeros(draws)
    for found, anew in _drawn_anew(difference, draws=draws, seed=seed):
        own = max(own, float(found.max()))
        np.maximum(largest, anew.max(1), out=largest)
    reached = int((largest >= own * (1 - 1e-6)).sum())
    return replace(flipped, largest=max(flipped.largest, drawn_p(reached, draws)))


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
    flipped, changing = sign_flip_test(flat, seed=seed), (flat != 0).any(0)
    found: list[Floats] = []
    pooled, step = np.zeros(BINS + 1), len(flat) ** 0.5 / BINS  # no statistic is above the root of the units
    for own, anew in _drawn_anew(flat, draws=DRAWS, seed=seed):
        found.append(own)
        pooled += np.bincount((anew / step).astype(np.intp).ravel(), minlength=BINS + 1)
    elements = flipped.elements.copy()
    if found:
        places = (np.concatenate(found) * (1 - 1e-6) / step).astype(np.intp)
        above = pooled[::-1].cumsum()[::-1][places]
        elements[changing] = np.maximum(elements[changing], (above + 1) / (pooled.sum() + 1))
    tests = moderated(difference_test(difference), replace(flipped, elements=elements))
    return replace(tests, q=np.maximum(tests.q, smallest_change_q(len(flat))))


def smallest_change_q(units: int) -> float:
    """The smallest q of `moderated_test` for so many units, however many elements there are: elements go together."""
    return 2.0 ** (1 - units) if units <= LISTED_SIGNS else 1 / (DRAWS + 1)


def moderated(tests: TTest, exchanged: Exchanged) -> TTest:
    """The intervals of t tests with other p, and their q; NaN stays where units are too few."""
    p = np.where(np.isnan(tests.p), np.nan, exchanged.elements.reshape(tests.p.shape))
    return replace(tests, p=p, q=false_discovery(p))


def _drawn_anew(difference: Floats, *, draws: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Elements that change, part by part: their statistics [e], and those [draws, e] of centred units drawn anew."""
    changing = np.flatnonzero((difference != 0).any(0))
    units = difference.astype(np.float64)
    spread = np.sqrt((units**2).sum(0))
    s0 = float(np.median(spread[changing])) if len(changing) else 0.0
    weights = resampling(len(units), draws=draws, seed=seed).astype(np.float32)
    size = max(1, PIECE // draws)
    for start in range(0, len(changing), size):
        part = changing[start : start + size]
        centred = (units[:, part] - units[:, part].mean(0)).astype(np.float32)
        anew = np.abs(weights @ centred)
        anew /= np.sqrt(weights @ centred**2) + np.float32(s0)
        yield np.abs(units[:, part].sum(0)) / (spread[part] + s0), anew
