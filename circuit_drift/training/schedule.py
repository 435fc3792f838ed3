"""When a run is probed."""

import math
from dataclasses import dataclass

from checkpoints.errors import BadPrompt


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps after which a run is probed: multiples of ``every``, log-spaced ones, ends of epochs.

    Attributes:
        every: probe at multiples of this many steps; 0 = not by steps.
        per_doubling: probe this many times in each doubling of the step count; 0 = not log-spaced.
        epochs: probe at the end of each epoch.
        start: probe before the first step.
    """

    every: int = 0
    per_doubling: int = 0
    epochs: bool = False
    start: bool = True

    def __post_init__(self) -> None:
        if self.every < 0 or self.per_doubling < 0:
            raise BadPrompt(f"a schedule counts steps forward: every={self.every}, per_doubling={self.per_doubling}")
        if not (self.every or self.per_doubling or self.epochs):
            raise BadPrompt("a schedule needs every=, per_doubling= or epochs=, else nothing is probed")

    def due(self, step: int, *, epoch_ended: bool = False) -> bool:
        """Whether the run is probed after that many steps; whether an epoch ends with them only the loop knows."""
        if epoch_ended and self.epochs:
            return True
        if step == 0:
            return self.start
        return bool(self.every and step % self.every == 0) or bool(self.per_doubling and self._log_spaced(step))

    def _log_spaced(self, step: int) -> bool:
        """Whether a point 2^(k / per_doubling), rounded to whole steps, falls on this step."""
        nearest = round(math.log2(step) * self.per_doubling)
        return any(round(2 ** (k / self.per_doubling)) == step for k in (nearest - 1, nearest, nearest + 1))
