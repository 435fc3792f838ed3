"""Scores of all heads as a heat map; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import SIGNED, UNSIGNED, dress
from checkpoints.results.text import counted
from checkpoints.stats.units import Floats, nanmean

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.scores.scores import DetectorScores


def plot_scores(scores: "DetectorScores", *, by: str) -> "go.Figure":
    """Heat map of a detector's mean, layer on y (input at the bottom), head on x.

    Copy scores are coloured from 0 to 1 (or their largest), so that checkpoints look alike where they are; others up
    to their largest, and around 0 where some are negative.
    """
    mean = nanmean(scores.detector(by))
    best = scores.top(1, by=by)
    title = f"{by}: {best[0].name} leads with {best[0].score}" if best else f"{by}: not applicable"
    about = f"mean over {counted(len(scores), 'prompt')}; blank = not applicable"
    reach = max(float(np.nanmax(np.abs(mean), initial=0.0)), 1.0 if by.startswith(("copy", "activation")) else 1e-6)
    signed = float(np.nanmin(mean, initial=0.0)) < 0
    scale, low = (SIGNED, -reach) if signed else (UNSIGNED, 0.0)
    return dress(heat_map(mean, scale=scale, low=low, high=reach), title=title, subtitle=about)


def heat_map(values: Floats, *, scale: str, low: float, high: float) -> "go.Figure":
    """Values [L, H], layer on y (input at the bottom), head on x, coloured from ``low`` to ``high``."""
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
    figure.update_layout(plot_bgcolor="#eeeeee")
    figure.update_xaxes(title="head", dtick=max(1, values.shape[1] // 16))
    figure.update_yaxes(title="layer", dtick=max(1, values.shape[0] // 16))
    return figure
