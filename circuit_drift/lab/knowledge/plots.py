"""Figures of the ledger; each function returns a plotly figure and shows nothing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuit_drift.lab.knowledge.bookkeeping import Ledger

COLOURS = {"retained": "#4c78a8", "acquired": "#54a24b", "noise": "#bfd8bd", "forgotten": "#e45756"}


def plot_ledger(book: "Ledger") -> "go.Figure":
    """Bars: retained and acquired upward (their sum is what is known), forgotten downward."""
    import plotly.graph_objects as go

    steps = [str(step) for step in book.scores.steps]
    acquired, noise = book.moves.acquired.sum(axis=0), book.noise.sum(axis=0)
    others = book.known.sum(axis=0) - acquired
    heights = {"retained": others, "acquired": acquired - noise, "noise": noise}
    figure = go.Figure()
    for name, height in heights.items():
        title = "acquired, undone by resampling" if name == "noise" else name
        if name != "noise" or book.resampled is not None:
            figure.add_bar(x=steps, y=height, name=title, marker_color=COLOURS[name])
    lost = -book.moves.forgotten.sum(axis=0)
    figure.add_bar(x=steps, y=lost, name="forgotten", marker_color=COLOURS["forgotten"])
    about = f"{len(book.scores.units)} units; known: mean {book.scores.name} >= {book.threshold:g}"
    title = f"{book.outcome['known_first']} known at first, {book.outcome['known_last']} at the end"
    return figure.update_layout(
        barmode="relative",
        template="plotly_white",
        title=f"{title}<br><sup>{about}</sup>",
        xaxis={"type": "category", "title": "step"},
        yaxis_title="units",
    )
