"""A ledger in words and as a figure: every number computed; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import BLUE, GREEN, VERMILLION, dress
from checkpoints.results.text import counted
from circuit_drift.knowledge.resampling import FEWEST_PROBES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuit_drift.knowledge.ledger import Ledger

COLOURS = {"retained": BLUE, "acquired": GREEN, "noise": "#99D8C7", "forgotten": VERMILLION}


def findings(book: "Ledger") -> tuple[str, ...]:
    """What happened to the knowledge of a run, a sentence each."""
    out, steps = book.outcome, book.scores.steps
    n, best = len(book.scores.units), int(np.argmax(book.known.sum(axis=0)))
    said = [
        f"known (mean {book.scores.name} ≥ {book.threshold:g}): {out['known_first']} of {n} at {steps[0]}, "
        f"{out['best']} at best ({steps[best]}), {out['known_last']} at {steps[-1]}",
        f"{counted(out['newly_learned'], 'was', 'were')} newly learned; "
        f"{counted(out['newly_learned_held'], 'of those is', 'of those are')} held at {steps[-1]}, "
        f"{counted(out['consolidated'], 'unit is', 'units are')} consolidated",
        f"of the {out['known_first']} known at {steps[0]}, {counted(out['kept'], 'is', 'are')} known at {steps[-1]}",
        f"{counted(out['acquisitions'], 'acquisition')} ({out['relearned']} of them relearned) and "
        f"{counted(out['losses'], 'loss', 'losses')}",
    ]
    return (*said, _noise(book))


def _noise(book: "Ledger") -> str:
    if book.resampled is None:
        return "one score per unit and step: how much of this is noise of the probes cannot be said"
    if not book.told.any():
        return f"fewer than {FEWEST_PROBES} probes per unit: how much of this is flicker cannot be said"
    noisy, total = int(book.noise.sum()), int(book.moves.acquired[book.told].sum())
    return (
        f"{noisy} of {total} acquisitions cannot be told from flicker: fewer than {book.support:.0%} of probe "
        "resamples repeat them"
    )


def plot_ledger(book: "Ledger") -> "go.Figure":
    """Bars: retained and acquired upward (their sum is what is known), forgotten downward."""
    import plotly.graph_objects as go

    steps = [str(step) for step in book.scores.steps]
    acquired, noise = book.moves.acquired.sum(axis=0), book.noise.sum(axis=0)
    others = book.known.sum(axis=0) - acquired
    heights = {"retained": others, "acquired": acquired - noise, "noise": noise}
    figure = go.Figure()
    for name, height in heights.items():
        title = "acquired, perhaps flicker" if name == "noise" else name
        if name != "noise" or book.told.any():
            figure.add_bar(x=steps, y=height, name=title, marker_color=COLOURS[name])
    lost = -book.moves.forgotten.sum(axis=0)
    figure.add_bar(x=steps, y=lost, name="forgotten", marker_color=COLOURS["forgotten"])
    about = f"{counted(len(book.scores.units), 'unit')}; known: mean {book.scores.name} ≥ {book.threshold:g}"
    title = f"{book.outcome['known_first']} known at first, {book.outcome['known_last']} at the end"
    figure.update_layout(barmode="relative", xaxis={"type": "category", "title": "step"}, yaxis_title="units")
    return dress(figure, title=title, subtitle=about)
