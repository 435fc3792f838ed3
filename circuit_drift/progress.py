"""Progress that a person can use: all checkpoints with rate and remaining time, and the one in hand by its measures.

Bars appear in a terminal and in a notebook; into a log goes nothing but warnings.
"""

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from circuit_drift.journal import Outcome
from circuit_drift.tasks import Sweep


class Progress:
    """The bars of one sweep. Checkpoints that were stored already count as done, and not in the rate."""

    def __init__(self, sweep: Sweep, *, wanted: bool) -> None:
        from tqdm.auto import tqdm

        hidden = not (wanted and has_viewer())
        self.sweep = sweep
        self._index: int | None = None
        self._all: Any = tqdm(total=len(sweep.checkpoints), desc="measuring", unit="checkpoint", disable=hidden)
        self._one: Any = tqdm(total=len(sweep.measures), unit="measure", leave=False, disable=hidden)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._one.close()
        self._all.close()

    def doing(self, index: int, measure: str) -> None:
        """A measure of a checkpoint is about to be computed in this process."""
        if index != self._index:
            self._index = index
            self._one.reset()
        names = [each.name for each in self.sweep.measures]
        self._one.update(names.index(measure) - self._one.n)
        self._one.set_description(f"{self.sweep.checkpoints[index].name}: {measure}")

    def held(self, names: Iterable[str]) -> None:
        """These checkpoints are in the hands of workers."""
        self._all.set_postfix_str(", ".join(names))

    def finished(self, outcome: Outcome) -> None:
        """A checkpoint is done."""
        if not (outcome.computed or self._all.disable):
            self._all.initial += 1
        self._all.update()


def has_viewer() -> bool:
    """Whether somebody looks on: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
