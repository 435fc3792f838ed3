"""The look that figures of all packages share; plotly figures come in and go out, nothing is shown.

Okabe-Ito for categories, cividis for values of one sign, blue to red for signed ones.
"""

from typing import TYPE_CHECKING

from checkpoints.results.text import label

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#767676",
)
CATEGORIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY, "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
UNSIGNED, SIGNED = "Cividis", "RdBu_r"
TOP, BOTTOM, LEGEND = 90, 60, 55
"""Pixels above the plot, below it, and from the plot down to the legend, which clears the axis title."""


def dress(figure: "go.Figure", *, title: str, subtitle: str = "", height: int = 420) -> "go.Figure":
    """Give a figure its title (the finding), its subtitle (metric and sign, how to read it) and the common look."""
    figure.update_layout(
        template="plotly_white",
        title={
            "text": label(title),
            "subtitle": {"text": label(subtitle)},
            "x": 0,
            "xref": "container",
            "pad": {"l": 12},
        },
        height=height,
        margin={"l": 70, "r": 60, "t": TOP, "b": BOTTOM},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": -LEGEND / (height - TOP - BOTTOM), "yanchor": "top", "x": 0},
        hovermode="closest",
    )
    return figure
