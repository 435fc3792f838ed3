"""What every head writes towards the answer against how much of it the head copies, over training."""

from typing import TYPE_CHECKING, Any

import numpy as np

from circuit_drift.measures.figures.slider import slide
from circuit_drift.measures.pairs.writing import WRITTEN
from circuit_drift.page import theme
from circuit_drift.record.record import RunRecord
from heads.scores.names import head_names
from heads.scores.scores import THRESHOLD, Scores

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def writing_figure(run: RunRecord) -> "go.Figure":
    """A mark a head: retrieval score across, direct write in logits up; a slider over the checkpoints."""
    import plotly.graph_objects as go

    points = [point for point in run if "writing" in point.results]
    every: list[Scores] = [point.results["writing"] for point in points]
    drawings = [[_marks(scores)] for scores in every]
    figure = go.Figure(drawings[-1])
    writes = np.concatenate([scores.mean_of(WRITTEN).ravel() for scores in every])
    low, high = float(np.nanmin(writes)), float(np.nanmax(writes))
    margin = 0.05 * (high - low) or 1.0
    figure.add_vline(x=THRESHOLD, line={"color": theme.GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(title_text="retrieval score (attention alone)", range=[-0.03, 1.03])
    figure.update_yaxes(title_text="write towards the copied answer, logits", range=[low - margin, high + margin])
    best = every[-1].top(1, by=WRITTEN)[0]
    mean = every[-1].mean
    silent = int(((mean > THRESHOLD) & (every[-1].mean_of(WRITTEN) <= 0)).sum())
    theme.dress(
        figure,
        title=f"{best.name} writes most at the last checkpoint: {best.score.value:+.2f} logits; {silent} of "
        f"{int((mean > THRESHOLD).sum())} retrieval heads write nothing for the answer",
        subtitle="a mark a head, mean over prompts; right and low: looks at the answer and does not say it",
        height=480,
    )
    return slide(figure, run, points, drawings)


def _marks(scores: Scores) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=scores.mean.ravel().astype(np.float32),
        y=scores.mean_of(WRITTEN).ravel().astype(np.float32),
        text=list(head_names(scores.shape)),
        mode="markers",
        marker={"color": theme.BLUE},
        hovertemplate="%{text}: score %{x:.3f}, write %{y:+.3f} logits<extra></extra>",
        showlegend=False,
    )


def writing_frame(run: RunRecord) -> "pd.DataFrame":
    """One row a checkpoint and head: step, name, copy (retrieval score), copy_written and locos_frozen (logits)."""
    import pandas as pd

    frames = []
    for point in run:
        if "writing" in point.results:
            frame = point.results["writing"].statistics(WRITTEN)[["name", "low", "high"]]
            means = {name: point.results["writing"].mean_of(name).ravel() for name in ("copy", WRITTEN, "locos_frozen")}
            frames.append(frame.assign(step=point.label, **means))
    table = pd.concat(frames, ignore_index=True)
    return table[["step", "name", "copy", WRITTEN, "low", "high", "locos_frozen"]]
