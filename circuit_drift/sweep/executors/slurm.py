"""Workers as SLURM jobs through submitit; a job that is pre-empted or runs out of time is queued again.

Where there is no SLURM, submitit runs the same jobs as processes of this machine. Partition, account, time limit and
the like are taken from the environment, as ``sbatch`` does (``SBATCH_PARTITION``, ``SBATCH_ACCOUNT``, ...).
"""

import logging
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from checkpoints import DriftError
from circuit_drift.sweep.executors.pool import Workers, serve, starting_points
from circuit_drift.sweep.executors.slurm_queue import (
    COMPLETED,
    DAY,
    ENDED,
    GONE,
    PENDING,
    Offer,
    Queued,
    offered,
    queue,
)
from circuit_drift.sweep.workers.tasks import Sweep

logger = logging.getLogger("circuit_drift.progress")

NAME = "circuit-drift"
PAUSE = 15.0
"""Seconds between two looks at the queue."""
FAREWELL = 10.0
"""Seconds that jobs have at the end to see that nothing is left to do."""
TAIL = 300
ADVICE = "\n----------------------\nYou can check"
"""Where submitit's account of an error ends."""


class SlurmJobs:
    """A pool of jobs; their logs go beside the sweep's results."""

    def __init__(self, sweep: Sweep, workers: Workers) -> None:
        self.sweep = sweep
        self.size = workers.count or min(4, len(sweep.checkpoints))
        self._starts = starting_points(sweep, self.size)
        submitit = _import_submitit()
        logging.getLogger("submitit").handlers.clear()  # it writes to standard output, where our tables and JSON go
        self.executor = submitit.AutoExecutor(folder=sweep.store.path / "sweeps" / "slurm-logs")
        self.queued = self.executor.cluster == "slurm"
        offer = offered() if self.queued else Offer(DAY, gpus=False)
        gpus = _gpus_each(sweep, workers, offer) if self.queued else 0
        self.executor.update_parameters(name=NAME, timeout_min=offer.minutes, gpus_per_node=gpus)
        self.jobs: list[Any] = []
        self._looked = time.monotonic()
        self._waiting = ""

    def __enter__(self) -> Self:
        try:
            for worker in range(self.size):
                self.jobs.append(self._start(worker))
        except BaseException:  # Ctrl-C too: nobody else knows of the jobs
            self._cancel(self.jobs)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._cancel(self.jobs)
        elif self.queued:
            self._cancel(self._unfinished(time.monotonic() + FAREWELL))
        else:
            for job in self.jobs:
                job.wait()

    def replace_dead(self) -> list[str]:
        """See `WorkerPool`; a job that returned found nothing left to do."""
        ends = self._ends()
        for worker in ends:
            self.jobs[worker] = self._start(worker)
        return list(ends.values())

    def idle(self) -> bool:
        """See `WorkerPool`."""
        return all(_returned(job) for job in self.jobs)

    def _ends(self) -> dict[int, str]:
        """Worker -> how its job died, of those that did."""
        ends = {}
        for worker, job in enumerate(self.jobs):
            if (_returned(job) if self.queued else job.done()) and (error := job.exception()) is not None:
                ends[worker] = _told(job, _last_lines(str(error).partition(ADVICE)[0]))
        if self.queued and time.monotonic() - self._looked >= PAUSE:
            self._looked = time.monotonic()
            ends |= self._lost()
        return ends

    def _lost(self) -> dict[int, str]:
        """Worker -> how SLURM ended its job, of those that left no result."""
        left = {worker: job for worker, job in enumerate(self.jobs) if not _returned(job)}
        states = queue([job.job_id for job in left.values()], NAME)
        if states is None:
            return {}
        self._tell_waiting(list(states.values()))
        found = {worker: states[job.job_id] for worker, job in left.items()}
        return {
            worker: _told(left[worker], f"{shown.state}{_because(shown)}{_last_words(left[worker].paths.stderr)}")
            for worker, shown in found.items()
            if (shown == GONE or shown.state in ENDED) and shown.state != COMPLETED and not _returned(left[worker])
        }

    def _tell_waiting(self, states: list[Queued]) -> None:
        """Say once how many jobs wait for what, and again when that changes."""
        waiting = Counter(shown.reason for shown in states if shown.state == PENDING)
        told = ", ".join(f"{count} of {len(self.jobs)} jobs wait ({reason})" for reason, count in waiting.items())
        if told and told != self._waiting:
            logger.info("SLURM: %s", told)
        self._waiting = told

    def _unfinished(self, deadline: float) -> list[Any]:
        """The jobs without a result, once those that run had the time to leave one."""
        while time.monotonic() < deadline:
            left = [job for job in self.jobs if not _returned(job)]
            states = queue([job.job_id for job in left], NAME)
            if not left or (states is not None and all(shown.state == PENDING for shown in states.values())):
                break
            time.sleep(1.0)
        return [job for job in self.jobs if not _returned(job)]

    def _cancel(self, jobs: list[Any]) -> None:
        for job in jobs:
            job.cancel(check=False)

    def _start(self, worker: int) -> Any:
        try:
            return self.executor.submit(SlurmWorker(), self.sweep, self._starts[worker])
        except _import_submitit().core.utils.FailedJobError as error:
            why = " ".join(str(error).split())
            raise DriftError(
                f"SLURM takes no job: {why}; jobs ask for {self.executor.parameters['gpus_per_node']} GPUs each "
                "(--gpus-per-worker), partition, account and time limit are those of SBATCH_PARTITION, SBATCH_ACCOUNT "
                "and SBATCH_TIMELIMIT; run again: what was computed is stored"
            ) from error


class SlurmWorker:
    """The job; picklable, and able to be queued again."""

    def __call__(self, sweep: Sweep, start: int) -> int:
        """Work until all is done."""
        return serve(sweep, start)

    def checkpoint(self, sweep: Sweep, start: int) -> Any:
        """What submitit queues when the job is pre-empted: the same work, of which what is stored is done."""
        return _import_submitit().helpers.DelayedSubmission(self, sweep, start)


def _gpus_each(sweep: Sweep, workers: Workers, offer: Offer) -> int:
    if workers.gpus_per_worker is not None:
        return workers.gpus_per_worker
    return int(sweep.placement.device != "cpu" and offer.gpus is not False)


def _returned(job: Any) -> bool:
    """Whether a job left its result, or the error that ended it."""
    path: Path = job.paths.result_pickle
    return path.exists()


def _told(job: Any, how: str) -> str:
    return f"job {job.job_id}: {how}; its log is {job.paths.stderr}"


def _last_lines(text: str) -> str:
    """The last two lines in one."""
    return " ".join(" ".join(text.splitlines()[-2:]).split())[-TAIL:]


def _because(shown: Queued) -> str:
    return "" if shown.reason == "None" else f" ({shown.reason})"


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = _last_lines(file.read().decode(errors="replace"))
    except OSError:
        return ""
    return f": {text}" if text else ""


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise DriftError("the executor 'slurm' needs submitit: pip install 'circuit-drift[slurm]'") from error
    return submitit
