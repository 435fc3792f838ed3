"""Progress that a person can use: all checkpoints with rate and remaining time, and the one in hand by its measures.

Bars appear in a terminal and in a notebook; a log, where neither is, gets a line a minute
(`circuit_drift.trackers.steady`).
"""

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from checkpoints.results.text import visible_line
from circuit_drift.store.journal import Outcome
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.trackers.steady import Pace, Tally


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
        self._pace = Pace("measuring", self._tally) if wanted and self._hidden else None
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


def has_viewer() -> bool:
    """Whether somebody looks on: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
