"""What checkpoints can do, by step: the table of downstream scores that a monitor is compared with.

A behavioural measure (`sft.SftMeasure`, `harness.HarnessMeasure`) runs through the sweep like every other measure: its
results lie in the store, a killed run goes on, workers share it. Reading and writing tables needs no torch.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints import BadPrompt, DriftError, Series, StoreError
from checkpoints.files.reading import read_frame
from checkpoints.loading.load import DeviceMap
from checkpoints.results.artifacts import read_artifact, write_artifact
from checkpoints.results.disk import write_file
from circuit_drift.measures.measures import ATTENTION, Measure, stored_result
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors import Executor, Workforce, execute
from circuit_drift.sweep.workers.progress import Progress
from circuit_drift.sweep.workers.tasks import Sweep

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

KIND = "behaviour"


@dataclass(frozen=True, slots=True)
class Score:
    """One score of one task.

    Attributes:
        task: what was asked.
        metric: how it was scored.
        value: mean over its items.
        low: lower end of its 95 % interval; NaN where the method gives none.
        high: upper end.
        n: items.
    """

    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one checkpoint can do.

    Attributes:
        scores: of every task.
        columns: the numbers that stand for them in a table of downstream scores.
        refused: task -> why it, or how much of it, could not be asked.
        meta: what it was computed from.
    """

    scores: tuple[Score, ...]
    columns: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Write it to a folder, atomically."""
        names = ("value", "low", "high", "n")
        arrays = {name: np.array([getattr(score, name) for score in self.scores], dtype=np.float64) for name in names}
        arrays["columns"] = np.array(list(self.columns.values()), dtype=np.float64)
        about = {
            "tasks": [[score.task, score.metric] for score in self.scores],
            "columns": list(self.columns),
            "refused": dict(self.refused),
            "meta": dict(self.meta),
        }
        return write_artifact(folder, KIND, about, arrays)

    @classmethod
    def load(cls, folder: Path | str) -> "Behaviour":
        """Read what `save` wrote.

        Raises:
            StoreError: nothing there, damaged, or of another kind.
        """
        about, arrays = read_artifact(folder, KIND)
        numbers = zip(*(arrays[name].tolist() for name in ("value", "low", "high", "n")), strict=True)
        scores = tuple(
            Score(task, metric, value, low, high, int(n))
            for (task, metric), (value, low, high, n) in zip(about["tasks"], numbers, strict=True)
        )
        columns = dict(zip(about["columns"], arrays["columns"].tolist(), strict=True))
        return cls(scores, columns, about["refused"], about["meta"])


@dataclass(frozen=True, slots=True)
class BehaviourTable:
    """The behaviour of a series' checkpoints.

    Attributes:
        points: (step, behaviour) in order.
        failures: checkpoint -> why it has none.
    """

    points: tuple[tuple[int, Behaviour], ...]
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each step, task and metric, with intervals."""
        import pandas as pd

        return pd.DataFrame([{"step": step, **asdict(score)} for step, found in self.points for score in found.scores])

    def downstream(self) -> "pd.DataFrame":
        """One row a step, one column a downstream score; empty where a task could not be asked."""
        import pandas as pd

        return pd.DataFrame([{"step": step, **found.columns} for step, found in self.points])

    def to_downstream(self) -> dict[str, dict[int, float]]:
        """Column -> {step: value}, as `heads.monitor` takes it."""
        names = dict.fromkeys(name for _, found in self.points for name in found.columns)
        return {name: {step: found.columns[name] for step, found in self.points if name in found.columns}
                for name in names}  # fmt: skip

    def write_csv(self, path: Path | str) -> Path:
        """Write the downstream scores as CSV, beside the columns that are there already, joined by step.

        Raises:
            StoreError: the file cannot be read or written, or has no ``step`` column.
        """
        path, frame = Path(path), self.downstream()
        try:
            if path.is_file():
                before = read_frame(path, "downstream scores", StoreError)
                if "step" not in before:
                    raise StoreError(f"{path} has no column step, so nothing can be joined to it; name another file")
                others = before.drop(columns=[name for name in frame if name != "step" and name in before])
                frame = others.merge(frame, on="step", how="outer").sort_values("step")
            write_file(path, frame.to_csv(index=False, float_format="%.6g"))
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot write downstream scores to {path}: {error}") from error
        return path

    def _repr_html_(self) -> str:
        return str(self.downstream().to_html(index=False, float_format="{:.3g}".format))


def measure_behaviour(
    series: Series,
    measure: Measure,
    *,
    store: Store | Path | str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    attention: str = ATTENTION,
    device_map: DeviceMap | None = None,
    executor: Executor = "serial",
    workers: int | None = None,
    progress: bool = True,
) -> BehaviourTable:
    """Take one behavioural measure of every checkpoint of a series; what is stored already is not computed again.

    Args:
        series: checkpoints with steps.
        measure: what to take.
        store: where results are kept and looked up first; by default the usual store.
        device: a torch device, or ``auto``.
        dtype: of weights and passes.
        attention: transformers' attention implementation.
        device_map: in place of `device`, for models that are larger than one.
        executor: where the workers run (`circuit_drift.run`).
        workers: how many.
        progress: show progress bars where there is a terminal or a notebook.

    Raises:
        BadPrompt: a checkpoint has no step, or two have the same.
        DriftError: no checkpoint could be measured; gives the reasons.
    """
    steps = _steps(series)
    store = store if isinstance(store, Store) else Store.open(store)
    sweep = Sweep.of(
        series.checkpoints,
        [measure],
        store,
        device=device,
        dtype=dtype,
        attention=attention,
        device_map=device_map,
    )
    points: dict[int, Behaviour] = {}
    failures: dict[str, str] = {}
    try:
        with Progress(sweep, wanted=progress) as bars:
            for outcome in execute(sweep, executor, Workforce(workers), bars):
                bars.finished(outcome)
                if measure.name in outcome.keys:
                    points[steps[outcome.index]] = stored_result(store, measure.name, outcome.keys[measure.name])
                for reason in outcome.failures.values():
                    failures[series[outcome.index].name] = reason
    finally:
        sweep.journal.close()
    if not points:
        reasons = "; ".join(dict.fromkeys(failures.values()))
        raise DriftError(f"{measure.name} could be measured on no checkpoint of {series.name}: {reasons}")
    for name, reason in failures.items():
        logger.warning("%s of %s: %s", measure.name, name, reason)
    for task, reason in {task: why for found in points.values() for task, why in found.refused.items()}.items():
        logger.warning("%s could not ask all of %s: %s", measure.name, task, reason)
    return BehaviourTable(tuple(sorted(points.items())), failures)


def _steps(series: Series) -> list[int]:
    steps: list[int] = []
    for checkpoint in series:
        if checkpoint.step is None or checkpoint.step in steps:
            why = "has no step" if checkpoint.step is None else f"has the step {checkpoint.step} of another one"
            raise BadPrompt(
                f"{checkpoint.name} {why}, so it has no row of its own in a table; select one line of steps"
            )
        steps.append(checkpoint.step)
    return steps


def interval_of(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over items."""
    from heads.scores.stats import bootstrap

    items = np.array(values, dtype=np.float64)
    low, high = bootstrap(items)
    return float(items.mean()), float(low), float(high)
