"""Faithfulness of one circuit, and of circuits of several sizes, drawn; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import BLUE, GREY, dress
from circuits.intervention.faithfulness import NO_EFFECT

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.intervention.faithfulness import Faithfulness, FaithfulnessCurve


def curve_figure(curve: "FaithfulnessCurve") -> "go.Figure":
    """Faithfulness with its interval against the number of edges, random circuits beside it."""
    import plotly.graph_objects as go

    low, high = (np.array(side) for side in zip(*curve.intervals, strict=True))
    values = np.array(curve.values)
    figure = go.Figure()
    figure.add_scatter(
        x=curve.n_edges,
        y=values,
        error_y={"array": high - values, "arrayminus": values - low, "symmetric": False},
        name="circuit",
        mode="lines+markers",
        line={"color": BLUE},
    )
    figure.add_scatter(
        x=curve.n_edges,
        y=curve.random_values,
        name="random circuits of that size",
        mode="lines+markers",
        line={"color": GREY, "dash": "dot"},
        marker={"symbol": "x"},
    )
    figure.update_xaxes(title_text="edges in the circuit")
    figure.update_yaxes(title_text="faithfulness")
    dress(
        figure,
        title=f"{curve.n_edges[-1]:,} edges keep {values[-1]:.0%} of the {curve.meta.get('metric', 'metric')}"
        if curve.has_effect
        else f"Faithfulness is {NO_EFFECT}",
        subtitle="(circuit - corrupt) / (clean - corrupt), exact runs; bars: 95 % bootstrap over the facts",
        height=420,
    )
    return figure


def faithfulness_figure(found: "Faithfulness") -> "go.Figure":
    """One circuit's faithfulness with its interval, random circuits of its size beside it."""
    import plotly.graph_objects as go

    frame = found.to_frame()
    figure = go.Figure()
    figure.add_bar(
        x=frame["circuit"],
        y=frame["faithfulness"],
        error_y={
            "array": frame["high"] - frame["faithfulness"],
            "arrayminus": frame["faithfulness"] - frame["low"],
            "symmetric": False,
        },
        marker={"color": [BLUE, *[GREY] * len(found.random)]},
    )
    figure.update_yaxes(title_text="faithfulness")
    dress(
        figure,
        title=f"{found.n_edges:,} {found.unit} keep {found.value:.0%} of the {found.meta.get('metric', 'metric')}",
        subtitle="(circuit - corrupt) / (clean - corrupt), exact runs; bars: 95 % bootstrap over the facts",
        height=420,
    )
    return figure
