"""Expert routing over training: shares by layer and expert, evenness, drift."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.results.figure import SIGNED
from checkpoints.stats.bootstrap import Estimate
from circuit_drift.measures.figures.estimates import ends, estimates_figure
from circuit_drift.measures.figures.slider import slide
from circuit_drift.page import theme
from circuit_drift.record.record import RunRecord
from heads.niah.routing import ExpertRouting

if TYPE_CHECKING:
    import plotly.graph_objects as go


def shares_figure(run: RunRecord) -> "go.Figure":
    """Share of the slots by layer and expert on text, and what needle answers add to it; a slider over checkpoints."""
    from plotly.subplots import make_subplots

    points = [point for point in run if "routing" in point.results]
    every: list[ExpertRouting] = [point.results["routing"] for point in points]
    top = max(float(np.nanmax(each.share("text"))) for each in every)
    widest = max(float(np.nanmax(np.abs(each.share("answer") - each.share("text")))) for each in every)
    drawings = [_heats(each, top, widest) for each in every]
    figure = make_subplots(rows=1, cols=2, subplot_titles=["text", "answers minus text"], horizontal_spacing=0.16)
    for column, heat in enumerate(drawings[-1], 1):
        figure.add_trace(heat, row=1, col=column)
    figure.update_xaxes(title_text="expert").update_yaxes(title_text="layer", row=1, col=1)
    theme.dress(
        figure,
        title=every[-1].verdict,
        subtitle="share of a layer's routing slots; both scales are the same for all checkpoints",
        height=max(420, 14 * every[-1].shares.shape[2] + 280),
    )
    return slide(figure, run, points, drawings)


def _heats(routing: ExpertRouting, top: float, widest: float) -> list[Any]:
    import plotly.graph_objects as go

    text = routing.share("text")
    common = {"x": list(range(text.shape[1])), "y": list(range(len(text)))}
    hover = "layer %{y}, expert %{x}: %{z:.3f}<extra></extra>"
    apart = (routing.share("answer") - text).astype(np.float32)
    return [
        go.Heatmap(z=text.astype(np.float32), zmin=0, zmax=top, colorscale=theme.UNSIGNED, hovertemplate=hover,
                   colorbar={"title": {"text": "share"}, "x": 0.42, "len": 0.9}, **common),
        go.Heatmap(z=apart, zmin=-widest, zmax=widest, colorscale=SIGNED, hovertemplate=hover,
                   colorbar={"title": {"text": "difference"}, "len": 0.9}, **common),
    ]  # fmt: skip


def routing_figure(run: RunRecord, read: Sequence[Mapping[str, float] | None], drift: Sequence[float]) -> "go.Figure":
    """Evenness of text's and answers' routing, the answers' shift, and the drift from checkpoint to checkpoint.

    Args:
        run: for the axis.
        read: the measure's reading at each checkpoint.
        drift: share of slots that moved since the checkpoint before; NaN where it is not known.
    """
    names = {"routing_evenness": "evenness, text", "answer_evenness": "evenness, answers"}
    names |= {"answer_shift": "answers against text"}
    lines: dict[str, list[Estimate | None]] = {
        name: [None if each is None else _exact(each[column]) for each in read] for column, name in names.items()
    }
    lines["drift"] = [None if np.isnan(value) else _exact(value) for value in drift]
    figure = estimates_figure(run, lines, unit="share of slots; evenness, 1 = even")
    figure.update_yaxes(range=[-0.03, 1.03])
    return theme.dress(
        figure,
        title=f"Evenness of the routing {ends(lines['evenness, text'])}, of answers "
        f"{ends(lines['evenness, answers'])}; slots that moved since the checkpoint before {ends(lines['drift'])}",
        subtitle="evenness: entropy of the experts' shares over that of even routing; drift and the answers' line: "
        "share of slots that go to other experts",
    )


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 1)
