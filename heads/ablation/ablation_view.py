"""What an ablation did as boxes and bars; figures are returned, never shown."""

from typing import TYPE_CHECKING

from checkpoints.results.figure import BLUE, GREY, PURPLE, SKY, VERMILLION, dress
from checkpoints.results.text import counted

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.ablation.ablation import Ablation, Readout

_CONTROLS = (BLUE, SKY, PURPLE)


def plot_readout(readout: "Readout") -> "go.Figure":
    """Boxes over the prompts of both NLLs under one ablation."""
    import plotly.graph_objects as go

    figure = go.Figure([go.Box(y=readout.nll, name="answer"), go.Box(y=readout.text_nll, name="plain text")])
    figure.update_traces(marker_color=BLUE).update_yaxes(title="NLL, nats per token")
    return dress(figure, title=str(readout)).update_layout(showlegend=False)


def plot_ablation(ablation: "Ablation") -> "go.Figure":
    """Bars of needle score, accuracy and both NLLs with 95 % intervals: the model as it is, tested heads, controls."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    frame = ablation.to_frame()
    kinds = [
        GREY,
        VERMILLION,
        *(_CONTROLS[i % 3] for i, runs in enumerate(ablation.controls.values()) for _ in runs),
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
    tested = ablation.tested
    about = (
        f"ablation: {tested.kind}, {tested.scope}; controls: {' and '.join(ablation.controls) or 'none'}; NLL in nats "
        "per token"
    )
    title = f"{counted(len(tested.heads), 'head')} ablated: needle score {tested.score:.0%}{_beside_controls(ablation)}"
    dress(figure, title=title, subtitle=about.replace("_", "-"), height=460, top=120)
    return figure.update_layout(showlegend=False)


def _beside_controls(ablation: "Ablation") -> str:
    """The controls' needle scores and what follows from them; "" without controls."""
    scores = [run.score for runs in ablation.controls.values() for run in runs]
    if not scores:
        return ""
    causal = "causal" if ablation.causal else "not shown to be causal"
    return f", controls {min(scores):.0%} to {max(scores):.0%}; {causal} for retrieval"
