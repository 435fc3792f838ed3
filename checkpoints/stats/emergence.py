"""When a metric emerges in training, and which of two comes first.

A metric emerges at the first checkpoint from which it stays beyond its threshold for `STAYS` checkpoints, or to the
end. Between two checkpoints nobody looked, so the answer is a bracket: after one step, by another. The threshold is
given, or halfway from the first checkpoint to the last, taken anew in every resample, as is everything else. A first
crossing is early where there is noise, which is why it must stay, and why its interval counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.stats.units import Floats

STAYS = 2
SURE = 0.975
Outcome = Literal["emerged", "there from the first", "gone again", "not by the end", "no change", "cannot be told"]


@dataclass(frozen=True, slots=True)
class Emergence:
    """When one metric emerges.

    Attributes:
        metric: its name.
        outcome: ``emerged`` and its alternatives, each where 97.5 % of resamples agree; ``gone again`` emerged and is
            below the threshold at the end, ``no change`` has first and last checkpoints that do not differ.
        threshold: in the metric's unit; that of all units where it lies halfway.
        after, by: the bracket: the last checkpoint before it emerged and the first from which it stays; None where
            there is none.
        low, high: ends of the 95 % interval of the bracket: after ``low`` and by ``high``, a checkpoint each; None =
            open on that side.
        steps: all checkpoints looked at.
        place: [D] position of the first checkpoint that stays, in every resample; the number of checkpoints = never.
    """

    metric: str
    outcome: Outcome
    threshold: float
    after: int | None
    by: int | None
    low: int | None
    high: int | None
    steps: tuple[int, ...]
    place: NDArray[np.integer] = field(repr=False)

    def __str__(self) -> str:
        told = {
            "there from the first": f"{self.metric} is there from the first checkpoint, step {self.steps[0]:,}, on",
            "not by the end": f"{self.metric} has not emerged by the last checkpoint, step {self.steps[-1]:,}",
            "no change": f"{self.metric} does not change from first to last checkpoint beyond the noise",
            "cannot be told": f"whether {self.metric} emerges cannot be told from these prompts",
        }
        if self.outcome in told:
            return told[self.outcome]
        gone = ", and is gone again at the end" if self.outcome == "gone again" else ""
        low, high = ("…" if end is None else f"{end:,}" for end in (self.low, self.high))
        return f"{self.metric} emerges between steps {self.after:,} and {self.by:,} [95 %: {low} to {high}]{gone}"


@dataclass(frozen=True, slots=True)
class Order:
    """Which of two metrics of one run emerges first.

    Attributes:
        first, second: the metrics.
        before: share of resamples in which the first's bracket ends by the time the second's begins.
        after: the same the other way round; what is in neither cannot be told apart at these checkpoints.
    """

    first: str
    second: str
    before: float
    after: float

    @property
    def outcome(self) -> Literal["before", "after", "cannot be told"]:
        """``before`` or ``after`` where 97.5 % of the resamples say so; a statement about this run, not about seeds."""
        return "before" if self.before >= SURE else "after" if self.after >= SURE else "cannot be told"

    def __str__(self) -> str:
        if self.outcome == "cannot be told":
            return (
                f"which of {self.first} and {self.second} emerges first cannot be told (first in {self.before:.0%} and "
                f"{self.after:.0%} of resamples)"
            )
        names = (self.first, self.second) if self.outcome == "before" else (self.second, self.first)
        return f"{names[0]} before {names[1]} ({max(self.before, self.after):.0%} of resamples of the prompts)"


def emergence(
    metric: str, steps: Sequence[int], value: Floats, draws: Floats, *, threshold: float | None = None
) -> Emergence:
    """When a metric emerges, with an interval for the step.

    Args:
        metric: its name.
        steps: [C] rising.
        value: [C] at each checkpoint.
        draws: [D, C] the same on resampled units, each draw the same units at all checkpoints.
        threshold: level that it must pass upwards; by default halfway from its first to its last checkpoint, in
            whichever direction that is.

    Raises:
        BadPrompt: fewer than three checkpoints, or values that are not there.
    """
    if len(steps) < 3:
        raise BadPrompt(f"{metric} is known at {len(steps)} checkpoints: its emergence needs three")
    if not (np.isfinite(value).all() and np.isfinite(draws).all()):
        raise BadPrompt(f"{metric} has no value or no interval at some checkpoint: measure it at all, on three units")
    level = float((value[0] + value[-1]) / 2 if threshold is None else threshold)
    own, place = int(_places(value[None], threshold)[0]), _places(draws, threshold)
    low, high = (int(end) for end in np.quantile(place, [1 - SURE, SURE], method="nearest"))
    return Emergence(
        metric=metric,
        outcome=_outcome(own, place, draws, threshold),
        threshold=level,
        after=_step(steps, own - 1),
        by=_step(steps, own),
        low=_step(steps, low - 1),
        high=_step(steps, high),
        steps=tuple(int(step) for step in steps),
        place=place,
    )


def order(first: Emergence, second: Emergence) -> Order:
    """Which emerges first, draw by draw; brackets that overlap are no order (ties count against both)."""
    draws = min(len(first.place), len(second.place))
    (begin, end), (begins, ends) = (_brackets(one, draws) for one in (first, second))
    return Order(first.metric, second.metric, float(np.mean(end <= begins)), float(np.mean(ends <= begin)))


def order_over_runs(orders: Sequence[Order]) -> float:
    """Two-sided exact sign test that one metric comes first in as many runs as the other, over independent seeds.

    Runs in which the order cannot be told are left out; with five of five one way p is 0.0625.
    """
    from scipy.stats import binomtest

    before, after = (sum(one.outcome == side for one in orders) for side in ("before", "after"))
    return float(binomtest(before, before + after).pvalue) if before + after else 1.0


def _places(values: Floats, threshold: float | None) -> NDArray[np.integer]:
    """[D] the first of C checkpoints from which each row stays beyond its threshold; C = never."""
    first, last = values[:, :1], values[:, -1:]
    beyond = values > threshold if threshold is not None else (values - (first + last) / 2) * np.sign(last - first) > 0
    stays = beyond.copy()
    for ahead in range(1, STAYS):
        stays[:, :-ahead] &= beyond[:, ahead:]
    return np.asarray(np.where(stays.any(axis=1), stays.argmax(axis=1), values.shape[1]))


def _outcome(own: int, place: NDArray[np.integer], draws: Floats, threshold: float | None) -> Outcome:
    never, change = draws.shape[1], draws[:, -1] - draws[:, 0]
    if threshold is None and max(np.mean(change > 0), np.mean(change < 0)) < SURE:
        return "no change"
    if np.mean(place == never) >= SURE:
        return "not by the end"
    if np.mean(place == 0) >= SURE:
        return "there from the first"
    if not 0 < own < never or np.mean((place > 0) & (place < never)) < SURE:
        return "cannot be told"
    return "gone again" if threshold is not None and np.mean(draws[:, -1] <= threshold) >= SURE else "emerged"


def _step(steps: Sequence[int], place: int) -> int | None:
    return int(steps[place]) if 0 <= place < len(steps) else None


def _brackets(found: Emergence, draws: int) -> tuple[Floats, Floats]:
    """[D] last step before it emerged and first from which it stays; never = after the last, at infinity."""
    steps = np.array([-np.inf, *found.steps, np.inf])
    place = found.place[:draws]
    return steps[place], steps[place + 1]
