"""What all executors with workers elsewhere share: how many, where each begins, following them through the journal."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from checkpoints import DriftError
from circuit_drift.store.journal import Outcome
from circuit_drift.sweep.progress import Progress
from circuit_drift.sweep.tasks import Sweep
from circuit_drift.sweep.worker import ATTEMPTS, POLL, work


@dataclass(frozen=True, slots=True)
class Workforce:
    """How many workers, and what each holds.

    Attributes:
        workers: how many; None leaves it to the executor.
        gpus_per_worker: GPUs of each; None is one where the machine has any, otherwise none.
    """

    workers: int | None = None
    gpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise DriftError(f"{self.workers} workers cannot measure anything; ask for 1 or more")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise DriftError(f"a worker cannot hold {self.gpus_per_worker} GPUs; ask for 0 or more")


class Crew(Protocol):
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


def follow(sweep: Sweep, crew: Crew, progress: Progress) -> Iterator[Outcome]:
    """Yield each outcome that workers record, until every checkpoint has one; workers that die are replaced.

    Raises:
        DriftError: workers die one after the other and nothing gets finished.
    """
    missing = set(range(len(sweep.checkpoints)))
    deaths: list[str] = []
    while missing:
        deaths += crew.replace_dead()
        found = sweep.journal.read(sorted(missing))
        if found:
            deaths.clear()
        elif len(deaths) > ATTEMPTS * crew.size:
            raise DriftError(f"{len(deaths)} workers in a row died and finished nothing; the last: {deaths[-1]}")
        else:
            progress.held(holder.what for holder in sweep.claims.held())
            time.sleep(POLL)
        missing -= {outcome.index for outcome in found}
        yield from found


def starting_points(sweep: Sweep, size: int) -> list[int]:
    """Where each of so many workers begins, evenly apart."""
    return [worker * len(sweep.checkpoints) // size for worker in range(size)]


def exhaust(sweep: Sweep, start: int) -> int:
    """The body of a worker elsewhere: work until all is done; returns how many measures it computed."""
    return sum(outcome.computed for outcome in work(sweep, start=start))
