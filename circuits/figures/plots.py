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

from checkpoints.results.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, SIGNED, UNSIGNED, VERMILLION, dress
from circuits.graph.graph import Circuit, GraphShape
from circuits.graph.scores import meaning

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.attribution.positions import PositionScores
    from circuits.comparison.comparison import GraphDiff
    from circuits.graph.nodes import NodeScores
    from circuits.intervention.curves import Faithfulness, FaithfulnessCurve
    from circuits.intervention.transfer import Transfer

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


STYLES = {
    "gained": Style(BLUE, "solid", "diamond"),
    "lost": Style(VERMILLION, "dot", "x"),
    "strengthened": Style(GREEN, "solid", "triangle-up"),
    "weakened": Style(ORANGE, "dash", "triangle-down"),
    "flipped": Style(PURPLE, "dashdot", "star"),
    "kept": Style(GREY, "solid", "circle"),
    "uncertain": Style(GREY, "longdash", "circle-open", folded=True),
}
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


def diff_figure(diff: "GraphDiff", n: int = 100) -> "go.Figure":
    """The n edges of largest change, of those in either circuit or changed for real."""
    status = diff.status
    shown = np.flatnonzero(status != "outside")
    shown = shown[np.argsort(-np.abs(diff.delta[shown]), kind="stable")][:n]
    names = _edge_names(diff.shape)
    texts = {
        i: f"{w} → {r}<br>{status[i]}: {diff.a[i]:+.3g} → {diff.b[i]:+.3g}<br>Δ {diff.delta[i]:+.3g} "
        f"[{diff.tests.low[i]:+.3g}, {diff.tests.high[i]:+.3g}], q = {diff.tests.q[i]:.2g}"
        for i, (w, r) in ((i, names[i]) for i in shown)
    }
    figure = _canvas(diff.shape, [names[i] for i in shown])
    largest = float(np.abs(diff.delta[shown]).max(initial=0)) or 1.0
    for kind, style in STYLES.items():
        chosen = [i for i in shown if status[i] == kind]
        sizes = np.abs(diff.delta[chosen]) / largest
        _add_edges(figure, diff.shape, kind, style, [names[i] for i in chosen], [texts[i] for i in chosen], sizes)
    counts = diff.counts
    gained, lost = counts["gained"], counts["lost"]
    dress(
        figure,
        title=f"{diff.n_significant:,} edges changed for real; {gained} gained, {lost} lost",
        subtitle=f"the {len(shown)} strongest changes of the two circuits; {meaning(diff.meta)}; click a class to show "
        "or hide it",
        height=640,
    )
    return figure


def circuit_figure(circuit: Circuit, n: int = 150, *, metric: str | None = "metric") -> "go.Figure":
    """The strongest n edges of a circuit, by the sign of their scores.

    Args:
        circuit: what to draw.
        n: how many edges.
        metric: what the scores are changes of; ``None`` for shares without a sign (information flow routes).
    """
    rows, columns = np.nonzero(circuit.mask)
    scores = circuit.scores[rows, columns] if circuit.scores is not None else np.zeros(len(rows))
    strongest = np.argsort(-np.abs(scores), kind="stable")[:n]
    pairs = [(circuit.shape.writers[rows[i]], circuit.shape.readers[columns[i]]) for i in strongest]
    figure = _canvas(circuit.shape, pairs)
    largest = float(np.abs(scores[strongest]).max(initial=0)) or 1.0
    for kind, style in SIGNS.items():
        chosen = [k for k, i in enumerate(strongest) if (scores[i] > 0) == (kind == "raises")]
        texts = [f"{pairs[k][0]} → {pairs[k][1]}<br>{scores[strongest[k]]:+.3g}" for k in chosen]
        sizes = np.abs(scores[strongest[chosen]]) / largest
        name = "share of what is read" if metric is None else f"{kind} it"
        _add_edges(figure, circuit.shape, name, style, [pairs[k] for k in chosen], texts, sizes)
    told = "by their share of what is read" if metric is None else f"by what corrupting the edge does to the {metric}"
    dress(
        figure,
        title=f"Circuit of {circuit.n_edges:,} edges over {len(circuit.nodes)} nodes",
        subtitle=f"the {len(strongest)} strongest, {told}",
        height=640,
    )
    return figure


def curve_figure(curve: "FaithfulnessCurve") -> "go.Figure":
    """Faithfulness with its interval against the number of edges, random circuits beside it."""
    import plotly.graph_objects as go

    low, high = (np.array(side) for side in zip(*curve.intervals, strict=True))
    values = np.array(curve.values)
    figure = go.Figure()
    figure.add_scatter(
        x=curve.n_edges,
        y=values,
        error_y={"array": high - values, "arrayminus": values - low, "symmetric": False},
        name="circuit",
        mode="lines+markers",
        line={"color": BLUE},
    )
    figure.add_scatter(
        x=curve.n_edges,
        y=curve.random_values,
        name="random circuits of that size",
        mode="lines+markers",
        line={"color": GREY, "dash": "dot"},
        marker={"symbol": "x"},
    )
    figure.update_xaxes(title_text="edges in the circuit")
    figure.update_yaxes(title_text="faithfulness")
    dress(
        figure,
        title=f"{curve.n_edges[-1]:,} edges keep {values[-1]:.0%} of the {curve.meta.get('metric', 'metric')}",
        subtitle="(circuit - corrupt) / (clean - corrupt), exact runs; bars: 95 % bootstrap over the facts",
        height=420,
    )
    return figure


