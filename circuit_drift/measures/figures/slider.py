"""Figures that slide through training: one drawing a checkpoint, moved by hand."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuit_drift.page.axis import tick_labels
from circuit_drift.record.record import Point, RunRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go

INSTANT = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}


def slide(
    figure: "go.Figure", run: RunRecord, points: Sequence[Point], drawings: Sequence[Sequence[Any]]
) -> "go.Figure":
    """Put a slider under a figure that shows the last drawing.

    Args:
        figure: holds the traces of the last drawing.
        run: names the checkpoints.
        points: those that are drawn, in order.
        drawings: the traces of each, as many and of the same kinds.
    """
    import plotly.graph_objects as go

    labels = dict(zip((point.name for point in run), tick_labels(run), strict=True))
    figure.frames = [
        go.Frame(data=list(traces), name=point.name, traces=list(range(len(traces))))
        for traces, point in zip(drawings, points, strict=True)
    ]
    steps = [{"label": labels[point.name], "method": "animate", "args": [[point.name], INSTANT]} for point in points]
    slider = {"active": len(points) - 1, "steps": steps, "currentvalue": {"prefix": "step "}, "pad": {"t": 50}}
    figure.update_layout(sliders=[slider])
    return figure
