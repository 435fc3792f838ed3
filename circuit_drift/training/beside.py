"""Probes beside training: a process of their own is handed snapshots of the weights, and training goes on."""

import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from checkpoints.errors import BadPrompt
from circuit_drift.behaviour.gauges import Gauge
from circuit_drift.measures.base import Measure
from circuit_drift.measures.registry import register
from circuit_drift.training.prober import Prober
from circuit_drift.training.sharded import WholeCopy, is_first, whole_state

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class SideProber:
    """A prober in a process of its own, which probes snapshots of the weights while training goes on.

    For training that is sharded over processes (FSDP2) or not. Every process makes one and calls `after_step` alike;
    the first gathers the weights, writes them into a temporary folder for the process beside it, and trains on. That
    takes the memory of the whole model twice, and the disk once. A snapshot that is due while the one before is still
    probed is passed over, but for those that are forced. What is found is in the prober's store; `prober` itself stays
    as it is.

    Args:
        prober: what is probed, and when. Its share of the training's time does not bind.
        config: of the model.
        device: of the side process.
        folder: where a snapshot lies until it is read; by default the system's temporary folder.

    Raises:
        BadPrompt: a measure or a gauge that no other process can import: of a class that the running script defines,
            or that stands within a function.
    """

    def __init__(self, prober: Prober, config: Any, *, device: str = "cpu", folder: Path | str | None = None) -> None:
        probes: list[Measure | Gauge] = [*prober.measures, *prober.gauges]
        for probe in probes:
            _require_importable(probe)
        self.prober = prober
        self.passed_over: list[int] = []
        self._whole = WholeCopy(config, device=device)
        self._folder = folder
        self._side: _Side | None = None
        self._last: int | None = None
        self._done: int | None = None

    def resume(self, step: int) -> None:
        """Go on with what an earlier start of the run recorded up to a step."""
        self._done = step

    def after_step(
        self,
        model: "torch.nn.Module",
        *,
        step: int,
        loss: float | None = None,
        tokens: int | None = None,
        stage: str | None = None,
        epoch_ended: bool = False,
        force: bool = False,
    ) -> bool:
        """Hand over the weights of this moment where a probe is due; every process must call it alike, with 0 first.

        Args:
            model: that is trained.
            step: optimizer steps taken.
            loss: training loss, to be recorded beside the probes.
            tokens: tokens seen.
            stage: of the training.
            epoch_ended: whether an epoch ends with this step.
            force: probe whether or not it is due, and wait until the side process is free.

        Returns:
            whether a snapshot was taken, the same on every process. One that could not be written is told in the log.
        """
        if step == self._last or not (force or self.prober.schedule.due(step, epoch_ended=epoch_ended)):
            return False
        if not _agreed(is_first() and self._free(wait=force)):
            self.passed_over.append(step)
            return False
        self._last = step
        state = whole_state(model)
        if state is not None:
            self._handed(state, {"step": step, "loss": loss, "tokens": tokens, "stage": stage})
        return True

    def close(self) -> None:
        """Wait for the last probe and end the side process."""
        if self._side is not None:
            self._free(wait=True)
        if self._side is not None:
            self._side.end()
            self._side = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _free(self, *, wait: bool) -> bool:
        """Whether a snapshot can be handed over. A side process that died is told, and another one will be begun."""
        if self._side is None:
            return True
        side, free = self._side, True
        try:
            free = side.free(wait=wait)
        except (EOFError, ConnectionError):
            logger.warning("%s; the next snapshot begins another one", side.death())
            self._side = None
        self._done = side.done if side.done is not None else self._done
        return free

    def _handed(self, state: "Mapping[str, torch.Tensor]", moment: Mapping[str, Any]) -> None:
        try:
            if self._side is None:
                self._side = _Side(self.prober, self._whole, self._done, self._folder)
            self._side.hand_over(state, moment)
        except OSError as error:  # a full disk or a process that just died must not end the training
            logger.warning("the snapshot of step %s could not be handed over: %s", moment["step"], error)


class _Side:
    """The process, the pipe to it and the folder of its snapshots, as training sees them.

    Attributes:
        done: step of the last probe that ended; None before the first.
    """

    def __init__(self, prober: Prober, whole: WholeCopy, resumed: int | None, folder: Path | str | None) -> None:
        self._pipe, other = Pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="circuit-drift-snapshot-", dir=folder)
        command = [sys.executable, "-m", __name__, str(other.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
        other.close()
        self._pipe.send(sys.path)
        self._pipe.send((prober, whole, resumed, self._folder.name))
        self._pending: int | None = None
        self.done: int | None = None

    def free(self, *, wait: bool) -> bool:
        """Whether the last snapshot has been probed.

        Raises:
            EOFError: the process died.
        """
        if self._pending is not None and (wait or self._pipe.poll()):
            failure = self._pipe.recv()
            if failure:
                logger.warning("the snapshot of step %d was not probed: %s", self._pending, failure)
            else:
                self.done = self._pending
            self._pending = None
        if self._pending is None and self._process.poll() is not None:
            raise EOFError
        return self._pending is None

    def hand_over(self, state: "Mapping[str, torch.Tensor]", moment: Mapping[str, Any]) -> None:
        import torch

        path = Path(self._folder.name, "weights.pt")
        try:
            torch.save(dict(state), path)
        except RuntimeError as error:  # torch's word for a disk that takes no more
            path.unlink(missing_ok=True)
            raise OSError(f"{path} cannot be written: {error}") from error
        self._pipe.send((path, dict(moment)))
        self._pending = moment["step"]

    def death(self) -> str:
        """How the process ended."""
        self._process.wait()
        self._folder.cleanup()
        at = f" at step {self._pending}" if self._pending is not None else ""
        return f"the process that probes beside training died{at}, exit status {self._process.returncode}"

    def end(self) -> None:
        self._pipe.close()
        self._process.wait()
        self._folder.cleanup()


def _require_importable(probe: Measure | Gauge) -> None:
    kind = type(probe)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        where = "a function" if "<locals>" in kind.__qualname__ else "the running script"
        raise BadPrompt(
            f"{probe.name} is of the class {kind.__name__}, which {where} defines; move it into a module, at its top, "
            "that the process beside training can import"
        )


def _agreed(decision: bool) -> bool:
    """What the first process decided, on all of them."""
    from torch.distributed import broadcast_object_list, is_initialized

    if not is_initialized():
        return decision
    told = [decision]
    broadcast_object_list(told, src=0)
    return told[0]


def _probe_beside(pipe: Connection) -> None:
    """What the side process does: probe every snapshot, until training hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for training, which ends this process
    sys.path[:] = pipe.recv()
    prober, whole, resumed, folder = pipe.recv()
    for measure in prober.measures:
        register(type(measure))
    if resumed is not None:
        prober.resume(resumed)
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_failure(prober, whole, *pipe.recv()))
    shutil.rmtree(folder, ignore_errors=True)


def _failure(prober: Prober, whole: WholeCopy, path: Path, moment: Mapping[str, Any]) -> str:
    """Probe one snapshot: why that failed; empty where it did not."""
    import torch

    try:
        model = whole.holding(torch.load(path, weights_only=True, mmap=True))
        path.unlink()
        prober.after_step(model, force=True, **moment)
    except Exception as error:  # it is told where training is, which goes on
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    _probe_beside(Connection(int(sys.argv[1])))
