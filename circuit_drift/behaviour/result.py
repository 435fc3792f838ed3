"""What a behavioural measure finds in one checkpoint, and what such measures share."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.results.result import Result
from circuit_drift.measures.base import Measure

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = ("value", "low", "high", "n")


@dataclass(frozen=True, slots=True)
class TaskScore:
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


@dataclass(frozen=True, slots=True, repr=False)
class TaskScores(Result):
    """What one checkpoint can do.

    Attributes:
        scores: of every task.
        columns: the numbers that stand for them in a table of downstream scores.
        refused: task -> why it, or how much of it, could not be asked.
        meta: what it was computed from.
    """

    artifact, title = "behaviour", "Behaviour"

    scores: tuple[TaskScore, ...]
    columns: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The numbers of the table, and how many tasks could not be asked in full."""
        told = ", ".join(f"{name} {value:.3g}" for name, value in self.columns.items()) or "nothing could be asked"
        return f"{told}; {len(self.refused)} refused" if self.refused else told

    def to_frame(self) -> "pd.DataFrame":
        """One row a score: task, metric, value, low, high, n."""
        import pandas as pd

        return pd.DataFrame([asdict(score) for score in self.scores], columns=[f.name for f in fields(TaskScore)])

    def _stored(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {
            name: np.array([getattr(score, name) for score in self.scores], dtype=np.float64) for name in _NUMBERS
        }
        arrays["columns"] = np.array(list(self.columns.values()), dtype=np.float64)
        about = {
            "tasks": [[score.task, score.metric] for score in self.scores],
            "columns": list(self.columns),
            "refused": dict(self.refused),
            "meta": dict(self.meta),
        }
        return about, arrays

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "TaskScores":
        numbers = zip(*(arrays[name].tolist() for name in _NUMBERS), strict=True)
        scores = tuple(
            TaskScore(task, metric, value, low, high, int(n))
            for (task, metric), (value, low, high, n) in zip(document["tasks"], numbers, strict=True)
        )
        columns = dict(zip(document["columns"], arrays["columns"].tolist(), strict=True))
        return cls(scores, columns, document["refused"], document["meta"])


class BehaviourMeasure(Measure):
    """A measure of what a checkpoint can do: its numbers are the columns that stand for its tasks."""

    result = TaskScores

    @classmethod
    def reading(cls, result: TaskScores) -> Mapping[str, float]:
        """One number a family of tasks."""
        return result.columns


def interval_of(metric: str, values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean over items with its 95 % interval: of shares within 0 to 1, of an NLL by its spread; NaN below three."""
    from checkpoints.stats.shares import score_interval
    from checkpoints.stats.ttests import skewed_interval

    items = np.array(values, dtype=np.float64)
    low, high = skewed_interval(items) if metric.removesuffix("_before").endswith("nll") else score_interval(items)
    return float(items.mean()), float(low), float(high)
