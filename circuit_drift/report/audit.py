"""The audit in the report: its findings, the series drawn as the graph that it is, and marks on every step axis.

A checkpoint that an error names is marked by a cross, one that a warning names by an exclamation mark, both over a
shaded band; where steps are missing a dashed line stands in the gap.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from circuit_drift.report import theme
from circuit_drift.report.page import Section

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuit_drift.sweep.sweep import Run

MARKS = {"error": "✕", "warning": "!"}
_COLOURS = {"error": theme.VERMILLION, "warning": theme.ORANGE}
_SYMBOLS = {"error": "x", "warning": "diamond"}
_LEGEND = "✕: an error of the audit names this checkpoint; !: a warning; dashed line: steps are missing there."


def audit_sections(run: "Run") -> Iterator[Section]:
    """The audit's findings in a table, beneath the series' graph where it branches."""
    if run.audit is None:
        yield Section("audit", "Audit of the series", text="No audit is on record for this run.")
        return
    yield Section(
        "audit",
        "Audit of the series",
        text=f"{run.audit.summary}.",
        figure=lineage_figure(run) if branches(run) else None,
        caption=f"Each finding with the public series that had it. {_LEGEND}" if run.audit.findings else "",
        frame=run.audit.to_frame() if run.audit.findings else None,
    )


def audit_warnings(run: "Run") -> list[str]:
    """The findings as sentences, for the top of the page."""
    return [] if run.audit is None else [f"audit, {finding.sentence}" for finding in run.audit.findings]


def tick_labels(run: "Run") -> list[str]:
    """The checkpoints' labels, marked where the audit names one."""
    named = run.audit.suspects if run.audit is not None else {}
    return [f"{MARKS[named[p.place]]} {p.label}" if p.place in named else p.label for p in run]


def mark_audit(figure: "go.Figure", run: "Run") -> "go.Figure":
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
                fillcolor=_COLOURS[severity],
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


def mark_steps(figure: "go.Figure", run: "Run") -> "go.Figure":
    """The same marks, and the stages', on a figure whose two axes name the steps themselves, as categories."""
    labels = list(figure.data[0].x)
    shown = {str(point.step): point for point in run if point.step is not None}
    part = replace(run, points=tuple(shown[label] for label in labels))
    texts = {"tickmode": "array", "tickvals": labels, "ticktext": tick_labels(part)}
    figure.update_xaxes(**texts).update_yaxes(**texts)
    return mark_audit(theme.mark_stages(figure, [point.stage for point in part]), part)


def missing(run: "Run") -> dict[float, int]:
    """Position between two checkpoints -> how many steps are missing there."""
    if run.audit is None:
        return {}
    position = {point.place: place for place, point in enumerate(run)}
    gaps = [finding for finding in run.audit.findings if finding.kind == "missing_steps"]
    return {
        position[finding.checkpoints[0]] + 0.5: len(finding.evidence["steps"])
        for finding in gaps
        if finding.checkpoints[0] in position
    }


def branches(run: "Run") -> bool:
    """Whether the series is more than one line: a checkpoint that several continue, or that continues several."""
    continued = [parent for parents in run.parents.values() for parent in parents]
    return len(set(continued)) < len(continued) or any(len(parents) > 1 for parents in run.parents.values())


def lineage_figure(run: "Run") -> "go.Figure":
    """The series as a directed acyclic graph: checkpoints by their distance from the first, a row for each branch."""
    import plotly.graph_objects as go

    depth = _depths(run)
    lanes = {branch: lane for lane, branch in enumerate(dict.fromkeys(point.branch for point in run))}
    at = {point.place: (depth[point.place], -lanes[point.branch]) for point in run}
    edges = [(at[a], at[b]) for b, parents in run.parents.items() for a in parents if a in at and b in at]
    figure = go.Figure()
    figure.add_scatter(
        x=[x for (start, _), (end, _) in edges for x in (start, end, None)],
        y=[y for (_, start), (_, end) in edges for y in (start, end, None)],
        mode="lines+markers",
        name="is continued by",
        line={"color": theme.GREY, "width": 1},
        marker={"symbol": "arrow", "angleref": "previous", "size": [0, 9, 0] * len(edges), "standoff": 6},
        hoverinfo="skip",
    )
    named = run.audit.suspects if run.audit is not None else {}
    for kind, label in ((None, "nothing found"), ("warning", "warning"), ("error", "error")):
        points = [point for point in run if named.get(point.place) == kind]
        if points:
            figure.add_scatter(
                x=[at[point.place][0] for point in points],
                y=[at[point.place][1] for point in points],
                text=[f"{point.step:,}" if point.step is not None else point.name for point in points],
                customdata=[point.place for point in points],
                hovertemplate="%{customdata}<extra></extra>",
                mode="markers+text" if len(run) <= 40 else "markers",
                textposition="top center",
                name=label,
                marker={
                    "size": 11,
                    "color": theme.BLUE if kind is None else _COLOURS[kind],
                    "symbol": "circle" if kind is None else _SYMBOLS[kind],
                },
            )
    figure.update_xaxes(title_text="checkpoints from the start", showgrid=False, zeroline=False)
    figure.update_yaxes(
        tickvals=[-lane for lane in lanes.values()],
        ticktext=[branch or "trunk" for branch in lanes],
        range=[-len(lanes) + 0.4, 0.6],
        showgrid=False,
        zeroline=False,
    )
    return theme.dress(
        figure,
        title=f"{len(run)} checkpoints in {len([lane for lane in lanes if lane])} branches",
        subtitle="an arrow leads from a checkpoint to those that continue it",
        height=220 + 70 * len(lanes),
    )


def _depths(run: "Run") -> dict[str, int]:
    """How many checkpoints lie before each on the longest way from a first one."""

    @cache
    def depth(place: str) -> int:
        return max((depth(parent) + 1 for parent in run.parents.get(place, ())), default=0)

    # in the order of the series every parent comes first, so that no chain of calls is long
    return {place: depth(place) for place in [*run.parents, *(point.place for point in run)]}
