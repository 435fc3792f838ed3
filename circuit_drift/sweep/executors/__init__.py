"""Where the workers of a sweep run: here, in processes of this machine, on a Ray cluster, on SLURM.

Every executor does the same: it starts workers (`circuit_drift.sweep.workers.worker.work`), which share the
checkpoints through the store, and yields the outcomes. An adapter knows how to start a worker and to see that it
died, nothing else.
"""

from collections.abc import Iterator
from typing import Literal, get_args

from checkpoints import DriftError
from circuit_drift.store.journal import Outcome
from circuit_drift.sweep.executors.pool import Crew, Workforce, follow
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import work

Executor = Literal["serial", "processes", "ray", "slurm"]
EXECUTORS: tuple[str, ...] = get_args(Executor)

__all__ = ["EXECUTORS", "Crew", "Executor", "Workforce", "execute"]


def execute(sweep: Sweep, executor: Executor, workforce: Workforce, progress: Progress) -> Iterator[Outcome]:
    """Run a sweep.

    Args:
        sweep: what is to be measured.
        executor: where.
        workforce: how many workers, with how many GPUs each.
        progress: is kept up to date.

    Yields:
        every checkpoint once, as it is finished.

    Raises:
        DriftError: an unknown executor, one whose package is not installed, or workers that cannot be kept alive.
    """
    crew = None if executor == "serial" else _crew(sweep, executor, workforce)
    with sweep.journal.lead(f"sweep {sweep.id}"):
        if crew is None:
            yield from work(sweep, watch=progress.doing)
            return
        with crew:
            yield from follow(sweep, crew, progress)


def _crew(sweep: Sweep, executor: Executor, workforce: Workforce) -> Crew:
    if executor == "processes":
        from circuit_drift.sweep.executors.processes import Processes

        return Processes(sweep.anywhere(), workforce)
    if executor == "ray":
        from circuit_drift.sweep.executors.ray import RayActors

        return RayActors(sweep.anywhere(), workforce)
    if executor == "slurm":
        from circuit_drift.sweep.executors.slurm import SlurmJobs

        return SlurmJobs(sweep.anywhere(), workforce)
    raise DriftError(f"unknown executor {executor!r}; choose from {', '.join(EXECUTORS)}")
