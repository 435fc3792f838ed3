"""Figures in one fixed layout: head index on x with the MLPs at the right, layer on y, input below, logits on top.

The layout depends on the architecture alone, so that any two figures can be laid over each other. Edges of one kind
share a legend entry and are the wider, the stronger; hover texts sit on their midpoints. Figures are returned, never
shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.figure import BLUE, VERMILLION, dress
from circuits.graph.shape import GraphShape

if TYPE_CHECKING:
    import plotly.graph_objects as go

GHOST = "#DDDDDD"
WIDTHS = ((0.0, 1.2), (0.15, 2.4), (0.4, 4.0))
"""From which share of the largest score or change on an edge is drawn how wide, in pixels."""


@dataclass(frozen=True, slots=True)
class Style:
    """How one class of edges is drawn; never by colour alone. A folded class waits in the legend for a click."""

    colour: str
    dash: str
    symbol: str
    folded: bool = False


SIGNS = {"raises": Style(VERMILLION, "dash", "triangle-up"), "lowers": Style(BLUE, "solid", "circle")}


def position(shape: GraphShape, name: str) -> tuple[float, float]:
    """(x, y) of a node or reader."""
    node = name.split("<")[0]
    if node == "input":
        return (shape.n_heads - 1) / 2, -1.0
    if node == "logits":
        return (shape.n_heads - 1) / 2, float(shape.n_layers)
    if node.startswith("m"):
        return shape.n_heads + 0.5, int(node[1:]) + 0.35
    layer, _, part = node.partition(".")
    if part.startswith("kv"):
        heads = [int(head.partition(".h")[2]) for head in shape.heads_reading(name)]
        return float(np.mean(heads)), float(layer[1:])
    return float(part[1:]), float(layer[1:])


def edges_figure(
    shape: GraphShape,
    edges: Sequence[tuple[str, str]],
    scores: NDArray[np.floating],
    *,
    title: str,
    metric: str | None,
) -> "go.Figure":
    """Edges by the sign of their scores.

    Args:
        shape: the graph.
        edges: E (writer, reader) pairs, strongest first.
        scores: [E] of them.
        title: of the figure.
        metric: what the scores are changes of; ``None`` for shares without a sign (information flow routes).
    """
    figure = canvas(shape, edges)
    largest = float(np.abs(scores).max(initial=0)) or 1.0
    for kind, style in SIGNS.items():
        chosen = [k for k, score in enumerate(scores) if (score > 0) == (kind == "raises")]
        texts = [f"{edges[k][0]} → {edges[k][1]}<br>{scores[k]:+.3g}" for k in chosen]
        name = "share of what is read" if metric is None else f"{kind} it"
        add_edges(figure, shape, name, style, [edges[k] for k in chosen], texts, np.abs(scores[chosen]) / largest)
    told = "by their share of what is read" if metric is None else f"by what corrupting the edge does to the {metric}"
    return dress(figure, title=title, subtitle=f"the {len(edges)} strongest, {told}", height=640)


def canvas(shape: GraphShape, edges: Sequence[tuple[str, str]]) -> "go.Figure":
    """All nodes as ghosts, those that the edges touch in black; shared key/value heads as squares amid their group."""
    import plotly.graph_objects as go

    nodes = (*shape.writers, "logits")
    used = {node for w, r in edges for node in (w, *shape.heads_reading(r))}
    figure = go.Figure()
    shared = list(dict.fromkeys(r.split("<")[0] for _, r in edges if ".kv" in r))
    for names, colour, symbol in (
        ([n for n in nodes if n not in used], GHOST, "circle"),
        ([n for n in nodes if n in used], "#222222", "circle"),
        *([(shared, "#222222", "square-open")] if shared else []),
    ):
        points = np.array([position(shape, name) for name in names]).reshape(-1, 2)
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            text=names,
            mode="markers",
            marker={"color": colour, "size": 7, "symbol": symbol},
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(
        title_text="head",
        tickvals=[*range(shape.n_heads), shape.n_heads + 0.5],
        ticktext=[*map(str, range(shape.n_heads)), "MLP"],
        range=[-0.8, shape.n_heads + 1.3],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        tickvals=[-1, *range(shape.n_layers), shape.n_layers],
        ticktext=["input", *(f"layer {i}" for i in range(shape.n_layers)), "logits"],
        range=[-1.5, shape.n_layers + 0.5],
        showgrid=False,
        zeroline=False,
    )
    return figure


def add_edges(
    figure: "go.Figure",
    shape: GraphShape,
    name: str,
    style: Style,
    edges: Sequence[tuple[str, str]],
    texts: Sequence[str],
    sizes: NDArray[np.floating],
) -> None:
    """One class of edges: a trace of lines for each width in use, one of midpoints that carry the hover texts.

    Args:
        figure: what to draw on.
        shape: the graph.
        name: of the class, for the legend.
        style: of the class.
        edges: (writer, reader) pairs.
        texts: one for each edge.
        sizes: one for each edge, as a share of the largest in the figure; the wider the line.
    """
    if not edges:
        return
    shown: bool | str = "legendonly" if style.folded else True
    starts = np.array([position(shape, writer) for writer, _ in edges])
    ends = np.array([position(shape, reader) for _, reader in edges])
    middles = (starts + ends) / 2
    steps = np.digitize(sizes, [step for step, _ in WIDTHS[1:]])
    for place, step in enumerate(np.unique(steps)):
        chosen = steps == step
        figure.add_scatter(
            x=_broken(starts[chosen, 0], ends[chosen, 0]),
            y=_broken(starts[chosen, 1], ends[chosen, 1]),
            mode="lines",
            line={"color": style.colour, "dash": style.dash, "width": WIDTHS[step][1]},
            opacity=0.6,
            hoverinfo="skip",
            name=f"{name} ({len(edges)})",
            legendgroup=name,
            showlegend=place == 0,
            visible=shown,
        )
    figure.add_scatter(
        x=middles[:, 0],
        y=middles[:, 1],
        mode="markers",
        marker={"color": style.colour, "symbol": style.symbol, "size": 7},
        text=list(texts),
        hovertemplate="%{text}<extra></extra>",
        legendgroup=name,
        visible=shown,
        showlegend=False,
    )


def _broken(starts: NDArray[np.floating], ends: NDArray[np.floating]) -> list[float | None]:
    """Segments as one line with gaps."""
    points: list[float | None] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        points += [start, end, None]
    return points
