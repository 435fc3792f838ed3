"""Figures of retrieval over training. Each takes a run's record and returns a plotly figure.

The x axis holds the checkpoints evenly spaced in their order, since log-spaced steps and several stages fit on no
common scale; tick labels are the steps.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.results.text import counted
from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints, tick_labels
from circuit_drift.page.thinning import thinned
from circuit_drift.record.record import RunRecord
from circuit_drift.record.untrained import null_name, null_point
from heads.scores.names import head_names
from heads.scores.scores import THRESHOLD

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def behaviour_figure(run: RunRecord) -> "go.Figure":
    """Needle score and accuracy (left) against answer perplexity (right, log) over training."""
    from plotly.subplots import make_subplots

    points = [(i, point.heads) for i, point in enumerate(run) if point.heads is not None]
    x = [i for i, _ in points]
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    passed = [scores.needle_score for _, scores in points]
    accuracy = [scores.needle_accuracy for _, scores in points]
    perplexity = [scores.answer_ppl for _, scores in points]
    for name, values, colour, symbol in (
        ("needle score (over half of the answer)", passed, theme.SKY, "diamond"),
        ("needle accuracy (all of it)", accuracy, theme.BLUE, "circle"),
    ):
        figure.add_scatter(
            x=x,
            y=values,
            name=name,
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbol},
            secondary_y=False,
        )
    figure.add_scatter(
        x=x,
        y=perplexity,
        name="answer perplexity",
        mode="lines+markers",
        line={"color": theme.VERMILLION, "dash": "dash"},
        marker={"symbol": "square"},
        secondary_y=True,
    )
    figure.update_yaxes(title_text="share of needle prompts", range=[-0.03, 1.03], secondary_y=False)
    ticks = [m * 10.0**e for e in range(7) for m in (1, 2, 5) if m * 10.0**e <= 2 * max(perplexity)]
    figure.update_yaxes(
        title_text="answer perplexity (log)",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,.0f}" for tick in ticks],
        showgrid=False,
        secondary_y=True,
    )
    n = len(points[0][1].correct)
    theme.dress(
        figure,
        title=f"Needle score {passed[0]:.2f} → {passed[-1]:.2f}, accuracy {accuracy[0]:.2f} → {accuracy[-1]:.2f}; "
        f"answer perplexity {perplexity[0]:,.2f} → {perplexity[-1]:,.2f}",
        subtitle=f"{counted(n, 'needle prompt')}, answers teacher-forced: score = over half of the answer's tokens are "
        "the top token, accuracy = all are",
    )
    return over_checkpoints(figure, run)


def row_height(layers: int) -> int:
    """Pixels of a layer in a map of heads: so many that a deep model's fits on a screen, and its name can be read."""
    return min(46, max(16, 600 // layers))


def head_map_figure(run: RunRecord) -> "go.Figure":
    """Mean retrieval score of every head, layers x heads, with a slider over checkpoints, thinned in a long run."""
    import plotly.graph_objects as go

    scored = [point for point in run if point.heads is not None]
    counts = [point.heads.count() for point in scored if point.heads is not None]
    points = [scored[place] for place in thinned(len(scored))]
    maps = [point.heads.mean.astype(np.float32) for point in points if point.heads is not None]
    layers, n_heads = maps[0].shape
    shown = len(maps) - 1
    common: dict[str, Any] = {
        "x": [f"h{h}" for h in range(n_heads)],
        "y": [f"layer {layer}" for layer in range(layers)],
        "zmin": 0,
        "zmax": 1,
        "colorscale": theme.UNSIGNED,
        "colorbar": {"title": {"text": "retrieval score"}},
        "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    figure = go.Figure(
        data=[go.Heatmap(z=maps[shown], **common)],
        frames=[go.Frame(data=[go.Heatmap(z=z, **common)], name=p.name) for z, p in zip(maps, points, strict=True)],
    )
    labels = dict(zip((point.name for point in run), tick_labels(run), strict=True))
    instant = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": labels[p.name], "method": "animate", "args": [[p.name], instant]} for p in points]
    figure.update_layout(
        sliders=[{"active": shown, "steps": steps, "currentvalue": {"prefix": "step "}, "pad": {"t": 40}}],
    )
    theme.dress(
        figure,
        title=f"Retrieval heads (score > {THRESHOLD}): {counts[0]} at the start, {max(counts)} at most, "
        f"{counts[-1]} at the end",
        subtitle="mean share of the needle a head copies; move the slider over the checkpoints; the scale is fixed",
        height=max(360, row_height(layers) * layers + 240),
    )
    return figure


def head_lines_figure(run: RunRecord, k: int = 8) -> "go.Figure":
    """Retrieval score over training of the heads that reach the highest scores."""
    import plotly.graph_objects as go

    indexed = [(i, point.heads.mean) for i, point in enumerate(run) if point.heads is not None]
    x = [i for i, _ in indexed]
    scores = np.stack([mean for _, mean in indexed])
    peak = np.nan_to_num(np.fmax.reduce(scores, axis=0), nan=-1.0)
    leading = [divmod(int(flat), peak.shape[1]) for flat in np.argsort(-peak, axis=None, kind="stable")[:k]]
    figure = go.Figure()
    for j, (layer, head) in enumerate(leading):
        figure.add_scatter(
            x=x,
            y=scores[:, layer, head],
            name=f"a{layer}.h{head}",
            mode="lines+markers",
            line={"color": theme.CATEGORIES[j % 8], "dash": theme.DASHES[j % 6]},
            marker={"symbol": theme.SYMBOLS[j % 8]},
        )
    twin = null_point(run)
    if twin is not None and twin.heads is not None:
        floor, line = float(np.nanmax(twin.heads.mean)), {"color": theme.GREY, "dash": "dash", "width": 1}
        figure.add_scatter(x=x, y=[floor] * len(x), name=f"best head of {null_name(twin)}", mode="lines", line=line)
    figure.add_hline(y=THRESHOLD, line={"color": theme.GREY, "dash": "dot", "width": 1})
    figure.update_yaxes(title_text="retrieval score", range=[-0.03, 1.03])
    best = leading[0]
    series = scores[:, best[0], best[1]]
    theme.dress(
        figure,
        title=f"a{best[0]}.h{best[1]} leads: {series[0]:.2f} at the start, {np.fmax.reduce(series):.2f} at its peak, "
        f"{series[-1]:.2f} at the end",
        subtitle=f"the {len(leading)} heads with the highest peak; dotted line: the {THRESHOLD} threshold",
    )
    return over_checkpoints(figure, run)


def head_frame(run: RunRecord) -> "pd.DataFrame":
    """The numbers behind the head map, long form: step, head, layer, score and its 95 % interval."""
    import pandas as pd

    columns: dict[str, list[Any]] = {name: [] for name in ("layer", "head", "n", "score", "low", "high")}
    steps, names = list[Any](), list[str]()
    for point in run:
        if (scores := point.heads) is not None:
            low, high = scores.interval
            found = *np.indices(scores.shape), (~np.isnan(scores.copy)).sum(axis=0), scores.mean, low, high
            for column, values in zip(columns.values(), found, strict=True):
                column.append(values.ravel())
            names += head_names(scores.shape)
            steps += [point.label] * scores.mean.size
    return pd.DataFrame({"step": steps, "name": names} | {name: np.concatenate(of) for name, of in columns.items()})
