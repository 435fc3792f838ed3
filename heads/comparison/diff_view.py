"""The change of every head as a heat map; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import SIGNED, dress
from checkpoints.results.text import counted
from heads.scores.scores_view import heat_map

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.comparison.diff import HeadDiff


def plot_comparison(comparison: "HeadDiff") -> "go.Figure":
    """Heat map of the change B - A, significant heads outlined."""
    import plotly.graph_objects as go

    reach = max(float(np.nanmax(np.abs(comparison.delta), initial=0.0)), 0.01)
    title = f"{counted(comparison.n_significant, 'head changed its', 'heads changed their')} retrieval score"
    about = f"change B − A over {counted(comparison.n, comparison.unit)}; circled: q ≤ {comparison.level}"
    figure = heat_map(comparison.delta, scale=SIGNED, low=-reach, high=reach)
    figure.update_traces(colorbar={"title": {"text": "change"}})
    layers, heads = np.nonzero(comparison.q <= comparison.level)
    ring = {"symbol": "circle-open", "size": 12, "color": "black", "line": {"width": 2}}
    figure.add_trace(go.Scatter(x=heads, y=layers, mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    return dress(figure, title=title, subtitle=about)
