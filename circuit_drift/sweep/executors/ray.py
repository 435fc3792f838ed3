"""Workers as Ray actors that hold k GPUs each, on this machine or on the cluster that ``RAY_ADDRESS`` names."""

import os
from types import TracebackType
from typing import Any, Self

from checkpoints import DriftError
from circuit_drift.sweep.executors.pool import Workers, serve, starting_points
from circuit_drift.sweep.workers.tasks import Sweep

DETAIL = "Worker exit detail: "
LOGS = "session_latest/logs of the temporary folder of Ray"


class RayActors:
    """A pool of actors, each working through its own call until nothing is left."""

    def __init__(self, sweep: Sweep, workers: Workers) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.sweep = sweep
        self.ray = _import_ray()
        self.actors: dict[Any, tuple[int, Any]] = {}
        self._connected = not self.ray.is_initialized()
        if self._connected:
            address = os.environ.get("RAY_ADDRESS")
            self.ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
        resources = self.ray.cluster_resources()
        try:
            self.gpus = _gpus_each(workers, resources)
        except DriftError:
            self._end()
            raise
        self.size = workers.count or _most(resources, self.gpus, len(sweep.checkpoints))
        self._starts = starting_points(sweep, self.size)

    def __enter__(self) -> Self:
        try:
            for worker in range(self.size):
                self._start(worker)
        except BaseException:  # Ctrl-C, or what cannot be sent to an actor
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def replace_dead(self) -> list[str]:
        """See `WorkerPool`; an actor whose call returned found nothing left to do."""
        if not self.actors:
            return []
        deaths = []
        ended, _ = self.ray.wait(list(self.actors), num_returns=len(self.actors), timeout=0)
        for call in ended:
            worker, _ = self.actors.pop(call)
            try:
                self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                deaths.append(f"actor {worker}: {_told(error, self.ray)}")
                self._start(worker)
        return deaths

    def idle(self) -> bool:
        """See `WorkerPool`."""
        return not self.actors

    def _end(self) -> None:
        """End the actors and leave the cluster, unless it was joined before."""
        for _, actor in self.actors.values():
            self.ray.kill(actor)
        if self._connected:
            self.ray.shutdown()

    def _start(self, worker: int) -> None:
        actor = self.ray.remote(num_cpus=1, num_gpus=self.gpus)(_Worker).remote()
        self.actors[actor.work.remote(self.sweep, self._starts[worker])] = (worker, actor)


class _Worker:
    """The actor."""

    def work(self, sweep: Sweep, start: int) -> int:
        """Work until all is done."""
        return serve(sweep, start)


def _told(error: Exception, ray: Any) -> str:
    """What ended an actor: the error that its work raised, or what Ray saw of its end."""
    text = str(error)
    raised = isinstance(error, ray.exceptions.RayTaskError)
    why = text.splitlines()[-1] if raised else text.partition(DETAIL)[2] or text
    return f"{type(error).__name__}: {' '.join(why.split())[:300]}; its logs lie in {LOGS} on its node"


def _gpus_each(workers: Workers, resources: dict[str, float]) -> int:
    there = int(resources.get("GPU", 0))
    each = workers.gpus_per_worker if workers.gpus_per_worker is not None else min(1, there)
    if each > there:
        raise DriftError(
            f"the Ray cluster has {there} GPUs, too few for a worker with {each}; add nodes or ask for less"
        )
    return each


def _most(resources: dict[str, float], gpus: int, checkpoints: int) -> int:
    room = int(resources["GPU"]) // gpus if gpus else int(resources.get("CPU", 1))
    return max(1, min(room, checkpoints))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DriftError("the executor 'ray' needs Ray: pip install 'circuit-drift[ray]'") from error
    return ray
