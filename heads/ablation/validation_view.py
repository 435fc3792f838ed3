"""What an ablation did as boxes and bars; figures are returned, never shown."""

from typing import TYPE_CHECKING

from checkpoints.results.figure import BLUE, GREY, PURPLE, SKY, VERMILLION, dress

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.ablation.validation import Readout, Validation

_CONTROLS = (BLUE, SKY, PURPLE)


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
