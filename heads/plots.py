"""Figures of retrieval scores; each function returns a plotly figure and shows nothing."""

from typing import TYPE_CHECKING

import numpy as np

from heads.stats import Floats, nanmean

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.comparison import HeadComparison
    from heads.scores import RetrievalScores


def plot_scores(scores: "RetrievalScores", *, by: str = "copy") -> "go.Figure":
    """Heat map of a detector's mean, layer on y (input at the bottom), head on x."""
    mean = nanmean(scores.detector(by))
    low, high = (0.0, 1.0) if by != "entropy" else (0.0, float(np.nanmax(mean)))
    best = scores.top(1, by=by)
    title = f"{by}: {best[0].name} leads with {best[0].score.value:.2f}" if best else f"{by}: not applicable"
    about = f"mean over {len(scores)} prompts of {scores.meta['length']} tokens; blank = not applicable"
    return _heat_map(mean, f"{title}<br><sup>{about}</sup>", scale="Viridis", low=low, high=high)


def plot_comparison(comparison: "HeadComparison") -> "go.Figure":
    """Heat map of the change B - A, significant heads outlined."""
    import plotly.graph_objects as go

    reach = max(float(np.nanmax(np.abs(comparison.delta), initial=0.0)), 0.01)
    title = f"{comparison.n_significant} heads changed their retrieval score"
    about = f"change B - A over {comparison.n} {comparison.unit}s; circled: q <= {comparison.level}"
    figure = _heat_map(comparison.delta, f"{title}<br><sup>{about}</sup>", scale="RdBu_r", low=-reach, high=reach)
    layers, heads = np.nonzero(comparison.q <= comparison.level)
    ring = {"symbol": "circle-open", "size": 12, "color": "black", "line": {"width": 2}}
    figure.add_trace(go.Scatter(x=heads, y=layers, mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    return figure


def _heat_map(values: Floats, title: str, *, scale: str, low: float, high: float) -> "go.Figure":
    import plotly.graph_objects as go

    heat = go.Heatmap(
        z=values.astype(np.float32),
        zmin=low,
        zmax=high,
        colorscale=scale,
        hovertemplate="a%{y}.h%{x}: %{z:.3f}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_layout(title=title, template="plotly_white", plot_bgcolor="#eeeeee")
    figure.update_xaxes(title="head", dtick=max(1, values.shape[1] // 16))
    figure.update_yaxes(title="layer", dtick=max(1, values.shape[0] // 16))
    return figure
