"""The audit in the report: its findings, the series drawn as the graph that it is, and marks on every step axis.

A checkpoint that an error names is marked by a cross, one that a warning names by an exclamation mark, both over a
shaded band; where steps are missing a dashed line stands in the gap.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from checkpoints.results.text import counted, label
from circuit_drift.page import theme
from circuit_drift.page.axis import COLOURS
from circuit_drift.page.page import Section
from circuit_drift.record.record import Point, RunRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go


Place = tuple[int, int]
NAMED = 40
_SYMBOLS = {"error": "x", "warning": "diamond"}
_LEGEND = "✕: an error of the audit names this checkpoint; !: a warning; dashed line: steps are missing there."


def audit_sections(run: RunRecord) -> Iterator[Section]:
    """The audit's findings in a table, beneath the series' graph where it branches."""
    if run.audit is None:
        yield Section("audit", "Audit of the series", text="No audit is on record for this run.")
        return
    yield Section(
        "audit",
        "Audit of the series",
        text=f"{run.audit.verdict}.",
        figure=series_figure(run) if branches(run) else None,
        caption=f"Each fault with the public series that had it. {_LEGEND}" if run.audit.faults else "",
        frame=run.audit.to_frame() if run.audit.faults else None,
    )


def audit_warnings(run: RunRecord) -> list[str]:
    """The findings as sentences, for the top of the page."""
    return [] if run.audit is None else [f"audit, {fault.sentence}" for fault in run.audit.faults]


def branches(run: RunRecord) -> bool:
    """Whether the series is more than one line: a checkpoint that several continue, or that continues several."""
    continued = [parent for parents in run.parents.values() for parent in parents]
    return len(set(continued)) < len(continued) or any(len(parents) > 1 for parents in run.parents.values())


def series_figure(run: RunRecord) -> "go.Figure":
    """The series as a directed acyclic graph: checkpoints by their distance from the first, a row for each branch."""
    import plotly.graph_objects as go

    lanes = {branch: lane for lane, branch in enumerate(dict.fromkeys(point.branch for point in run))}
    depth = _depths(run)
    at = {point.place: (depth[point.place], -lanes[point.branch]) for point in run}
    figure = go.Figure()
    _add_arrows(figure, run, at)
    suspects = run.audit.suspects if run.audit is not None else {}
    for kind, told in ((None, "nothing found"), ("warning", "warning"), ("error", "error")):
        if points := [point for point in run if suspects.get(point.place) == kind]:
            _add_checkpoints(figure, points, at, kind, name=told, named=len(run) <= NAMED)
    figure.update_xaxes(title_text="checkpoints from the start", showgrid=False, zeroline=False)
    figure.update_yaxes(
        tickvals=[-lane for lane in lanes.values()],
        ticktext=[label(branch or "trunk") for branch in lanes],
        range=[-len(lanes) + 0.4, 0.6],
        showgrid=False,
        zeroline=False,
    )
    return theme.dress(
        figure,
        title=f"{counted(len(run), 'checkpoint')} in {counted(sum(map(bool, lanes)), 'branch', 'branches')}",
        subtitle="an arrow leads from a checkpoint to those that continue it",
        height=220 + 70 * len(lanes),
    )


def _add_arrows(figure: "go.Figure", run: RunRecord, at: Mapping[str, Place]) -> None:
    """One from each checkpoint to each that continues it."""
    edges = [(at[a], at[b]) for b, parents in run.parents.items() for a in parents if a in at and b in at]
    figure.add_scatter(
        x=[x for (start, _), (end, _) in edges for x in (start, end, None)],
        y=[y for (_, start), (_, end) in edges for y in (start, end, None)],
        mode="lines+markers",
        name="is continued by",
        line={"color": theme.GREY, "width": 1},
        marker={"symbol": "arrow", "angleref": "previous", "size": [0, 9, 0] * len(edges), "standoff": 6},
        hoverinfo="skip",
    )


def _add_checkpoints(
    figure: "go.Figure", points: Sequence[Point], at: Mapping[str, Place], kind: str | None, *, name: str, named: bool
) -> None:
    """The checkpoints of which the audit says the same, by step where there is room for it."""
    figure.add_scatter(
        x=[at[point.place][0] for point in points],
        y=[at[point.place][1] for point in points],
        text=[f"{point.step:,}" if point.step is not None else label(point.name) for point in points],
        customdata=[label(point.place) for point in points],
        hovertemplate="%{customdata}<extra></extra>",
        mode="markers+text" if named else "markers",
        textposition="top center",
        name=name,
        marker={
            "size": 11,
            "color": theme.BLUE if kind is None else COLOURS[kind],
            "symbol": "circle" if kind is None else _SYMBOLS[kind],
        },
    )


def _depths(run: RunRecord) -> dict[str, int]:
    """How many checkpoints lie before each on the longest way from a first one."""

    @cache
    def depth(place: str) -> int:
        return max((depth(parent) + 1 for parent in run.parents.get(place, ())), default=0)

    # in the order of the series every parent comes first, so that no chain of calls is long
    return {place: depth(place) for place in [*run.parents, *(point.place for point in run)]}
