"""A needle map drawn; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import UNSIGNED, dress

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.niah.grid import NeedleMap


def plot_map(needle_map: "NeedleMap") -> "go.Figure":
    """Answer PPL as colour on a log scale, accuracy as text; the first axis on y."""
    import plotly.graph_objects as go

    ppl, accuracy = needle_map.cell_ppl, needle_map.cell_accuracy
    text = [[f"{p:.3g}<br>{a:.0%}" for p, a in zip(*row, strict=True)] for row in zip(ppl, accuracy, strict=True)]
    heat = go.Heatmap(
        z=np.log10(ppl),
        x=[f"{value:g}" for value in needle_map.columns],
        y=[f"{value:g}" for value in needle_map.rows],
        text=text,
        texttemplate="%{text}",
        colorscale=f"{UNSIGNED}_r",
        zmin=0.0,
        colorbar_title="log10 PPL",
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title=needle_map.axes[1], type="category")
    figure.update_yaxes(title=needle_map.axes[0], type="category")
    return dress(figure, title=needle_map.verdict, subtitle="cells: answer PPL and needle accuracy")
