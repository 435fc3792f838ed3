"""What a behavioural measure finds in one checkpoint, and what such measures share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.results.artifacts import read_artifact, write_artifact
from circuit_drift.measures.base import Measure

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


class BehaviourMeasure(Measure):
    """A measure of what a checkpoint can do: its numbers are the columns that stand for its tasks."""

    result = Behaviour

    @classmethod
    def reading(cls, result: Behaviour) -> Mapping[str, float]:
        """One number a family of tasks."""
        return result.columns


def interval_of(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over items."""
    from checkpoints.stats.bootstrap import bootstrap

    items = np.array(values, dtype=np.float64)
    low, high = bootstrap(items)
    return float(items.mean()), float(low), float(high)
