"""Shares of components over a series, as a value: a table component x interval that adds up to the whole change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.figure import SIGNED, dress
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from checkpoints.stats.bootstrap import bootstrap

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Floats = NDArray[np.float64]
ROWS = 20
NAMED = 3
COMPLETE = 0.01


@dataclass(frozen=True, repr=False)
class Course(Result):
    """Which components made a behaviour, in which interval of training.

    Attributes:
        checkpoints: labels of the K + 1 checkpoints.
        behaviour: what is explained, and its unit.
        names, kinds, layers: of the C components; layer -1 stands for none.
        shares: [K, N, C] by interval and prompt; positive raises the behaviour.
        values: [K + 1, N] the behaviour at each checkpoint.
        steps: [K] gradients taken.
        meta: prompts and settings.
    """

    artifact: ClassVar[str] = "course"
    title: ClassVar[str] = "Who made it, and when"

    checkpoints: tuple[str, ...]
    behaviour: str
    unit: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    shares: Floats
    values: Floats
    steps: NDArray[np.int64]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def intervals(self) -> tuple[str, ...]:
        """From where to where."""
        return tuple(f"{a} → {b}" for a, b in zip(self.checkpoints, self.checkpoints[1:], strict=False))

    @property
    def means(self) -> Floats:
        """[K, C] shares, mean over prompts."""
        return np.asarray(self.shares.mean(1))

    @property
    def residuals(self) -> Floats:
        """[K] mean gap between a prompt's shares and its change, over the mean size of the changes; 0 = complete."""
        change = np.diff(self.values, axis=0)
        gap, size = np.abs(self.shares.sum(2) - change).mean(1), np.abs(change).mean(1)
        return np.asarray(np.divide(gap, size, out=np.where(gap > 0, np.inf, 0.0), where=size > 0))

    @property
    def verdict(self) -> str:
        """The largest change between two checkpoints, and who made it."""
        first, last = self.values[0].mean(), self.values[-1].mean()
        told = [
            f"{self.behaviour} goes {first:.3g} → {last:.3g} {self.unit} from {self.checkpoints[0]} to "
            f"{self.checkpoints[-1]}, over {counted(self.values.shape[1], 'prompt')}."
        ]
        changes = np.diff(self.values, axis=0)
        low, high = bootstrap(changes.T)
        for interval in sorted(range(len(changes)), key=lambda i: -abs(float(changes[i].mean()))):
            if low[interval] > 0 or high[interval] < 0:
                told.append(self._interval(interval, float(changes[interval].mean())))
                break
        else:
            told.append("No interval's change is told apart from none over the prompts, so no component is named.")
        lacking = [name for name, gap in zip(self.intervals, self.residuals, strict=True) if gap > COMPLETE]
        gap = abs(float(self.means.sum()) - float(last - first))
        told.append(f"The shares of all intervals miss the whole change by {gap:.2g} {self.unit}.")
        if lacking:
            told.append(f"Not complete to 1 %: {', '.join(lacking)}.")
        return " ".join(told)

    def _interval(self, interval: int, change: float) -> str:
        towards = self.means[interval] * np.sign(change)
        leading = np.argsort(-towards, kind="stable")[:NAMED]
        parts = ", ".join(f"{self.names[c]} {self.means[interval, c]:+.2g}" for c in leading if towards[c] > 0)
        return f"Most of it, {change:+.3g}, lies in {self.intervals[interval]}; its largest shares: {parts}."

    def to_frame(self) -> "pd.DataFrame":
        """One row a component, the largest shares of any interval first; a column an interval, and their sum."""
        import pandas as pd

        means = self.means
        order = np.argsort(-np.abs(means).max(0), kind="stable")
        frame = pd.DataFrame(
            {
                "component": [self.names[c] for c in order],
                "kind": [self.kinds[c] for c in order],
                "layer": pd.Series([None if self.layers[c] < 0 else self.layers[c] for c in order], dtype=object),
            }
        )
        for name, row in zip(self.intervals, means, strict=True):
            frame[name] = row[order]
        frame["sum"] = means.sum(0)[order]
        return frame

    def plot(self) -> "go.Figure":
        """Component x interval: red raises the behaviour, blue lowers it."""
        import plotly.graph_objects as go

        frame = self.to_frame().head(ROWS).iloc[::-1]
        values = frame[list(self.intervals)].to_numpy()
        reach = float(np.abs(values).max()) or 1.0
        figure = go.Figure(
            go.Heatmap(
                x=list(self.intervals), y=frame["component"], z=values, colorscale=SIGNED, zmin=-reach, zmax=reach,
                colorbar={"title": self.unit},
            )
        )  # fmt: skip
        figure.update_xaxes(title="interval between checkpoints", type="category")
        return dress(
            figure,
            title=f"Who made the {self.behaviour}, and when",
            subtitle="share of each component's weights in the change of each interval, mean over prompts",
            height=560,
        )

    def to_json(self) -> dict[str, Any]:
        """One JSON object: verdict, values at checkpoints, shares by interval."""
        frame = self.to_frame()
        return {
            "behaviour": self.behaviour,
            "unit": self.unit,
            "verdict": self.verdict,
            "checkpoints": list(self.checkpoints),
            "values": [float(value) for value in self.values.mean(1)],
            "residuals": [float(value) for value in self.residuals],
            "gradients": [int(value) for value in self.steps],
            "shares": [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)],
        }
