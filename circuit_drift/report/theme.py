"""Colours and layout every figure of the report shares. Okabe-Ito for categories, cividis for unsigned values."""

from typing import TYPE_CHECKING

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
UNSIGNED = "Cividis"


def dress(figure: "go.Figure", *, title: str, subtitle: str, height: int = 420) -> "go.Figure":
    """Give a figure its title (the finding), its subtitle (metric and sign) and the common look."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0, "xref": "container", "pad": {"l": 12}},
        height=height,
        margin={"l": 60, "r": 60, "t": 90, "b": 60},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": -0.2, "x": 0},
        hovermode="closest",
    )
    return figure


def mark_stages(figure: "go.Figure", stages: list[str | None]) -> "go.Figure":
    """Draw a labelled line wherever the training stage changes along an axis of checkpoint positions."""
    for index in range(1, len(stages)):
        if stages[index] != stages[index - 1]:
            figure.add_vline(
                x=index - 0.5,
                line={"color": GREY, "dash": "dot", "width": 1},
                annotation={"text": f"{stages[index]} →", "font": {"color": GREY, "size": 11}, "yanchor": "bottom"},
                annotation_position="top right",
            )
    return figure
