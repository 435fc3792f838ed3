"""The marks of training stages, which the figures of the report share beyond the common look."""

from typing import TYPE_CHECKING

from checkpoints.results.figure import (
    BLUE,
    CATEGORIES,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    SYMBOLS,
    UNSIGNED,
    VERMILLION,
    dress,
)
from checkpoints.results.text import label

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "BLUE",
    "CATEGORIES",
    "DASHES",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "SYMBOLS",
    "UNSIGNED",
    "VERMILLION",
    "dress",
    "mark_stages",
]


def mark_stages(figure: "go.Figure", stages: list[str | None]) -> "go.Figure":
    """Draw a labelled line wherever the training stage changes along an axis of checkpoint positions."""
    for index in range(1, len(stages)):
        if stages[index] != stages[index - 1]:
            figure.add_vline(
                x=index - 0.5,
                line={"color": GREY, "dash": "dot", "width": 1},
                annotation={
                    "text": f"{label(str(stages[index]))} →",
                    "font": {"color": GREY, "size": 11},
                    "yanchor": "bottom",
                },
                annotation_position="top right",
            )
    return figure
