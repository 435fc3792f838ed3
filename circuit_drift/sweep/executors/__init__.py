"""Where the workers of a sweep run: here, in processes of this machine, on a Ray cluster, on SLURM.

Every executor does the same: it starts workers (`circuit_drift.sweep.workers.worker.work`), which share the
checkpoints through the store, and yields the outcomes. An adapter knows how to start a worker and to see that it
died, nothing else.
"""

from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Literal, get_args

from checkpoints import DriftError
from circuit_drift.store.journal import Outcome
from circuit_drift.sweep.executors.pool import WorkerPool, Workers, follow
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import work

Executor = Literal["serial", "processes", "ray", "slurm"]
EXECUTORS: tuple[str, ...] = get_args(Executor)
POOLS: Mapping[str, str] = {
    "processes": "circuit_drift.sweep.executors.processes:Processes",
    "ray": "circuit_drift.sweep.executors.ray:RayActors",
    "slurm": "circuit_drift.sweep.executors.slurm:SlurmJobs",
}
"""Executor -> its pool of workers, loaded when it is asked for; ``serial`` works here and has none."""

__all__ = ["EXECUTORS", "Executor", "WorkerPool", "Workers", "execute"]


def execute(sweep: Sweep, executor: Executor, workers: Workers, progress: Progress) -> Iterator[Outcome]:
    """Run a sweep.

    Args:
        sweep: what is to be measured.
        executor: where.
        workers: how many, with how many GPUs each.
        progress: is kept up to date.

    Yields:
        every checkpoint once, as it is finished.

    Raises:
        DriftError: an unknown executor, one whose package is not installed, or workers that cannot be kept alive.
    """
    if executor not in {"serial", *POOLS}:
        raise DriftError(f"unknown executor {executor!r}; choose from {', '.join(EXECUTORS)}")
    with sweep.journal.lead(f"sweep {sweep.id}"):
        if executor == "serial":
            yield from work(sweep, watch=progress.doing)
            return
        with _pool(sweep, executor, workers) as pool:
            yield from follow(sweep, pool, progress)


def _pool(sweep: Sweep, executor: Executor, workers: Workers) -> WorkerPool:
    pool: Callable[[Sweep, Workers], WorkerPool] = resolve_name(POOLS[executor])
    return pool(sweep.anywhere(), workers)
