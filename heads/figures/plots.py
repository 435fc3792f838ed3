"""Figures of retrieval scores; each function returns a plotly figure and shows nothing."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import BLUE, GREY, PURPLE, SIGNED, SKY, UNSIGNED, VERMILLION, dress
from heads.scores.stats import Floats, nanmean

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.ablation.validation import Readout, Validation
    from heads.comparison.comparison import HeadComparison
    from heads.niah.grid import NeedleMap
    from heads.scores.scores import HeadScores
    from heads.tracking.monitoring import Curve, Monitor

_CONTROLS = (BLUE, SKY, PURPLE)


def plot_scores(scores: "HeadScores", *, by: str) -> "go.Figure":
    """Heat map of a detector's mean, layer on y (input at the bottom), head on x.

    Copy scores are coloured from 0 to 1 (or their largest), so that checkpoints look alike where they are; others up
    to their largest, and around 0 where some are negative.
    """
    mean = nanmean(scores.detector(by))
    best = scores.top(1, by=by)
    title = f"{by}: {best[0].name} leads with {best[0].score}" if best else f"{by}: not applicable"
    about = f"mean over {len(scores)} prompts; blank = not applicable"
    reach = max(float(np.nanmax(np.abs(mean), initial=0.0)), 1.0 if by.startswith(("copy", "activation")) else 1e-6)
    signed = float(np.nanmin(mean, initial=0.0)) < 0
    scale, low = (SIGNED, -reach) if signed else (UNSIGNED, 0.0)
    return dress(_heat_map(mean, scale=scale, low=low, high=reach), title=title, subtitle=about)


def plot_comparison(comparison: "HeadComparison") -> "go.Figure":
    """Heat map of the change B - A, significant heads outlined."""
    import plotly.graph_objects as go

    reach = max(float(np.nanmax(np.abs(comparison.delta), initial=0.0)), 0.01)
    title = f"{comparison.n_significant} heads changed their retrieval score"
    about = f"change B - A over {comparison.n} {comparison.unit}s; circled: q <= {comparison.level}"
    figure = _heat_map(comparison.delta, scale=SIGNED, low=-reach, high=reach)
    layers, heads = np.nonzero(comparison.q <= comparison.level)
    ring = {"symbol": "circle-open", "size": 12, "color": "black", "line": {"width": 2}}
    figure.add_trace(go.Scatter(x=heads, y=layers, mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    return dress(figure, title=title, subtitle=about)


def plot_monitor(monitor: "Monitor") -> "go.Figure":
    """Retrieval heads, needle score and accuracy, answer perplexity over training, each with its 95 % band."""
    from plotly.subplots import make_subplots

    panels = (
        ("retrieval_heads", "retrieval heads"),
        ("needle_score", "needle score"),
        ("needle_accuracy", "needle accuracy"),
        ("answer_ppl", "answer PPL"),
    )
    still = {{"answer_nll": "answer_ppl"}.get(s.metric, s.metric): s.at for s in monitor.saturations}
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for row, (name, title) in enumerate(panels, 1):
        for trace in _band(monitor.steps, monitor.curves[name], title):
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title=title, row=row, col=1)
        if (at := still.get(name)) is not None:
            figure.add_vline(x=at.step, line_dash="dot", row=row, col=1)
    figure.update_yaxes(type="log", row=len(panels), col=1)
    figure.update_xaxes(title="step", type="log" if min(monitor.steps) > 0 else "linear", row=len(panels), col=1)
    deceived = [sentence for sentence in monitor.findings if sentence.startswith("deceptive")]
    title = deceived[0] if deceived else monitor.findings[0]
    about = f"bands: 95 % over {monitor.unit}s; dotted: saturated from here on"
    return dress(figure, title=title, subtitle=about, height=720).update_layout(showlegend=False)


def plot_readout(readout: "Readout") -> "go.Figure":
    """Boxes over the prompts of both NLLs under one ablation."""
    import plotly.graph_objects as go

    figure = go.Figure([go.Box(y=readout.nll, name="answer"), go.Box(y=readout.text_nll, name="plain text")])
    figure.update_traces(marker_color=BLUE).update_yaxes(title="NLL, nats per token")
    return dress(figure, title=readout.summary()).update_layout(showlegend=False)


def plot_validation(validation: "Validation") -> "go.Figure":
    """Bars of needle score, accuracy and both NLLs with 95 % intervals: the model as it is, tested heads, controls."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    frame = validation.to_frame()
    kinds = [
        GREY,
        VERMILLION,
        *(_CONTROLS[i % 3] for i, runs in enumerate(validation.controls.values()) for _ in runs),
    ]
    panels = {"needle_score": "needle score", "needle_accuracy": "accuracy"}
    panels |= {"answer_nll": "answer NLL", "text_nll": "plain-text NLL"}
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=list(panels.values()))
    for column, name in enumerate(panels, 1):
        above, below = frame[f"{name}_high"] - frame[name], frame[name] - frame[f"{name}_low"]
        bars = go.Bar(x=frame.ablation, y=frame[name], marker_color=kinds)
        bars.error_y = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
        bars.customdata = frame[["heads", "retrieving"]]
        bars.hovertemplate = "%{x}: %{y:.3f}<br>%{customdata[0]}<br>%{customdata[1]} of them retrieve<extra></extra>"
        figure.add_trace(bars, row=1, col=column)
    tested = validation.tested
    said = "causal" if validation.causal else "not shown to be causal"
    about = (
        f"ablation: {tested.kind}, {tested.scope}; controls: {' and '.join(validation.controls)}; NLL in nats per token"
    )
    kept = [run.score for runs in validation.controls.values() for run in runs]
    title = (
        f"{len(tested.heads)} top heads ablated: needle score {tested.score:.0%}, controls {min(kept):.0%} to "
        f"{max(kept):.0%}; {said} for retrieval"
    )
    dress(figure, title=title, subtitle=about.replace("_", "-"), height=460)
    return figure.update_layout(showlegend=False, margin_t=120)


