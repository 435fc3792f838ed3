"""The figure of a pair's groups of facts: how far the wiring of each moved, and how much stronger it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from circuit_drift.page import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PANELS = {"wiring": "1 − cosine (0: the same wiring)", "strength": "times as strong at B"}
STILL = {"wiring": 0.0, "strength": 1.0}
"""What each is where nothing changed."""


def groups_figure(groups: "pd.DataFrame", deltas: Mapping[str, float]) -> "go.Figure | None":
    """Wiring and strength by group, with their intervals; None where no group has enough facts for either.

    Args:
        groups: a row a group: ``group``, ``facts``, ``wiring`` (1 − cosine, noise taken out) and ``strength`` (a
            ratio), each with ``_low`` and ``_high``; as of `CircuitGroups.to_frame`, or ``groups`` of a pair's JSON.
        deltas: margins of ``wiring`` and ``strength`` (a relative change) within which a change is none.
    """
    from plotly.subplots import make_subplots

    told = groups[groups["wiring"].notna() & groups["strength"].notna()]
    if told.empty:
        return None
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    names = [f"{row.group} ({row.facts})" for row in told.itertuples()]
    for column, (name, unit) in enumerate(PANELS.items(), 1):
        value, low, high = (told[f"{name}{end}"] for end in ("", "_low", "_high"))
        figure.add_scatter(
            x=value,
            y=names,
            mode="markers",
            marker={"color": theme.BLUE, "size": 9},
            error_x={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low},
            customdata=list(zip(low, high, strict=True)),
            hovertemplate="%{y}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
        figure.add_vline(x=STILL[name], line={"color": theme.GREY, "width": 1}, row=1, col=column)
        for bound in _bounds(name, deltas[name]):
            figure.add_vline(x=bound, line={"color": theme.GREY, "dash": "dot"}, row=1, col=column)
        figure.update_xaxes(title_text=unit, row=1, col=column)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return theme.dress(
        figure,
        title=groups_finding(told, deltas),
        subtitle="groups of facts, how many in brackets; bars: 95 % intervals; solid line: no change; dotted: margin",
        height=220 + 34 * len(told),
    )


def _bounds(name: str, delta: float) -> tuple[float, ...]:
    """Where a change stops being none."""
    return (delta,) if name == "wiring" else (1 / (1 + delta), 1 + delta)


def groups_finding(told: "pd.DataFrame", deltas: Mapping[str, float]) -> str:
    """In how many groups the wiring is certainly the same, or another, and how strong they are."""
    same = int((told["wiring_high"] <= deltas["wiring"]).sum())
    other = int((told["wiring_low"] > deltas["wiring"]).sum())
    low, high = told["strength"].min(), told["strength"].max()
    strength = f"{low:.2f} times as strong" if len(told) == 1 else f"{low:.2f} to {high:.2f} times as strong"
    if len(told) == 1:
        wired = "the same wiring" if same else "another wiring" if other else "wiring undecided"
        return f"{told['group'].iloc[0]} facts: {wired}; {strength}".capitalize()
    wired = f"same wiring in {same} of {len(told)} groups" + (f", another in {other}" if other else "")
    return f"{wired}; {strength}".capitalize()
