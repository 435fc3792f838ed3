"""What a page of a long series leaves out of what it draws, so that it opens at once; nothing is left out unsaid."""

from typing import TYPE_CHECKING

from checkpoints.results.text import counted

if TYPE_CHECKING:
    import plotly.graph_objects as go

DRAWN = 200
"""Checkpoints that a slider or a table of all against all draws at most."""
ROWS, LEADING = 2000, 500
"""Rows of a table that a page holds whole, and how many of a longer one it shows."""


def thinned(count: int, most: int = DRAWN) -> list[int]:
    """Positions of so many checkpoints at most, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def left_out(count: int, where: str, most: int = DRAWN) -> str:
    """A sentence with a space before it that says what is not drawn; empty where everything is."""
    if count <= most:
        return ""
    return (
        f" {where} shows {most} of {counted(count, 'checkpoint')}, evenly spaced, the first and the last among them; "
        "the tables, or the CSV files beside the page, have all."
    )


def thin_table(figure: "go.Figure", most: int = DRAWN) -> "go.Figure":
    """A heat map of checkpoints against checkpoints, of so many of them at most."""
    import numpy as np

    heat = figure.data[0]
    places = thinned(len(heat.x), most)
    if len(places) < len(heat.x):
        labels = [heat.x[place] for place in places]
        heat.update(x=labels, y=labels, z=np.asarray(heat.z)[np.ix_(places, places)])
    return figure
