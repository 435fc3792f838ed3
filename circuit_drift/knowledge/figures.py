"""Figures of the ledger; each function returns a plotly figure and shows nothing."""

from typing import TYPE_CHECKING

from checkpoints.results.figure import BLUE, GREEN, VERMILLION, dress

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuit_drift.knowledge.ledger import Ledger

COLOURS = {"retained": BLUE, "acquired": GREEN, "noise": "#99D8C7", "forgotten": VERMILLION}


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
    figure.update_layout(barmode="relative", xaxis={"type": "category", "title": "step"}, yaxis_title="units")
    return dress(figure, title=title, subtitle=about)
