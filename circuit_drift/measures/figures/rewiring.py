"""Circuits over training: how alike neighbours are beside the noise floor, and how faithful each circuit is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from circuit_drift.measures.figures.overlaps import Overlaps
from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.lineage import nearest_before
from circuit_drift.record.record import RunRecord
from circuit_drift.record.untrained import effective, null_name, null_point

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OTHER_TASK = "retrieval-circuit"
"""The measure of another task's circuit in the same model."""

FLOORS = {"untrained_overlap": "edge overlap with", "untrained_faithfulness": "faithfulness of the circuit of"}
"""Columns of a null model, by the panel that they are drawn in from above, in words."""

SHARES = ("faithfulness", "low", "high", "random_circuits")
"""Columns of a share of the effect of the facts."""


def rewiring_frame(run: RunRecord) -> "pd.DataFrame":
    """One row for each checkpoint with a circuit.

    Columns: step; ``to_previous`` (the one that it continues) and ``to_last``: edge overlap (Jaccard) between half of
    the facts here and the other half there, 1 = the same edges; ``floor``, ``floor_low``, ``floor_high``: the same
    between two halves of the facts within one of the neighbours (mean, 5th and 95th percentile over splits);
    ``chance``: random edges;
    ``faithfulness`` with its 95 % interval, of the circuit that is drawn and compared, of ``edges`` edges;
    ``cross_fitted``: the same where each fact is judged in a circuit found on the other half of the facts;
    ``random_circuits``: of random circuits of that size; ``untrained_overlap`` (of each circuit with that of the
    run's null model, an untrained twin or a blank step 0) and ``untrained_faithfulness`` (of its own), where the run
    has one; ``other_task_overlap`` with the circuit of retrieval at the same checkpoint, where that was measured.
    Faithfulness is NaN where clean and corrupt prompts do not differ beyond the noise.
    """
    import pandas as pd

    points = [point for point in run if point.circuit is not None]
    continued = [nearest_before(run, point, lambda point: point.circuit is not None) for point in points]
    alike, twin = Overlaps(run.store), null_point(run)
    rows: list[dict[str, Any]] = []
    for point, before in zip(points, continued, strict=True):
        previous = None if before is None else alike.of(before, point)
        final = alike.of(point, points[-1])
        row = {
            "step": point.label,
            "to_previous": previous.across if previous is not None else np.nan,
            "to_last": final.across,
            "floor": (previous or final).within,
            "floor_low": (previous or final).within_low,
            "floor_high": (previous or final).within_high,
            "chance": (previous or final).random,
        }
        curve = point.faithfulness
        if curve is not None and not curve.has_effect:
            row |= {"edges": int(curve.n_edges[curve.drawn]), **dict.fromkeys(SHARES, np.nan)}
        elif curve is not None:
            at = curve.drawn
            low, high = curve.intervals[at]
            row |= {"edges": int(curve.n_edges[at]), "faithfulness": curve.values[at], "low": low, "high": high}
            row |= {} if curve.cross_metric is None else {"cross_fitted": curve.cross_values[at]}
            row |= {"random_circuits": curve.random_values[at]}
        if twin is not None and twin.circuit is not None:
            row["untrained_overlap"] = alike.of(twin, point).across
        if OTHER_TASK in point.results:
            row["other_task_overlap"] = alike.with_task(point, OTHER_TASK).across
        if twin is not None and twin.faithfulness is not None:
            row["untrained_faithfulness"] = effective(twin.faithfulness)
        rows.append(row)
    return pd.DataFrame(rows)


