"""The axis that figures of a run share: checkpoints evenly spaced, stages and what the audit found marked."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.results.text import label
from circuit_drift.page import theme
from circuit_drift.record.lineage import parents_of
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go


MARKS = {"error": "✕", "warning": "!"}
COLOURS = {"error": theme.VERMILLION, "warning": theme.ORANGE}


def tick_labels(run: RunRecord) -> list[str]:
    """The checkpoints' labels, marked where the audit names one."""
    named = run.audit.suspects if run.audit is not None else {}
    return [f"{MARKS[named[p.place]]} {label(p.label)}" if p.place in named else label(p.label) for p in run]


def mark_audit(figure: "go.Figure", run: RunRecord) -> "go.Figure":
    """Mark suspect and missing checkpoints along an axis of checkpoint positions."""
    if run.audit is None:
        return figure
    for position, point in enumerate(run):
        severity = run.audit.suspects.get(point.place)
        if severity is not None:
            figure.add_vrect(
                x0=position - 0.4,
                x1=position + 0.4,
                line_width=0,
                fillcolor=COLOURS[severity],
                opacity=0.13,
                layer="below",
            )
    for gap, count in missing(run).items():
        figure.add_vline(
            x=gap,
            line={"color": theme.GREY, "dash": "dash", "width": 1},
            annotation={"text": f"{count} missing", "font": {"color": theme.GREY, "size": 11}, "yanchor": "top"},
            annotation_position="top right",
        )
    return figure


def mark_steps(figure: "go.Figure", run: RunRecord) -> "go.Figure":
    """The same marks, and the stages', on a figure whose two axes name the steps themselves, as categories."""
    labels = list(figure.data[0].x)
    shown = {str(point.position): point for point in run if point.position is not None}
    part = replace(run, points=tuple(shown[each] for each in labels))
    texts = {"tickmode": "array", "tickvals": labels, "ticktext": tick_labels(part)}
    figure.update_xaxes(**texts).update_yaxes(**texts)
    return mark_audit(theme.mark_stages(figure, [point.stage for point in part]), part)


def missing(run: RunRecord) -> dict[float, int]:
    """Position between two checkpoints -> how many steps are missing there."""
    if run.audit is None:
        return {}
    position = {point.place: place for place, point in enumerate(run)}
    gaps = [fault for fault in run.audit.faults if fault.kind == "missing_steps"]
    return {
        position[fault.checkpoints[0]] + 0.5: len(fault.evidence["steps"])
        for fault in gaps
        if fault.checkpoints[0] in position
    }


def over_checkpoints(figure: "go.Figure", run: RunRecord) -> "go.Figure":
    """The common x axis: checkpoints evenly spaced, labelled by step, stages marked; lines end where branches do."""
    parents = parents_of(run)
    starts = [place for place in range(1, len(run)) if parents[place] != (place - 1,)]
    for trace in figure.select_traces(selector=lambda trace: "lines" in (getattr(trace, "mode", None) or "")):
        _end_lines(trace, starts)
    figure.update_xaxes(
        title_text="step (checkpoints evenly spaced)",
        tickmode="array",
        tickvals=list(range(len(run))),
        ticktext=tick_labels(run),
        range=[-0.5, len(run) - 0.5],
    )
    return mark_audit(theme.mark_stages(figure, [point.stage for point in run]), run)


def once(marks: Iterable[Any]) -> tuple[Any, ...]:
    """The marks along the axis, each over the first panel alone."""
    first: dict[tuple[Any, Any], Any] = {}
    for mark in marks:
        first.setdefault((mark.x, mark.text), mark)
    return tuple(first.values())


def _end_lines(trace: Any, starts: Sequence[int]) -> None:
    """Put a gap into a trace before each point where another line begins."""
    gaps = [i for i in range(1, len(trace.x)) if any(trace.x[i - 1] < start <= trace.x[i] for start in starts)]
    if not gaps:
        return

    def broken(values: Any) -> list[Any]:
        return [value for i, own in enumerate(values) for value in ((None, own) if i in gaps else (own,))]

    for name in ("x", "y", "text", "customdata"):
        if isinstance(trace[name], tuple | np.ndarray):
            trace[name] = broken(trace[name])
    for name in ("array", "arrayminus"):
        if trace.error_y[name] is not None:
            trace.error_y[name] = broken(trace.error_y[name])
