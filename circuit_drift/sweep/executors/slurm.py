"""Workers as SLURM jobs through submitit; a job that is pre-empted or runs out of time is queued again.

Where there is no SLURM, submitit runs the same jobs as processes of this machine. Partition, account, time limit and
the like are taken from the environment, as ``sbatch`` does (``SBATCH_PARTITION``, ``SBATCH_ACCOUNT``, ...).
"""

from types import TracebackType
from typing import Any, Self

from checkpoints import DriftError
from circuit_drift.sweep.executors.pool import Workers, serve, starting_points
from circuit_drift.sweep.workers.tasks import Sweep

DAY = 24 * 60


class SlurmJobs:
    """A pool of jobs; their logs go beside the sweep's results."""

    def __init__(self, sweep: Sweep, workers: Workers) -> None:
        self.sweep = sweep
        self.size = workers.count or min(4, len(sweep.checkpoints))
        self._starts = starting_points(sweep, self.size)
        self.executor = _import_submitit().AutoExecutor(folder=sweep.store.path / "sweeps" / "slurm-logs")
        gpus = workers.gpus_per_worker if workers.gpus_per_worker is not None else int(sweep.placement.device != "cpu")
        self.executor.update_parameters(
            name="circuit-drift", timeout_min=DAY, gpus_per_node=gpus if self.executor.cluster == "slurm" else 0
        )
        self.jobs: list[Any] = []

    def __enter__(self) -> Self:
        self.jobs = [self._start(worker) for worker in range(self.size)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        queued = self.executor.cluster == "slurm"  # one that was pre-empted may wait its turn for hours, for nothing
        for job in self.jobs:
            if queued or kind is not None:
                job.cancel(check=False)
            elif not job.done():
                job.wait()

    def replace_dead(self) -> list[str]:
        """See `WorkerPool`; a job that returned found nothing left to do."""
        deaths = []
        for worker, job in enumerate(self.jobs):
            if job.done() and (error := job.exception()) is not None:
                deaths.append(f"job {job.job_id}: {' '.join(str(error).split())[-300:]}; its log is {job.paths.stderr}")
                self.jobs[worker] = self._start(worker)
        return deaths

    def idle(self) -> bool:
        """See `WorkerPool`."""
        return all(job.done() for job in self.jobs)

    def _start(self, worker: int) -> Any:
        return self.executor.submit(SlurmWorker(), self.sweep, self._starts[worker])


class SlurmWorker:
    """The job; picklable, and able to be queued again."""

    def __call__(self, sweep: Sweep, start: int) -> int:
        """Work until all is done."""
        return serve(sweep, start)

    def checkpoint(self, sweep: Sweep, start: int) -> Any:
        """What submitit queues when the job is pre-empted: the same work, of which what is stored is done."""
        return _import_submitit().helpers.DelayedSubmission(self, sweep, start)


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise DriftError("the executor 'slurm' needs submitit: pip install 'circuit-drift[slurm]'") from error
    return submitit
