"""The loggers that are known, each through its own library, imported when it is asked for.

All write to a folder. Nothing leaves the machine unless the library itself is told so by its own settings
(``WANDB_MODE=online``, the address of an MLflow server as the place).
"""

import os
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from checkpoints.errors import DriftError

_ODD = re.compile(r"[^\w. /-]")


class TensorBoard:
    """Event files in ``DIR/RUN``, by torch's writer, or by tensorboardX where tensorboard is not installed."""

    def __init__(self, place: str) -> None:
        try:
            self._library = import_module("torch.utils.tensorboard")
        except ModuleNotFoundError:
            self._library = _installed("tensorboardX", kind="tensorboard", package="tensorboard")
        self._place = Path(place).expanduser()
        self._writers: dict[str, Any] = {}

    def log(self, run: str, step: int, numbers: Mapping[str, float]) -> None:
        """Scalars, on the disk when it returns."""
        writer = self._writers.get(run)
        if writer is None:
            writer = self._writers[run] = self._library.SummaryWriter(str(self._place.joinpath(*_folders(run))))
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """Offline runs in ``DIR/wandb``, which ``wandb sync`` sends; ``WANDB_MODE`` and ``WANDB_PROJECT`` are heeded."""

    def __init__(self, place: str) -> None:
        self._library = _installed("wandb", kind="wandb", package="wandb")
        self._place = Path(place).expanduser()
        self._runs: dict[str, Any] = {}

    def log(self, run: str, step: int, numbers: Mapping[str, float]) -> None:
        """One row, over an axis ``step`` of its own, since W&B's steps cannot come in any order."""
        if not numbers:
            return
        opened = self._runs.get(run)
        if opened is None:
            opened = self._runs[run] = self._begin(run)
        opened.log({"step": step, **numbers})

    def _begin(self, run: str) -> Any:
        self._place.mkdir(parents=True, exist_ok=True)
        begun = self._library.init(
            project=os.environ.get("WANDB_PROJECT", "circuit-drift"),
            name=run,
            dir=str(self._place),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=self._library.Settings(silent=True, console="off"),
        )
        begun.define_metric("step")
        begun.define_metric("*", step_metric="step")
        return begun

    def close(self) -> None:
        """Finish the runs."""
        for run in self._runs.values():
            run.finish()


class MLflow:
    """Runs of the experiment ``circuit-drift`` in a folder, a database (``sqlite:///...``) or on a server."""

    def __init__(self, place: str) -> None:
        library = _installed("mlflow", kind="mlflow", package="mlflow-skinny")
        address = place
        if not re.match(r"\w+(\+\w+)?://", place):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 refuses without
            address = Path(place).expanduser().resolve().as_uri()
        self._client = library.MlflowClient(tracking_uri=address)
        self._runs: dict[str, str] = {}

    def log(self, run: str, step: int, numbers: Mapping[str, float]) -> None:
        """Metrics by step."""
        if run not in self._runs:
            self._runs[run] = self._client.create_run(self._experiment(), run_name=run).info.run_id
        for name, value in numbers.items():
            self._client.log_metric(self._runs[run], _ODD.sub("_", name), value, step=step)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name("circuit-drift")
        return str(found.experiment_id if found else self._client.create_experiment("circuit-drift"))

    def close(self) -> None:
        """Mark the runs as finished."""
        for run in self._runs.values():
            self._client.set_terminated(run)


BACKENDS: Mapping[str, Callable[[str], "TensorBoard | WeightsAndBiases | MLflow"]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def _folders(run: str) -> list[str]:
    """A run's name as folders below a place, never above or beside it."""
    return [_ODD.sub("_", part).strip(". ") or "_" for part in run.split("/")]


def _installed(module: str, *, kind: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise DriftError(
            f"the tracker {kind} needs the package {package}, which is not installed: pip install "
            f"'circuit-drift[{kind}]'"
        ) from error
