"""The history of each unit: stretches of being known, and how long they last."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuit_drift.knowledge.transitions import Bools

CONSOLIDATED = 2
"""Further checkpoints at which a unit must still be known, up to the last one, to count as consolidated."""


@dataclass(frozen=True, slots=True)
class Spell:
    """One stretch of checkpoints at which a unit was known without a break.

    Attributes:
        unit: position of the unit.
        before: last step at which it was not known; None if the stretch begins where the unit was first asked.
        first: first step of the stretch; the unit was acquired in (before, first].
        last: last step of the stretch.
        lost: step at which it was found forgotten; None if the stretch ends where asking ends.
        further: checkpoints of the stretch after its first.
        relearned: acquired after an earlier stretch.
    """

    unit: int
    before: int | None
    first: int
    last: int
    lost: int | None
    further: int
    relearned: bool

    @property
    def consolidated(self) -> bool:
        """Acquired in the run and held to the end, through at least `CONSOLIDATED` further checkpoints."""
        return self.before is not None and self.lost is None and self.further >= CONSOLIDATED


def spells(known: Bools, asked: Bools, steps: Sequence[int]) -> tuple[Spell, ...]:
    """Every stretch of every unit.

    Args:
        known: [U, S].
        asked: [U, S]; a checkpoint that did not ask ends a stretch without saying that it was forgotten.
        steps: S.
    """
    return tuple(spell for unit in range(len(known)) for spell in _of_unit(unit, known[unit], asked[unit], steps))


def _of_unit(unit: int, known: Bools, asked: Bools, steps: Sequence[int]) -> Iterable[Spell]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    for number, (start, stop) in enumerate(edges.reshape(-1, 2)):
        began = start > 0 and asked[start - 1]
        ended = stop < len(steps) and asked[stop]
        yield Spell(
            unit=unit,
            before=steps[start - 1] if began else None,
            first=steps[start],
            last=steps[stop - 1],
            lost=steps[stop] if ended else None,
            further=int(stop - start - 1),
            relearned=bool(began and number),
        )


@dataclass(frozen=True, slots=True)
class Survival:
    """How long knowledge is kept: the Kaplan-Meier estimate with Greenwood's interval on the log-log scale.

    Attributes:
        after: [K] checkpoints since the acquisition.
        share: [K] estimated share still known.
        low, high: [K] ends of the 95 % interval; NaN where everything or nothing is lost.
        at_risk: [K] stretches still followed.
        n: stretches in all.
    """

    after: NDArray[np.int64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    at_risk: NDArray[np.int64]
    n: int


def survival(stretches: Iterable[Spell]) -> Survival:
    """The survival curve of what was acquired in the run; a stretch that lasts to the end is censored there.

    Args:
        stretches: from `spells`; those known from the start have no acquisition and are left out.
    """
    followed = [spell for spell in stretches if spell.before is not None]
    held = np.array([spell.further for spell in followed], dtype=np.int64)
    lost = np.array([spell.lost is not None for spell in followed], dtype=bool)
    after = np.arange(int(held.max(initial=0)) + 2)
    at_risk = np.array([int((held >= t - 1).sum()) - int((~lost & (held == t - 1)).sum()) for t in after])
    at_risk[0] = len(followed)
    failed = np.array([int((lost & (held == t - 1)).sum()) for t in after])
    keep = at_risk > 0
    after, at_risk, failed = after[keep], at_risk[keep], failed[keep]
    share = np.cumprod(1 - failed / at_risk)
    low, high = _greenwood(share, at_risk, failed)
    return Survival(after, share, low, high, at_risk, len(followed))


def _greenwood(
    share: NDArray[np.float64], at_risk: NDArray[np.int64], failed: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(failed / (at_risk * (at_risk - failed)))
        half = 1.96 * np.sqrt(variance) / np.abs(np.log(share))
        inside = (share > 0) & (share < 1)
        low, high = (np.where(inside, share ** np.exp(sign * half), np.nan) for sign in (1, -1))
    return low, high
