"""Roles over training: which heads of each checkpoint's circuit move, relate, look back, repeat or retrieve."""

from typing import TYPE_CHECKING

import numpy as np

from circuit_drift.measures.pairs.roles import roles_of
from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.recall import recalled, recalled_facts
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def roles_frame(run: RunRecord) -> "pd.DataFrame":
    """One row a head of a circuit and a role it certainly has: step, head, role.

    The circuits and the roles are those of the facts that some checkpoint of the run recalls, as in a diff.
    """
    import pandas as pd

    rows = []
    points = [point for point in run if point.circuit is not None and point.roles is not None]
    graphs = [point.circuit for point in points if point.circuit is not None]
    kept = recalled_facts(graphs)
    for point, graph in zip(points, recalled(graphs, "")[0], strict=True):
        roles = roles_of(point)
        assert roles is not None
        circuit = graph.prune()
        for head, names in (roles if kept is None else roles.only(kept)).of(circuit).items():
            rows += [(point.label, head, name) for name in names]
    return pd.DataFrame(rows, columns=["step", "head", "role"])


def roles_figure(run: RunRecord, frame: "pd.DataFrame") -> "go.Figure":
    """Heads of the circuit with each role, over training."""
    import plotly.graph_objects as go

    figure = go.Figure()
    places = [i for i, point in enumerate(run) if point.circuit is not None and point.roles is not None]
    for k, (role, rows) in enumerate(frame.groupby("role", sort=False)):
        by_step = rows.groupby("step")["head"].agg(list).to_dict()
        heads = [by_step.get(run.points[i].label, []) for i in places]
        figure.add_scatter(
            x=places,
            y=[len(names) for names in heads],
            name=str(role),
            mode="lines+markers",
            line={"color": theme.CATEGORIES[k], "dash": theme.DASHES[k % len(theme.DASHES)]},
            marker={"symbol": theme.SYMBOLS[k]},
            text=[", ".join(names) or "none" for names in heads],
            hovertemplate="%{y}: %{text}<extra>" + str(role) + "</extra>",
        )
    figure.update_yaxes(title_text="heads of the circuit", rangemode="tozero")
    subtitle = "facts that some checkpoint recalls, together; roles certain in 95 % of resamples of them"
    theme.dress(figure, title=_finding(run, frame, places), subtitle=subtitle)
    return over_checkpoints(figure, run)


def _finding(run: RunRecord, frame: "pd.DataFrame", places: list[int]) -> str:
    order = {run.points[i].label: n for n, i in enumerate(places)}
    movers = frame.loc[frame["role"] == "mover", "step"].map(order)
    if movers.empty:
        return "No head of a circuit is certainly a mover"
    last = int((movers == len(places) - 1).sum())
    first = run.points[places[int(np.min(movers))]].label
    return f"The first mover head stands out at step {first}; the last circuit has {last}"