def rewiring_figure(run: RunRecord, frame: "pd.DataFrame") -> "go.Figure":
    """Edge overlap with the previous and the last checkpoint over the noise floor's band; faithfulness below."""
    from plotly.subplots import make_subplots

    from circuits.comparison.similarity import ROUNDING

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    x = [i for i, point in enumerate(run) if point.circuit is not None]
    _draw_band(figure, x, frame)
    for line in LINES:
        if line.column in frame:
            _draw(figure, x, frame, line)
    for line in _floors(run):
        if line.column in frame and frame[line.column].notna().any():
            _draw(figure, x, frame, line)
    figure.update_yaxes(title_text="edge overlap (Jaccard)", range=[-0.03, 1.03], row=1, col=1)
    figure.update_yaxes(title_text="faithfulness", range=[-0.3, 1.3], row=2, col=1)
    beyond = int((frame["to_previous"] < frame["floor_low"] - ROUNDING).sum())
    steps = int(frame["to_previous"].notna().sum())
    theme.dress(
        figure,
        title=f"{beyond} of {steps} steps between neighbours overlap less than two halves of the facts do",
        subtitle="facts that either of two checkpoints recalls, together; inside the band a line neither shows nor "
        "rules out a change",
        height=640,
    )
    over_checkpoints(figure, run).update_xaxes(title_text="", row=1, col=1)
    return figure


class _Line(NamedTuple):
    """A column as it is drawn; without a symbol it has no markers."""

    column: str
    name: str
    row: int
    colour: str
    dash: str = "solid"
    symbol: str = ""


LINES = (
    _Line("to_previous", "edge overlap with the previous", 1, theme.BLUE, theme.DASHES[0], theme.SYMBOLS[0]),
    _Line("to_last", "edge overlap with the last", 1, theme.VERMILLION, theme.DASHES[1], theme.SYMBOLS[1]),
    _Line("faithfulness", "faithfulness of the circuit", 2, theme.GREEN, "solid", "diamond"),
    _Line("random_circuits", "random circuits of that size", 2, theme.GREY, "dot", "x"),
    _Line(
        "cross_fitted", "judged on the half of the facts it was not found on", 2, theme.GREEN, "dash", "diamond-open"
    ),
)


def _floors(run: RunRecord) -> Iterator[_Line]:
    """What the curves are held against: the run's null model, and the circuit of another task."""
    null = null_point(run)
    if null is not None:
        for row, (column, what) in enumerate(FLOORS.items(), start=1):
            yield _Line(column, f"{what} {null_name(null)}", row, theme.GREY, "dash")
    other = "edge overlap with the circuit of another task, retrieval"
    yield _Line("other_task_overlap", other, 1, theme.GREY, "dashdot")


def _draw_band(figure: "go.Figure", x: list[int], frame: "pd.DataFrame") -> None:
    """The overlap of two halves of the facts, from the 5th to the 95th percentile."""
    edge: dict[str, Any] = {"x": x, "mode": "lines", "line": {"width": 0}, "row": 1, "col": 1}
    figure.add_scatter(y=frame["floor_high"], showlegend=False, hoverinfo="skip", **edge)
    name = "noise floor: halves of the facts, one checkpoint (5–95 %)"
    figure.add_scatter(y=frame["floor_low"], fill="tonexty", fillcolor="rgba(118,118,118,0.22)", name=name, **edge)


def _draw(figure: "go.Figure", x: list[int], frame: "pd.DataFrame", line: _Line) -> None:
    look: dict[str, Any] = {"mode": "lines", "line": {"color": line.colour, "dash": line.dash, "width": 1}}
    if line.symbol:
        look = {
            "mode": "lines+markers",
            "line": {"color": line.colour, "dash": line.dash},
            "marker": {"symbol": line.symbol},
        }
    if line.column == "faithfulness":
        look["error_y"] = _bars(frame)
    figure.add_scatter(x=x, y=frame[line.column], name=line.name, row=line.row, col=1, **look)


def _bars(frame: "pd.DataFrame") -> dict[str, Any]:
    """From each circuit's faithfulness to the ends of its interval."""
    value = frame["faithfulness"]
    ends = {"array": frame["high"] - value, "arrayminus": value - frame["low"]}
    return {"type": "data", "symmetric": False, **ends, "thickness": 1, "width": 2}
