"""What a log is told at a steady pace of work that takes long: how far it is, its rate, the time left, what is in hand.

A line a minute, told by the logger ``circuit_drift.progress``, which the command line shows.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from checkpoints.results.text import counted
from circuit_drift.store.journal import Outcome

logger = logging.getLogger("circuit_drift.progress")
Each = TypeVar("Each")

PACE = 60.0
"""Seconds between two lines."""


class Tally:
    """How far some work is: what a line says.

    Attributes:
        total: how much there is; None where nobody knows.
        unit: of what.
        done, failed, stored: so many of them; those that were stored before do not count in the rate.
        in_hand: what is being done.
        started: in seconds since 1970.
    """

    def __init__(self, total: int | None, *, unit: str = "checkpoint", started: float | None = None) -> None:
        self.total, self.unit = total, unit
        self.done, self.failed, self.stored = 0, 0, 0
        self.in_hand = ""
        self.started = time.time() if started is None else started

    def count(self, outcome: Outcome) -> None:
        """One more checkpoint is done; it was stored already where nothing was computed and nothing failed."""
        self.done += 1
        self.failed += bool(outcome.failures)
        self.stored += not (outcome.computed or outcome.failures)

    def left(self, now: float) -> float | None:
        """Seconds left at a time in seconds since 1970; None where that cannot be told."""
        computed = self.done - self.stored
        if self.total is None or computed <= 0 or now <= self.started:
            return None
        return max(0, self.total - self.done) * (now - self.started) / computed

    def line(self, now: float | None) -> str:
        """Done, failed, rate, time left and what is in hand; without a time to tell it at, no rate and nothing left."""
        told = (
            counted(self.done, self.unit) if self.total is None else f"{self.done} of {counted(self.total, self.unit)}"
        )
        about = [
            f"{count} {what}" for count, what in ((self.failed, "failed"), (self.stored, "stored before")) if count
        ]
        told += f" ({', '.join(about)})" if about else ""
        computed = self.done - self.stored
        if now is not None and computed > 0 and now > self.started:
            told += f", {3600 * computed / (now - self.started):.3g} an hour"
            left = self.left(now)
            told += "" if left is None else f", {duration(left)} left"
        return told + (f"; now {self.in_hand}" if self.in_hand else "")


class Pace(threading.Thread):
    """Says how far some work is until it is stopped."""

    def __init__(self, what: str, tally: Tally) -> None:
        super().__init__(name="progress", daemon=True)
        self.what, self.tally = what, tally
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Say it until the end."""
        while not self._ended.wait(PACE):
            logger.info("%s: %s", self.what, self.tally.line(time.time()))

    def stop(self) -> None:
        """No more lines."""
        self._ended.set()
        self.join()


@contextmanager
def steadily(what: str, total: int | None = None, *, unit: str) -> Iterator[Tally]:
    """Say how far some work is while the block runs, which keeps count.

    Args:
        what: is done.
        total: how much there is; None where nobody knows.
        unit: of what.
    """
    pace = Pace(what, Tally(total, unit=unit))
    try:
        yield pace.tally
    finally:
        pace.stop()


def each_told(what: str, found: Iterable[Each], total: int | None, *, unit: str) -> Iterator[Each]:
    """Say how far some work is that is done for one after the other; arguments as for `steadily`."""
    with steadily(what, total, unit=unit) as tally:
        for each in found:
            yield each
            tally.done += 1


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
