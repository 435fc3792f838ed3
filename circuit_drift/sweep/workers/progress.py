"""Progress that a person can use: all checkpoints with rate and remaining time, and the one in hand by its measures.

Bars appear in a terminal and in a notebook; into a log goes nothing but warnings.
"""

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from checkpoints.results.text import visible_line
from circuit_drift.store.journal import Outcome
from circuit_drift.sweep.workers.tasks import Sweep


class Progress:
    """The bars of one sweep. Checkpoints that were stored already count as done, and not in the rate."""

    def __init__(self, sweep: Sweep, *, wanted: bool) -> None:
        self.sweep = sweep
        self._hidden = not (wanted and has_viewer())
        self._all = self._bar(len(sweep.checkpoints), "checkpoint", desc="measuring")
        self._one: Any = None
        self._index: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in (self._one, self._all):
            if bar is not None:
                bar.close()

    def doing(self, index: int, measure: str) -> None:
        """A measure of a checkpoint is about to be computed in this process."""
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
        self._all.set_postfix_str(", ".join(names))

    def finished(self, outcome: Outcome) -> None:
        """A checkpoint is done."""
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
