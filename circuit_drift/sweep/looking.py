"""Measuring the checkpoints that are worth it: one sweep whose checkpoints are chosen as it goes on."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from checkpoints import Checkpoint, Series
from checkpoints.series.downloads import Downloads
from circuit_drift.record.record import Point
from circuit_drift.store.journal import Outcome
from circuit_drift.store.upkeep import collect
from circuit_drift.sweep.adaptive import adaptively
from circuit_drift.sweep.limits import STOPPED, Watch
from circuit_drift.sweep.points import bytes_of, point_of
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import work

logger = logging.getLogger(__name__)


def look(series: Series, sweep: Sweep, count: int, run: str, watch: Watch, *, progress: bool) -> tuple[Checkpoint, ...]:
    """The checkpoints of a series that are worth measuring, each measured here on the way; fewer where a limit ends it.

    Args:
        series: to choose from.
        sweep: what is asked of each; its checkpoints are those chosen so far, in that order.
        count: how many.
        run: what the run is called, for those who look on.
        watch: looks at the limits.
        progress: show how far it is.

    Raises:
        DriftError: see `adaptively`.
        StoreError: a result cannot be written.
    """
    chosen: list[Checkpoint] = []
    total = min(count, len(series))
    before = {(result.measure, result.key) for result in sweep.store.results()}
    sweep.journal.begin(sweep.about(run, total))
    try:
        with (
            sweep.journal.lead(f"sweep {sweep.id}"),
            Progress(sweep, wanted=progress, total=total) as bars,
            Downloads(sweep.keep_downloads, series.checkpoints) as downloads,
        ):

            def measure(checkpoints: Sequence[Checkpoint]) -> Iterator[tuple[int, Point]]:
                start = len(chosen)
                chosen.extend(checkpoints)
                bars.sweep = grown = replace(sweep, checkpoints=tuple(chosen))
                outcomes = work(grown, start=start, watch=bars.doing, downloads=downloads)
                while not watch.why and (outcome := next(outcomes, None)) is not None:
                    bars.finished(outcome)
                    point = point_of(grown, outcome)
                    if why := watch.reached(bytes_of(sweep.store, point, before), failed=bool(point.failures)):
                        logger.warning(STOPPED, bars.done, total, why)
                    yield outcome.index - start, point

            return adaptively(series, count, measure)
    finally:
        sweep.journal.close()
        collect(sweep.store)


def foreseen(series: Series, sweep: Sweep, count: int) -> tuple[Sweep, int]:
    """The sweep of those that `look` is sure to take and of others in place of the rest, and how many these are.

    Args:
        series: to choose from.
        sweep: what is asked of each of its checkpoints, in that order.
        count: how many.

    Raises:
        DriftError: see `adaptively`.
    """
    sure: list[Checkpoint] = []
    asked = {checkpoint: index for index, checkpoint in enumerate(sweep.checkpoints)}
    ended = False

    def stored(checkpoints: Sequence[Checkpoint]) -> Iterator[tuple[int, Point]]:
        """Those whose results are there, until one has none."""
        nonlocal ended
        sure.extend(() if ended else checkpoints)
        for place, checkpoint in enumerate(checkpoints):
            tasks = sweep.tasks(asked[checkpoint])
            ended = ended or not all(task.stored(sweep.store) for task in tasks)
            if ended:
                return
            keys = {task.name: task.key for task in tasks}
            yield place, point_of(sweep, Outcome(asked[checkpoint], keys))

    adaptively(series, count, stored)
    others = [checkpoint for checkpoint in series if checkpoint not in sure]
    lacking = max(0, min(count, len(series)) - len(sure))
    more = {others[place * len(others) // lacking] for place in range(lacking)}
    return replace(sweep, checkpoints=tuple(each for each in series if each in more.union(sure))), len(more)
