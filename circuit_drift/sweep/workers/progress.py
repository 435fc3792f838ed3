"""Progress that a person can use: all checkpoints with rate and remaining time, and the one in hand by its measures.

Bars appear in a terminal and in a notebook. Into a log, where neither is, goes a line a minute, told by the logger
``circuit_drift.progress``, which the command line shows.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from checkpoints.results.text import counted, visible_line
from circuit_drift.store.journal import Outcome
from circuit_drift.sweep.workers.tasks import Sweep

logger = logging.getLogger("circuit_drift.progress")

PACE = 60.0
"""Seconds between two lines in a log."""


class Progress:
    """The bars of one sweep. Checkpoints that were stored already count as done, and not in the rate.

    Args:
        sweep: what is measured.
        wanted: whether to show anything.
        total: how many checkpoints there will be, where they are chosen on the way; by default those of the sweep.
    """

    def __init__(self, sweep: Sweep, *, wanted: bool, total: int | None = None) -> None:
        self.sweep = sweep
        total = len(sweep.checkpoints) if total is None else total
        self._hidden = not (wanted and has_viewer())
        self._tally = Tally(total)
        self._pace = _Pace(self._tally) if wanted and self._hidden else None
        self._all = self._bar(total, "checkpoint", desc="measuring")
        self._one: Any = None
        self._index: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pace is not None:
            self._pace.stop()
        for bar in (self._one, self._all):
            if bar is not None:
                bar.close()

    @property
    def done(self) -> int:
        """Checkpoints that are finished."""
        return self._tally.done

    def doing(self, index: int, measure: str) -> None:
        """A measure of a checkpoint is about to be computed in this process."""
        self._tally.in_hand = f"{visible_line(self.sweep.checkpoints[index].name)}: {measure}"
        if self._one is None:
            self._one = self._bar(len(self.sweep.measures), "measure", leave=False)
        self._one.set_description(f"{visible_line(self.sweep.checkpoints[index].name)}: {measure}", refresh=False)
        if index != self._index:
            self._one.reset()
        self._index = index
        names = [each.name for each in self.sweep.measures]
        self._one.update(names.index(measure) - self._one.n)
        self._one.refresh()

    def held(self, names: Iterable[str]) -> None:
        """These checkpoints are in the hands of workers."""
        self._tally.in_hand = ", ".join(names)
        self._all.set_postfix_str(self._tally.in_hand)

    def finished(self, outcome: Outcome) -> None:
        """A checkpoint is done."""
        self._tally.count(outcome)
        if not (outcome.computed or self._hidden):
            self._all.initial += 1
        self._all.update()

    def _bar(self, total: int, unit: str, **options: Any) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=total, unit=unit, disable=self._hidden, **options)


class Tally:
    """How far a sweep is: what a line in a log says."""

    def __init__(self, total: int, *, started: float | None = None) -> None:
        self.total, self.done, self.failed, self.stored = total, 0, 0, 0
        self.in_hand = ""
        self.started = time.time() if started is None else started

    def count(self, outcome: Outcome) -> None:
        """One more checkpoint is done; it was stored already where nothing was computed and nothing failed."""
        self.done += 1
        self.failed += bool(outcome.failures)
        self.stored += not (outcome.computed or outcome.failures)

    def line(self, now: float) -> str:
        """Done, failed, rate, time left and what is in hand, at a time in seconds since 1970."""
        told = f"{self.done} of {counted(self.total, 'checkpoint')}"
        about = [
            f"{count} {what}" for count, what in ((self.failed, "failed"), (self.stored, "stored before")) if count
        ]
        told += f" ({', '.join(about)})" if about else ""
        computed, seconds = self.done - self.stored, now - self.started
        if computed and seconds > 0:
            left = (self.total - self.done) * seconds / computed
            told += f", {3600 * computed / seconds:.3g} an hour, {duration(left)} left"
        return told + (f"; now {self.in_hand}" if self.in_hand else "")


class _Pace(threading.Thread):
    """Says how far a sweep is, at a steady pace."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(name="progress", daemon=True)
        self.tally = tally
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Say it until the end."""
        while not self._ended.wait(PACE):
            logger.info("measuring: %s", self.tally.line(time.time()))

    def stop(self) -> None:
        """No more lines."""
        self._ended.set()
        self.join()


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def has_viewer() -> bool:
    """Whether somebody looks on: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
