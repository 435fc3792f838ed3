"""Shares of components over a series, as a value: a table component x interval that adds up to the whole change."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.figure import BLUE, SIGNED, dress
from checkpoints.results.result import Result
from checkpoints.results.strict_json import plain_json
from checkpoints.stats.ttests import skewed_interval
from circuit_drift.explanation.explanation import COMPLETE, Explanation, Floats, clusters, few_told, prompts_counted
from circuit_drift.explanation.explanation_view import WHAT, proof_sentences, why_incomplete
from circuit_drift.explanation.sections import explanation_sections
from circuit_drift.page.page import Figures, Section, write_page

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS = 20
NAMED = 3


@dataclass(frozen=True, repr=False)
class Course(Result):
    """Which components made a behaviour, in which interval of training.

    Attributes:
        checkpoints: labels of the K + 1 checkpoints.
        behaviour: what is explained, and its unit.
        names, kinds, layers: of the C components; layer -1 stands for none.
        shares: [K, N, C] by interval and prompt; positive raises the behaviour.
        values: [K + 1, N] the behaviour at each checkpoint.
        steps: [K] gradients taken; 0 = the behaviour changes there without a gradient, and shares are exact patches.
        needle: N numbers of the needle that each prompt asks for: prompts of one needle are one unit of intervals;
            empty = every prompt is a unit.
        lead: the interval with the largest change, explained and proved; ``None`` = none, or not asked for.
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
    lead: Explanation | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    needle: tuple[int, ...] = ()

    @property
    def intervals(self) -> tuple[str, ...]:
        """From where to where."""
        return tuple(f"{a} → {b}" for a, b in zip(self.checkpoints, self.checkpoints[1:], strict=False))

    @property
    def cluster(self) -> NDArray[np.int64]:
        """[N] which unit a prompt belongs to: its needle, else itself."""
        return clusters(self.needle, self.values.shape[1])

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
    def is_attributed(self) -> bool:
        """Whether shares are integrals of gradients; otherwise what each component does when it alone is put in."""
        return bool(self.steps.all())

    @property
    def leading(self) -> int | None:
        """The interval with the largest mean change of those told apart from none over the prompts; ``None`` = none."""
        changes = np.diff(self.values, axis=0)
        low, high = skewed_interval(changes.T, self.cluster)
        sure = [i for i in range(len(changes)) if low[i] > 0 or high[i] < 0]
        return max(sure, key=lambda i: abs(float(changes[i].mean())), default=None)

    @property
    def verdict(self) -> str:
        """The largest change between two checkpoints, who made it, and what putting that back does."""
        return " ".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        first, last = self.values[0].mean(), self.values[-1].mean()
        yield (
            f"{self.behaviour} goes {first:.3g} → {last:.3g} {self.unit} from {self.checkpoints[0]} to "
            f"{self.checkpoints[-1]}, over {prompts_counted(self.needle, self.values.shape[1])}."
        )
        leading = self.leading
        if leading is None:
            few = few_told(self.needle, self.values.shape[1])
            why = few or "No interval's change is told apart from none over them"
            yield f"{why}, so no component is named."
        else:
            yield self._interval(leading, float(np.diff(self.values, axis=0)[leading].mean()))
        if self.lead is not None:
            yield from proof_sentences(self.lead)
        if not self.is_attributed:
            yield (
                f"{self.behaviour} has no gradient, so nothing is attributed: shares are exact patches, each component "
                "of the later checkpoint put into the earlier alone, and need not add up."
            )
            return
        gap = abs(float(self.means.sum()) - float(last - first))
        yield f"The shares of all intervals miss the whole change by {gap:.2g} {self.unit}."
        lacking = [name for name, gap in zip(self.intervals, self.residuals, strict=True) if gap > COMPLETE]
        if lacking:
            yield f"Not complete to 1 %: {', '.join(lacking)}; {why_incomplete(self.names)}."

    def _interval(self, interval: int, change: float) -> str:
        towards = self.means[interval] * np.sign(change)
        leading = np.argsort(-towards, kind="stable")[:NAMED]
        parts = ", ".join(f"{self.names[c]} {self.means[interval, c]:+.2g}" for c in leading if towards[c] > 0)
        return f"The largest step, {change:+.3g}, is {self.intervals[interval]}; its largest shares: {parts}."

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
            subtitle=f"{WHAT[self.is_attributed]}, interval by interval; mean over prompts",
            height=560,
        )

    def values_frame(self) -> "pd.DataFrame":
        """One row a checkpoint: the behaviour, mean over prompts, with its interval."""
        import pandas as pd

        low, high = skewed_interval(self.values.T, self.cluster)
        return pd.DataFrame({"checkpoint": self.checkpoints, "mean": self.values.mean(1), "low": low, "high": high})

    def plot_values(self) -> "go.Figure":
        """The behaviour at each checkpoint, with its interval over prompts."""
        import plotly.graph_objects as go

        frame = self.values_frame()
        mean, low, high = (frame[name] for name in ("mean", "low", "high"))
        figure = go.Figure(
            go.Scatter(
                x=frame["checkpoint"], y=mean, line={"color": BLUE},
                error_y={"type": "data", "array": high - mean, "arrayminus": mean - low},
            )
        )  # fmt: skip
        figure.update_xaxes(title="checkpoint", type="category")
        figure.update_yaxes(title=self.unit)
        return dress(figure, title=f"{self.behaviour} over training", subtitle="mean over prompts, with its interval")

    def sections(self) -> Iterator[Section]:
        """Who made it and when, the behaviour itself, and the interval that was proved."""
        how = {
            True: "Integrated gradients along the straight line from each checkpoint's weights to the next one's",
            False: "Exact patches: what a component of the later checkpoint changes when it alone is put in",
        }
        yield Section(
            "course",
            f"Who made the {self.behaviour}, and when",
            figure=self.plot(),
            caption=f"{how[self.is_attributed]}; red raises the behaviour, blue lowers it; the {ROWS} components with "
            "the largest shares, all of them in the table. Mean over prompts.",
            frame=self.to_frame(),
        )
        yield Section("values", self.behaviour, figure=self.plot_values(), frame=self.values_frame())
        if self.lead is not None:
            yield from explanation_sections(self.lead, anchor="lead")

    def write_html(self, path: Path | str, *, figures: Figures = "interactive") -> Path:
        """Write a self-contained page; ``figures="svg"`` for pictures (the extra ``images``).

        Raises:
            StoreError: the file cannot be written.
            DriftError: pictures without kaleido or a browser.
        """
        lead, *others = self.sections()
        settings = {"checkpoints": ", ".join(self.checkpoints), "prompts": self.values.shape[1]}
        settings |= {"gradients": ", ".join(map(str, self.steps)), **self.meta}
        return write_page(
            path,
            title=f"{self.title}: {self.behaviour}",
            subtitle=f"{self.checkpoints[0]} → {self.checkpoints[-1]}",
            verdict=list(self._sentences()),
            warnings=(),
            lead=lead,
            sections=[replace(section, chapter="What changed and why") for section in others],
            provenance=[
                (name.replace("_", " "), str(value)) for name, value in settings.items() if name != "n_prompts"
            ],
            figures=figures,
        )

    def to_json(self) -> dict[str, Any]:
        """One JSON object: verdict, values at checkpoints, shares by interval."""
        document: dict[str, Any] = plain_json(
            {
                "behaviour": self.behaviour,
                "unit": self.unit,
                "verdict": list(self._sentences()),
                "attributed": self.is_attributed,
                "checkpoints": self.checkpoints,
                "values": self.values.mean(1),
                "residuals": self.residuals,
                "gradients": self.steps,
                "shares": self.to_frame().to_dict("records"),
                "lead": None if self.lead is None else self.lead.to_json(),
            }
        )
        return document
