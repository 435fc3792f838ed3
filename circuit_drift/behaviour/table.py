"""What checkpoints can do, by step: the table of downstream scores that tracked heads are compared with.

A behavioural measure (`sft.SftMeasure`, `harness.HarnessMeasure`) runs through the sweep like every other measure: its
results lie in the store, a killed run goes on, workers share it. Reading and writing tables needs no torch.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError, Series
from checkpoints.errors import BadPrompt, StoreError
from checkpoints.files.reading import read_frame
from checkpoints.results.disk import write_file
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from circuit_drift.behaviour.result import BehaviourMeasure, TaskScores
from circuit_drift.record.record import Point
from circuit_drift.store.store import Store
from circuit_drift.sweep.sweep import measure_each

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class BehaviourTable(Result):
    """The behaviour of a series' checkpoints.

    Attributes:
        points: (step, behaviour) in order.
        failures: checkpoint -> why it has none.
    """

    artifact, title = "behaviour_table", "Downstream scores"

    points: tuple[tuple[int, TaskScores], ...]
    failures: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, points: Iterable[Point], measure: str) -> "BehaviourTable":
        """The table of one behavioural measure over measured points with steps, as of a run.

        Raises:
            DriftError: no point has a result of it; gives the reasons.
        """
        found = list(points)
        measured = [(p.step, p.results[measure]) for p in found if measure in p.results and p.step is not None]
        failures = {point.name: point.failures[measure] for point in found if measure in point.failures}
        if not measured:
            reasons = "; ".join(dict.fromkeys(failures.values())) or "it was not asked for"
            raise DriftError(f"{measure} could be measured on no checkpoint: {reasons}")
        for task, why in {task: why for _, result in measured for task, why in result.refused.items()}.items():
            logger.warning("%s could not ask all of %s: %s", measure, task, why)
        return cls(tuple(sorted(measured, key=itemgetter(0))), failures)

    def to_frame(self) -> "pd.DataFrame":
        """One row for each step, task and metric, with intervals."""
        import pandas as pd

        return pd.DataFrame([{"step": step, **asdict(score)} for step, found in self.points for score in found.scores])

    @property
    def verdict(self) -> str:
        """Each score at the first and the last step, and how many checkpoints have none."""
        if not self.points:
            return "no checkpoint was measured"
        (first, before), (last, after) = self.points[0], self.points[-1]
        where = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
        moves = (
            f"{name} {value:.3g}" + ("" if first == last else f" to {after.columns.get(name, float('nan')):.3g}")
            for name, value in before.columns.items()
        )
        missed = f"; {counted(len(self.failures), 'checkpoint')} not measured" if self.failures else ""
        return f"{where}: {', '.join(moves) or 'nothing could be asked'}{missed}"

    def downstream(self) -> "pd.DataFrame":
        """One row a step, one column a downstream score; empty where a task could not be asked."""
        import pandas as pd

        return pd.DataFrame([{"step": step, **found.columns} for step, found in self.points])

    def to_downstream(self) -> dict[str, dict[int, float]]:
        """Column -> {step: value}, as `heads.track` takes it."""
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

    def _table(self) -> str:
        return str(self.downstream().to_html(index=False, float_format="{:.3g}".format))


def behaviour_table(series: Series, measure: BehaviourMeasure, **options: Any) -> BehaviourTable:
    """Take one behavioural measure of every checkpoint of a series, as `circuit_drift.run` does, for a table.

    Args:
        series: checkpoints with steps.
        measure: what to take.
        options: store, placement and progress, as of `circuit_drift.run`.

    Raises:
        BadPrompt: a checkpoint has no step, or two have the same.
        DriftError: no checkpoint could be measured; gives the reasons.
    """
    _check_steps(series)
    store = options.pop("store", None)
    store = store if isinstance(store, Store) else Store.open(store)
    return BehaviourTable.of(
        list(measure_each(series.checkpoints, store, None, measures=[measure], **options)), measure.name
    )


def _check_steps(series: Series) -> None:
    steps: list[int] = []
    for checkpoint in series:
        if checkpoint.step is None or checkpoint.step in steps:
            why = "has no step" if checkpoint.step is None else f"has the step {checkpoint.step} of another one"
            raise BadPrompt(
                f"{checkpoint.name} {why}, so it has no row of its own in a table; select one line of steps"
            )
        steps.append(checkpoint.step)
