"""Workers as processes of this machine: one for each group of GPUs, or several that share the CPU."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from checkpoints import DriftError
from circuit_drift.sweep.executors.pool import Workers, serve, starting_points
from circuit_drift.sweep.workers.machine import own_cores
from circuit_drift.sweep.workers.tasks import Sweep

GPUS = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"


class Processes:
    """A pool of spawned processes."""

    def __init__(self, sweep: Sweep, workers: Workers) -> None:
        self.sweep = sweep
        self.environments = environments(workers, len(sweep.checkpoints), visible_gpus(sweep.placement.device))
        self.size = len(self.environments)
        self._starts = starting_points(sweep, self.size)
        self._alive: list[BaseProcess] = []

    def __enter__(self) -> Self:
        self._alive = [self._start(worker) for worker in range(self.size)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in self._alive:
                process.terminate()
        for process in self._alive:
            process.join()

    def replace_dead(self) -> list[str]:
        """See `WorkerPool`; a process that ended well found nothing left to do."""
        deaths = []
        for worker, process in enumerate(self._alive):
            if process.exitcode:
                deaths.append(f"process {process.pid} ended with exit code {process.exitcode}")
                self._alive[worker] = self._start(worker)
        return deaths

    def idle(self) -> bool:
        """See `WorkerPool`."""
        return all(process.exitcode is not None for process in self._alive)

    def _start(self, worker: int) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(self.sweep, self._starts[worker]), name=f"worker {worker}", daemon=True
        )
        with _environment(self.environments[worker]), _interrupts_held():
            process.start()
        return process


def environments(workers: Workers, checkpoints: int, gpus: list[str]) -> list[dict[str, str]]:
    """The variables each worker is started with: its GPUs, or its share of the CPU's threads.

    Raises:
        DriftError: the machine has too few GPUs.
    """
    each = workers.gpus_per_worker if workers.gpus_per_worker is not None else min(1, len(gpus))
    if each:
        most = len(gpus) // each
        size = workers.count or min(most, checkpoints)
        if not 0 < size <= most:
            raise DriftError(
                f"{size or 1} workers with {each} GPUs each need {(size or 1) * each}; this machine shows {len(gpus)}"
            )
        return [{GPUS: ",".join(gpus[worker * each : (worker + 1) * each])} for worker in range(size)]
    cores = len(own_cores())
    size = workers.count or min(cores, checkpoints)
    return [{GPUS: "", THREADS: os.environ.get(THREADS, str(max(1, cores // size)))} for _ in range(size)]


def visible_gpus(device: str) -> list[str]:
    """The GPUs that this process may hand out, as ``CUDA_VISIBLE_DEVICES`` names them; none where the CPU is asked."""
    if device == "cpu":
        return []
    if GPUS in os.environ:
        return [name for name in os.environ[GPUS].split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started within never see the terminal's interrupt: it is ours, and we end them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it starts with the first process, and lets interrupts through when it does
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
