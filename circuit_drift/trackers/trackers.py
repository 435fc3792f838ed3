"""What is told to loggers while a sweep or a training runs: numbers by step, through one adapter.

A tracker is named as ``KIND:PLACE`` (``tensorboard:logs``), or is an object with `Tracker`'s two methods. It only ever
looks on: one that fails is warned of once and told no more, and what is measured or trained goes on.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from checkpoints.errors import DriftError
from circuit_drift.trackers.backends import BACKENDS

logger = logging.getLogger(__name__)


@runtime_checkable
class Tracker(Protocol):
    """A logger of numbers by step."""

    def log(self, run: str, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of one step of one run; steps may come in any order, and again after a restart.

        Args:
            run: name of the run, with ``/STAGE/BRANCH`` where its line of training has them.
            step: of training.
            numbers: finite, by name.
        """

    def close(self) -> None:
        """Write what is left: nothing more comes."""


class Trackers:
    """All trackers of one sweep or training.

    Args:
        trackers: by the names they were asked for.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._alive = dict(trackers)

    @classmethod
    def of(cls, asked: Sequence[str | Tracker]) -> Self:
        """Those that were asked for; writes nothing yet.

        Raises:
            DriftError: an unknown kind, no place, a package that is not installed, or a place that it does not take.
        """
        if isinstance(asked, str):
            asked = (asked,)
        return cls(dict(_named(each) if isinstance(each, str) else (type(each).__name__, each) for each in asked))

    def log(self, run: str, step: int, numbers: Mapping[str, float]) -> None:
        """Tell every tracker; what is not finite is left out."""
        finite = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
        for name, tracker in list(self._alive.items()):
            try:
                tracker.log(run, step, finite)
            except Exception as error:  # a logger must not end what it looks at
                del self._alive[name]
                logger.warning("%s is told no more, since it failed at step %d: %s", name, step, _why(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in self._alive.items():
            try:
                tracker.close()
            except Exception as failed:  # as above
                logger.warning("%s could not be closed: %s", name, _why(failed))


def _named(asked: str) -> tuple[str, Tracker]:
    kind, _, place = asked.partition(":")
    if kind not in BACKENDS or not place:
        known = ", ".join(f"{name}:DIR" for name in BACKENDS)
        raise DriftError(f"a tracker is named as one of {known}; got {asked!r}")
    try:
        return asked, BACKENDS[kind](place)
    except DriftError:
        raise
    except Exception as error:
        raise DriftError(f"the tracker {asked} cannot be opened: {_why(error)}") from error


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]
