"""Scores by segment as a heat map; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import SIGNED, dress
from circuits.graph.scores import meaning

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.attribution.positions import PositionScores


def positions_figure(positions: "PositionScores", k: int) -> "go.Figure":
    """Scores of the k leading writers at each segment of the prompts."""
    import plotly.graph_objects as go

    frame = positions.nodes()
    frame = frame.loc[frame.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:k]]
    largest = float(frame.abs().to_numpy().max(initial=0)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=frame.to_numpy(np.float32),
            x=list(frame.columns),
            y=list(frame.index),
            zmin=-largest,
            zmax=largest,
            colorscale=SIGNED,
            colorbar={"title": {"text": "score"}},
            texttemplate="%{z:.2f}" if frame.size <= 144 else None,
            hovertemplate="%{y} at %{x}: %{z:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="segment", type="category")
    figure.update_yaxes(title_text="writer", type="category", autorange="reversed")
    node, segment = frame.abs().stack().idxmax()
    dress(
        figure,
        title=f"{node} at {segment!r} carries most: {frame.loc[node, segment]:+.2f}",
        subtitle=f"sum over a writer's out-edges; {meaning(positions.whole.meta, 'it there')}",
        height=520,
    )
    return figure