def plot_map(needle_map: "NeedleMap") -> "go.Figure":
    """Answer PPL as colour on a log scale, accuracy as text; the first axis on y."""
    import plotly.graph_objects as go

    ppl, accuracy = needle_map.cell_ppl, needle_map.cell_accuracy
    text = [[f"{p:.3g}<br>{a:.0%}" for p, a in zip(*row, strict=True)] for row in zip(ppl, accuracy, strict=True)]
    heat = go.Heatmap(
        z=np.log10(ppl),
        x=[f"{value:g}" for value in needle_map.columns],
        y=[f"{value:g}" for value in needle_map.rows],
        text=text,
        texttemplate="%{text}",
        colorscale=f"{UNSIGNED}_r",
        zmin=0.0,
        colorbar_title="log10 PPL",
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title=needle_map.axes[1], type="category")
    figure.update_yaxes(title=needle_map.axes[0], type="category")
    return dress(figure, title=needle_map.summary(), subtitle="cells: answer PPL and needle accuracy")


def _band(steps: "tuple[int, ...]", curve: "Curve", name: str) -> "list[go.Scatter]":
    import plotly.graph_objects as go

    x, around = [*steps, *steps[::-1]], np.concatenate([curve.high, curve.low[::-1]])
    band = go.Scatter(x=x, y=around, fill="toself", fillcolor=BLUE, opacity=0.15, line_width=0, hoverinfo="skip")
    line = go.Scatter(x=list(steps), y=curve.value, mode="lines+markers", name=name, line_color=BLUE)
    return [band, line]


def _heat_map(values: Floats, *, scale: str, low: float, high: float) -> "go.Figure":
    import plotly.graph_objects as go

    heat = go.Heatmap(
        z=values.astype(np.float32),
        zmin=low,
        zmax=high,
        colorscale=scale,
        hovertemplate="a%{y}.h%{x}: %{z:.3f}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_layout(plot_bgcolor="#eeeeee")
    figure.update_xaxes(title="head", dtick=max(1, values.shape[1] // 16))
    figure.update_yaxes(title="layer", dtick=max(1, values.shape[0] // 16))
    return figure
