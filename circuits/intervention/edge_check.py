"""Attributed edges put to the test: the strongest ones and as many random others, each really patched."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.model.plain import takes_model
from checkpoints.results.figure import BLUE, GREY, dress
from checkpoints.results.result import Result
from checkpoints.stats.units import Floats
from circuits.graph.circuit import Circuit
from circuits.graph.scores import AttributionGraph

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

    from circuits.attribution.gqa import KeyValue
    from circuits.facts.facts import FactSet


@dataclass(frozen=True, repr=False)
class EdgeCheck(Result):
    """What patching E edges one at a time does to the metric, beside what attribution said.

    Attributes:
        edges: their names, the strongest first, then the random ones.
        strongest: [E] whether an edge was taken for its score, or drawn from the others.
        attributed: [E] mean attribution score, in the metric's unit.
        exact: [N, E] metric with that edge alone carrying the corrupt run's value, minus the clean metric.
        meta: metric, prompt hash, seed.
    """

    artifact, title = "edge_check", "Edges patched"

    edges: tuple[str, ...]
    strongest: np.ndarray
    attributed: Floats
    exact: Floats
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> Floats:
        """[E] exact effect, mean over the facts."""
        return np.asarray(self.exact.mean(axis=0))

    @property
    def pearson(self) -> float:
        """Correlation of attributed and exact effects over all E edges; NaN where one of them does not vary."""
        x, y = self.attributed - self.attributed.mean(), self.mean - self.mean.mean()
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        return float(x @ y / norm) if norm else float("nan")

    @property
    def sizes(self) -> tuple[float, float]:
        """Mean |exact effect| of the strongest edges, and of the random ones."""
        size = np.abs(self.mean)
        return float(size[self.strongest].mean()), float(size[~self.strongest].mean())

    @property
    def verdict(self) -> str:
        """How well attribution foretold the patches."""
        (top, other), metric = self.sizes, self.meta.get("metric", "metric")
        return (
            f"{int(self.strongest.sum())} strongest edges change the {metric} by {top:.3g} on average when "
            f"patched, as many random ones by {other:.3g}; attributed against exact r = {self.pearson:.2f}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row an edge: edge, strongest, attributed, exact, its standard error over the facts."""
        import pandas as pd

        error = self.exact.std(axis=0, ddof=1) / np.sqrt(len(self.exact)) if len(self.exact) > 1 else np.nan
        columns = {"edge": self.edges, "strongest": self.strongest, "attributed": self.attributed}
        return pd.DataFrame({**columns, "exact": self.mean, "stderr": error})

    def plot(self) -> "go.Figure":
        """Exact against attributed effect, an edge a mark; on the dotted line they agree."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for name, chosen, colour in (("strongest", self.strongest, BLUE), ("random", ~self.strongest, GREY)):
            marks = {
                "x": self.attributed[chosen],
                "y": self.mean[chosen],
                "text": np.array(self.edges)[chosen].tolist(),
            }
            figure.add_scatter(name=f"{name} edges", mode="markers", marker={"color": colour}, **marks)
        both = np.concatenate([self.attributed, self.mean])
        ends = [float(both.min()), float(both.max())]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": GREY, "dash": "dot"})
        metric = self.meta.get("metric", "metric")
        figure.update_xaxes(title_text=f"attributed change of the {metric}")
        figure.update_yaxes(title_text="exact change")
        return dress(figure, title=self.verdict, subtitle="a mark an edge, each patched alone; mean over the facts")


@takes_model
def check_edges(
    model: "PreTrainedModel", graph: AttributionGraph, facts: "FactSet", *, count: int = 20, seed: int = 0
) -> EdgeCheck:
    """Patch the strongest edges of a graph and as many random others, each alone and exactly.

    Args:
        model: the one that the graph was made of.
        graph: its attribution, under the corrupt prompts.
        facts: what it was made on.
        count: how many of the strongest edges; as many others, as far as there are any.
        seed: of the random ones.

    Raises:
        BadPrompt: no edge to patch.
    """
    from circuits.intervention.exact import exact_edges

    if count < 1:
        raise BadPrompt(f"patch one edge at least, got {count}")
    names, metric = np.array(graph.edge_names), graph.readout
    scores = graph.mean[graph.mask]
    order = np.argsort(-np.abs(scores), kind="stable")
    first, rest = order[:count], order[count:]
    drawn = np.random.default_rng(seed).choice(rest, size=min(count, len(rest)), replace=False)
    chosen = np.concatenate([first, drawn])
    kv: KeyValue = "query heads" if graph.shape.n_kv_heads == graph.shape.n_heads else "groups"
    patched = exact_edges(model, facts, edges=names[chosen].tolist(), metric=metric, kv=kv)
    places = {name: place for place, name in enumerate(Circuit(patched.shape, patched.mask).edges)}
    columns = [places[name] for name in names[chosen]]
    return EdgeCheck(
        edges=tuple(names[chosen].tolist()),
        strongest=np.arange(len(chosen)) < len(first),
        attributed=scores[chosen],
        exact=patched.edge_scores[:, columns],
        meta={"metric": metric, "prompts": facts.hash, "method": graph.meta.get("method"), "seed": seed},
    )
