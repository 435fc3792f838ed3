"""The circuits of a series of checkpoints as a value: numpy only, saved and loaded without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.result import Result
from checkpoints.stats.units import Floats
from circuits.comparison.profile import PROFILES
from circuits.graph.shape import Bools, GraphShape
from circuits.tracking.changepoints import Split
from circuits.tracking.contrasts import Contrast

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

REFERENCES = ("previous", "first", "last")


@dataclass(frozen=True, slots=True)
class Phase:
    """Checkpoints between two change points.

    Attributes:
        start, stop: positions of its first checkpoint and of the first one after it.
        first, last: steps of its first and its last checkpoint.
        likeness: mean noise-corrected cosine between its checkpoints; NaN for a single one.
    """

    start: int
    stop: int
    first: int
    last: int
    likeness: float


@dataclass(frozen=True, repr=False)
class CircuitTrack(Result):
    """The circuits of T checkpoints.

    Attributes:
        steps: T steps, in order.
        shape: the graph.
        n_edges: size that the circuits are pruned from.
        likeness: [T, T] cosine between mean scores, corrected for prompt noise: 1 = the same up to strength; NaN where
            a checkpoint's scores are nothing but noise.
        reliability: [T] share of each mean's squared length that is not prompt noise.
        similarity: [T, 3, 4] Jaccard of the circuits to the previous, first and last checkpoint: between all facts,
            between halves of the facts across the two, between halves within one (the floor) and its 5th percentile.
        edges: [T, E] which edges are in each circuit.
        nodes: [T, F] which writers are.
        node_scores, node_errors: [T, F] mean scores of the writers and their standard errors over the units.
        profile: [T, 4] the numbers of `circuits.comparison.profile.PROFILES`.
        change_points: where the series falls in stretches, each with interval and p.
        metric: [T, 2] mean metric, clean and corrupt.
        contrasts: what each stage did that begins inside the series, asked without looking for it.
        meta: method, metric and the other settings all graphs were made with.
    """

    artifact = "evolution"  # as earlier versions, whose results are read
    title = "Circuit over training"

    steps: tuple[int, ...]
    shape: GraphShape
    n_edges: int
    likeness: Floats
    reliability: Floats
    similarity: Floats
    edges: Bools
    nodes: Bools
    node_scores: Floats
    node_errors: Floats
    profile: Floats
    change_points: tuple[Split, ...]
    metric: Floats
    contrasts: tuple[Contrast, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def births(self) -> NDArray[np.integer]:
        """[T] edges in the circuit that were not in the one before; 0 for the first."""
        return np.array([0, *(np.count_nonzero(now & ~before) for before, now in pairwise(self.edges))])

    @property
    def deaths(self) -> NDArray[np.integer]:
        """[T] edges of the circuit before that are gone; 0 for the first."""
        return np.array([0, *(np.count_nonzero(before & ~now) for before, now in pairwise(self.edges))])

    @property
    def node_births(self) -> tuple[tuple[str, ...], ...]:
        """T tuples of writers that entered the circuit."""
        return ((), *(self._names(now & ~before) for before, now in pairwise(self.nodes)))

    @property
    def node_deaths(self) -> tuple[tuple[str, ...], ...]:
        """T tuples of writers that left the circuit."""
        return ((), *(self._names(before & ~now) for before, now in pairwise(self.nodes)))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The stretches between change points."""
        bounds = [0, *(split.index for split in self.change_points), len(self)]
        return tuple(self._phase(start, stop) for start, stop in pairwise(bounds))

    @property
    def landmarks(self) -> tuple[int, ...]:
        """Steps worth looking at: the first, the last, and both sides of every change point."""
        places = {0, len(self) - 1}
        for split in self.change_points:
            places |= {split.index - 1, split.index}
        return tuple(self.steps[i] for i in sorted(places))

    @property
    def verdict(self) -> str:
        """When the circuit changed, and how stable it is at the end."""
        from circuits.tracking.circuit_track_view import circuit_track_verdict

        return circuit_track_verdict(self)

    def lineage(self, k: int = 20) -> "pd.DataFrame":
        """Scores of the k writers of largest peak, one row a writer, one column a step."""
        return self._leading(self.node_scores, k)

    def lineage_errors(self, k: int = 20) -> "pd.DataFrame":
        """Standard errors of the scores of `lineage`, in the same places."""
        return self._leading(self.node_errors, k)

    def to_frame(self) -> "pd.DataFrame":
        """One row a checkpoint.

        Columns: step, phase, clean_metric, corrupt_metric, reliability; for each of previous, first and last: the
        Jaccard of the circuits, its value between halves across the two and within one, and the 5th percentile of the
        latter; births, deaths, the profile.
        """
        import pandas as pd

        phase = np.zeros(len(self), dtype=int)
        for split in self.change_points:
            phase[split.index :] += 1
        frame: dict[str, Any] = {"step": self.steps, "phase": phase}
        frame |= {"clean_metric": self.metric[:, 0], "corrupt_metric": self.metric[:, 1]}
        frame["reliability"] = self.reliability
        for i, reference in enumerate(REFERENCES):
            for j, suffix in enumerate(("", "_across", "_within", "_within_low")):
                frame[f"jaccard_{reference}{suffix}"] = self.similarity[:, i, j]
        frame |= {"births": self.births, "deaths": self.deaths}
        frame |= {name: self.profile[:, i] for i, name in enumerate(PROFILES)}
        return pd.DataFrame(frame)

    def contrast_frame(self) -> "pd.DataFrame":
        """One row a stage and class of facts, with the fields of `circuits.tracking.contrasts.Contrast`."""
        import pandas as pd

        return pd.DataFrame([asdict(contrast) for contrast in self.contrasts])

    def plot(self) -> "go.Figure":
        """Overlap with the previous and the last circuit over the series, beside the noise floor."""
        from circuits.tracking.circuit_track_view import circuit_track_figure

        return circuit_track_figure(self)

    def plot_likeness(self) -> "go.Figure":
        """Every checkpoint against every other."""
        from circuits.tracking.circuit_track_view import likeness_figure

        return likeness_figure(self)

    def plot_lineage(self, k: int = 20) -> "go.Figure":
        """Scores of the leading writers over the series."""
        from circuits.tracking.circuit_track_view import lineage_figure

        return lineage_figure(self, k)

    def _leading(self, values: Floats, k: int) -> "pd.DataFrame":
        """Values [T, F] of the k writers of largest peak."""
        import pandas as pd

        leading = np.argsort(-np.abs(self.node_scores).max(0), kind="stable")[:k]
        names = [self.shape.writers[i] for i in leading]
        return pd.DataFrame(values[:, leading].T, index=pd.Index(names, name="node"), columns=self.steps)

    def _names(self, chosen: Bools) -> tuple[str, ...]:
        return tuple(self.shape.writers[i] for i in np.flatnonzero(chosen))

    def _phase(self, start: int, stop: int) -> Phase:
        inside = self.likeness[start:stop, start:stop]
        apart = inside[~np.eye(len(inside), dtype=bool)]
        likeness = float(np.nanmean(apart)) if np.isfinite(apart).any() else float("nan")
        return Phase(start, stop, self.steps[start], self.steps[stop - 1], likeness)

    def _table(self) -> str:
        return str(self.to_frame().to_html(index=False, border=0, float_format=lambda x: f"{x:.3g}"))
