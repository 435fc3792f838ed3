"""What another draw of probes would have said: a unit near the threshold flickers by itself.

Probes of a unit are drawn anew with replacement, the same ones at every step, so that steps stay paired. This says how
single transitions would repeat; how far counts would be off for other units is their share's interval over the units
(`Ledger.interval`), as a threshold on few resampled probes is biased.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import draw_units, resampled_means
from checkpoints.stats.units import Floats
from circuit_drift.knowledge.scores import UnitScores
from circuit_drift.knowledge.transitions import transitions

FEWEST_PROBES = 5
"""Probes of a unit below which nothing is said of flicker: any one of them turns the unit over."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """Single transitions under resampling of probes.

    Attributes:
        known: [U, S] share of draws in which a unit is known.
        acquired: [U, S] share of draws in which it is acquired at that step.
        forgotten: [U, S] the same of forgetting.
        draws: how many.
    """

    known: Floats
    acquired: Floats
    forgotten: Floats
    draws: int


def resample(scores: UnitScores, threshold: float, *, draws: int = 1000, seed: int = 0) -> Resampled:
    """Resample the probes of every unit.

    Args:
        scores: with at least two probes for some unit.
        threshold: a unit is known iff its mean score reaches it.
        draws: how often.
        seed: of the draws.

    Raises:
        BadPrompt: no unit has two probes, so there is nothing to resample.
    """
    if scores.probes.shape[2] < 2:
        raise BadPrompt("each unit has one score a step, so its probes cannot be resampled; give scores by probe")
    rng = np.random.default_rng(seed)
    asked = scores.asked
    shares = {name: np.zeros(asked.shape) for name in ("known", "acquired", "forgotten")}
    for unit, probes in enumerate(scores.probes):
        means = _resampled_means(probes, rng, draws)
        known = reaches(means, threshold)
        moves = transitions(known, np.broadcast_to(asked[unit], known.shape))
        for name, share in shares.items():
            share[unit] = (known if name == "known" else getattr(moves, name)).mean(axis=0)
    return Resampled(shares["known"], shares["acquired"], shares["forgotten"], draws)


def reaches(scores: Floats, threshold: float) -> NDArray[np.bool_]:
    """Whether scores reach the threshold; NaN does not, and sums of probes are forgiven their rounding."""
    return np.asarray(scores >= threshold - 1e-9)


def _resampled_means(probes: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """[draws, S] mean scores of one unit over its probes drawn with replacement."""
    own = probes[:, ~np.isnan(probes).all(axis=0)]
    count = own.shape[1]
    if not count:
        return np.full((draws, len(probes)), np.nan)
    return resampled_means(own.T, np.arange(count), draw_units(rng, count, draws))