def faithfulness_figure(found: "Faithfulness") -> "go.Figure":
    """One circuit's faithfulness with its interval, random circuits of its size beside it."""
    import plotly.graph_objects as go

    frame = found.to_frame()
    figure = go.Figure()
    figure.add_bar(
        x=frame["circuit"],
        y=frame["faithfulness"],
        error_y={
            "array": frame["high"] - frame["faithfulness"],
            "arrayminus": frame["faithfulness"] - frame["low"],
            "symmetric": False,
        },
        marker={"color": [BLUE, *[GREY] * len(found.random)]},
    )
    figure.update_yaxes(title_text="faithfulness")
    dress(
        figure,
        title=f"{found.n_edges:,} {found.unit} keep {found.value:.0%} of the {found.meta.get('metric', 'metric')}",
        subtitle="(circuit - corrupt) / (clean - corrupt), exact runs; bars: 95 % bootstrap over the facts",
        height=420,
    )
    return figure


def _edge_names(shape: GraphShape) -> list[tuple[str, str]]:
    return [(shape.writers[i], shape.readers[j]) for i, j in np.argwhere(shape.mask)]


def _canvas(shape: GraphShape, edges: Sequence[tuple[str, str]]) -> "go.Figure":
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


def _add_edges(
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


def transfer_figure(transfer: "Transfer") -> "go.Figure":
    """Faithfulness of each circuit in each model."""
    import plotly.graph_objects as go

    values = transfer.values
    places = np.ndindex(values.shape)
    ranges = np.array(["[{:.2f}, {:.2f}]".format(*transfer.interval(*place)) for place in places]).reshape(values.shape)
    figure = go.Figure(
        go.Heatmap(
            z=values.astype(np.float32),
            x=list(transfer.models),
            y=list(transfer.names),
            zmin=0,
            zmax=1,
            colorscale=UNSIGNED,
            colorbar={"title": {"text": "faithfulness"}},
            texttemplate="%{z:.2f}" if values.size <= 144 else None,
            customdata=ranges,
            hovertemplate="circuit of %{y} in model %{x}: %{z:.2f} %{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="model", type="category")
    figure.update_yaxes(title_text="circuit of", type="category", autorange="reversed")
    apart = values[~np.eye(len(values), dtype=bool)]
    dress(
        figure,
        title=f"Own circuits keep {np.diag(values).mean():.2f}, foreign ones {apart.mean() if len(apart) else 1:.2f}",
        subtitle="faithfulness of each checkpoint's circuit in each one's model, exact runs; hover for 95 % intervals",
        height=480,
    )
    return figure


def positions_figure(positions: "PositionScores", k: int) -> "go.Figure":
    """Scores of the k leading writers at each segment of the prompts."""
    import plotly.graph_objects as go

    frame = positions.nodes()
    frame = frame.loc[frame.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:k]]
    largest = float(frame.abs().to_numpy().max(initial=0)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=frame.to_numpy(np.float32),
            x=list(frame.columns),
            y=list(frame.index),
            zmin=-largest,
            zmax=largest,
            colorscale=SIGNED,
            colorbar={"title": {"text": "score"}},
            texttemplate="%{z:.2f}" if frame.size <= 144 else None,
            hovertemplate="%{y} at %{x}: %{z:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="segment", type="category")
    figure.update_yaxes(title_text="writer", type="category", autorange="reversed")
    node, segment = frame.abs().stack().idxmax()
    dress(
        figure,
        title=f"{node} at {segment!r} carries most: {frame.loc[node, segment]:+.2f}",
        subtitle=f"sum over a writer's out-edges; {meaning(positions.whole.meta, 'it there')}",
        height=520,
    )
    return figure


def nodes_figure(nodes: "NodeScores", k: int) -> "go.Figure":
    """Scores of the k leading nodes with their standard errors."""
    import plotly.graph_objects as go

    frame = nodes.to_frame().head(k)
    bars = go.Bar(
        x=frame["node"], y=frame["score"], error_y={"array": frame["stderr"], "color": "#222222"}, marker_color=BLUE
    )
    figure = go.Figure(bars)
    figure.update_xaxes(title_text="node", type="category")
    figure.update_yaxes(title_text="score")
    dress(
        figure,
        title=f"{frame['node'].iloc[0]} carries most: {frame['score'].iloc[0]:+.2f}",
        subtitle=f"{meaning(nodes.meta, 'the node')}; bars: standard errors over the facts",
        height=420,
    )
    return figure
