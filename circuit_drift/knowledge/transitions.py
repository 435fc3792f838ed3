"""Known, acquired, retained, forgotten: the definitions, as sets of units at each step.

With L_t the units known at step t (arXiv 2601.03858): acquired_t = L_t - L_(t-1), retained_t = L_t & L_(t-1),
forgotten_t = L_(t-1) - L_t. A unit that was not asked at one of the two steps is in none of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Transitions:
    """What became of each unit at each step, each array [..., S] bool, False at the first step.

    Attributes:
        acquired: known now, not at the step before.
        retained: known at both.
        forgotten: known at the step before, not now.
        relearned: acquired, and known at some step before the last one: a part of ``acquired``.
    """

    acquired: Bools
    retained: Bools
    forgotten: Bools
    relearned: Bools


def transitions(known: Bools, asked: Bools) -> Transitions:
    """The four sets.

    Args:
        known: [..., S] whether a unit is known.
        asked: [..., S] whether it has a score.
    """
    before, now = _earlier(known), known
    both = _earlier(asked) & asked
    acquired = now & ~before & both
    ever = np.logical_or.accumulate(before, axis=-1)
    return Transitions(acquired, now & before & both, before & ~now & both, acquired & ever)


def _earlier(values: Bools) -> Bools:
    """Each step's value at the step before, False at the first."""
    out = np.zeros_like(values)
    out[..., 1:] = values[..., :-1]
    return out
