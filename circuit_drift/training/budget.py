"""The share of training time that probes may take."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from checkpoints.errors import BadPrompt


class Budget:
    """Lets a probe begin only if it should end within the stated share of the time spent on training.

    A probe is expected to take as long as the longest of the last three. The first one is always taken, since
    nothing is known of its cost yet; later ones wait until training has paid for it.

    Attributes:
        share: seconds of probing allowed for each second of training; infinite = every probe is taken.
        spent: seconds of probing so far.
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        if not share > 0:
            raise BadPrompt(f"probes cannot take {share} of the training time; give a share above 0")
        self.share = share
        self.spent = 0.0
        self._clock = clock
        self._began: float | None = None
        self._recent: list[float] = []

    @property
    def training(self) -> float:
        """Seconds since the first probe began that were not spent on probes."""
        return 0.0 if self._began is None else self._clock() - self._began - self.spent

    @property
    def used(self) -> float:
        """Seconds of probing for each second of training so far."""
        return self.spent / self.training if self.training > 0 else 0.0

    def affords(self) -> bool:
        """Whether another probe fits."""
        if not self._recent or math.isinf(self.share):
            return True
        return self.spent + max(self._recent) <= self.share * self.training

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of the block as probing."""
        began = self._clock()
        self._began = began if self._began is None else self._began
        try:
            yield
        finally:
            took = self._clock() - began
            self.spent += took
            self._recent = [*self._recent[-2:], took]
