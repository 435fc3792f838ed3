"""Fact recall over training, by class of facts."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.text import label
from checkpoints.stats.bootstrap import wilson_interval
from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.recall import recall_by_class
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go


def recall_figure(run: RunRecord) -> "go.Figure":
    """Share of facts whose answer is the top token, by class, with Wilson 95 % intervals."""
    import plotly.graph_objects as go

    points = [(i, recall_by_class(point.circuit)) for i, point in enumerate(run) if point.circuit is not None]
    figure = go.Figure()
    for k, name in enumerate(points[0][1]):
        shares = np.array([shares[name][0] for _, shares in points])
        n = points[0][1][name][1]
        low, high = wilson_interval(np.round(shares * n), np.full(len(shares), n))
        figure.add_scatter(
            x=[i for i, _ in points],
            y=shares,
            name=f"{label(name)} (n = {n})",
            mode="lines+markers",
            line={"color": theme.CATEGORIES[k % 8], "dash": theme.DASHES[k % 6]},
            marker={"symbol": theme.SYMBOLS[k % 8]},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": list(high - shares),
                "arrayminus": list(shares - low),
                "thickness": 1,
                "width": 2,
            },
        )
    figure.update_yaxes(title_text="fact recall (top token)", range=[-0.03, 1.03])
    last = points[-1][1]
    best, worst = max(last, key=lambda name: last[name][0]), min(last, key=lambda name: last[name][0])
    told = ", ".join(f"{name} {last[name][0]:.2f}" for name in dict.fromkeys((best, worst)))
    theme.dress(
        figure,
        title=f"Fact recall at the end: {told}",
        subtitle="share of facts whose answer is the top token of the clean prompt; bars are Wilson 95 % intervals",
    )
    return over_checkpoints(figure, run)
