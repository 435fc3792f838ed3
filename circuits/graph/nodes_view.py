"""Scores of nodes as bars; figures are returned, never shown."""

from typing import TYPE_CHECKING

from checkpoints.results.figure import BLUE, dress
from circuits.graph.scores import meaning

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.graph.nodes import NodeScores


def nodes_figure(nodes: "NodeScores", k: int) -> "go.Figure":
    """Scores of the k leading nodes with their standard errors."""
    import plotly.graph_objects as go

    frame = nodes.to_frame().head(k)
    bars = go.Bar(
        x=frame["node"], y=frame["score"], error_y={"array": frame["stderr"], "color": "#222222"}, marker_color=BLUE
    )
    figure = go.Figure(bars)
    figure.update_xaxes(title_text="node", type="category")
    figure.update_yaxes(title_text="score")
    dress(
        figure,
        title=f"{frame['node'].iloc[0]} carries most: {frame['score'].iloc[0]:+.2f}",
        subtitle=f"{meaning(nodes.meta, 'the node')}; bars: standard errors over the facts",
        height=420,
    )
    return figure
