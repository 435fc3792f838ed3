"""What all executors with workers elsewhere share: how many, where each begins, following them through the journal."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from checkpoints import DriftError
from checkpoints.results.processes import this_machine
from circuit_drift.store.journal import LEADER, Outcome
from circuit_drift.store.leases import BEATS, read_holder
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import ATTEMPTS, POLL, work

logger = logging.getLogger(__name__)

SECONDS_HERE = 1.0
ORPHANED = 75


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers, and what each holds.

    Attributes:
        count: how many; None leaves it to the executor.
        gpus_per_worker: GPUs of each; None is one where the machine has any, otherwise none.
    """

    count: int | None = None
    gpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise DriftError(f"{self.count} workers cannot measure anything; ask for 1 or more")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise DriftError(f"a worker cannot hold {self.gpus_per_worker} GPUs; ask for 0 or more")


class WorkerPool(Protocol):
    """Started workers; leaving its ``with`` block ends those that still run."""

    size: int

    def __enter__(self) -> Self:
        """Start the workers."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""

    def replace_dead(self) -> list[str]:
        """Start a worker for each that died, and say how those ended."""

    def idle(self) -> bool:
        """Whether every worker has ended, well or not."""


def follow(sweep: Sweep, pool: WorkerPool, progress: Progress) -> Iterator[Outcome]:
    """Yield each outcome that workers record, until every checkpoint has one; workers that die are replaced.

    Raises:
        DriftError: workers die one after the other and nothing gets finished, or all have ended and outcomes are gone.
    """
    missing = set(range(len(sweep.checkpoints)))
    deaths: list[str] = []
    quiet_since: float | None = None
    while missing:
        died = pool.replace_dead()
        for death in died:
            logger.warning("a worker died and was replaced: %s", death)
        deaths += died
        quiet_since = (quiet_since or time.monotonic()) if pool.idle() else None
        found = sweep.journal.read(sorted(missing))
        if found:
            deaths.clear()
        elif len(deaths) > ATTEMPTS * pool.size:
            raise DriftError(f"{len(deaths)} workers in a row died and finished nothing; the last: {deaths[-1]}")
        elif quiet_since is not None and time.monotonic() - quiet_since > sweep.term:
            raise DriftError(
                f"all workers have ended, and {len(missing)} checkpoints have no outcome: was {sweep.journal.folder} "
                "removed? Run again; what was computed is stored"
            )
        else:
            progress.held(holder.what for holder in sweep.leases.held())
            time.sleep(POLL)
        missing -= {outcome.index for outcome in found}
        yield from found


def starting_points(sweep: Sweep, size: int) -> list[int]:
    """Where each of so many workers begins, evenly apart."""
    return [worker * len(sweep.checkpoints) // size for worker in range(size)]


def run_worker(sweep: Sweep, start: int) -> int:
    """Work until all is done; returns how many measures were computed here."""
    return sum(outcome.computed for outcome in work(sweep, start=start))


def serve(sweep: Sweep, start: int) -> int:
    """The body of a worker elsewhere: `run_worker`, for as long as the process that leads the sweep lives.

    What is in hand is dropped when that is gone; nothing half-written is ever visible.
    """
    done = threading.Event()
    threading.Thread(target=_end_with_leader, args=(sweep, done), name="watch on the leader", daemon=True).start()
    try:
        return run_worker(sweep, start)
    finally:
        done.set()


def _end_with_leader(sweep: Sweep, done: threading.Event) -> None:
    leaders = sweep.journal.leaders
    holder = read_holder(leaders.folder / LEADER)
    pause = SECONDS_HERE if holder is not None and holder.machine == this_machine() else leaders.term / BEATS
    while leaders.living(LEADER):
        if done.wait(pause):
            return
    if not done.is_set():
        os._exit(ORPHANED)
