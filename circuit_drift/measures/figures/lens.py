"""The logit lens over training: median rank by layer and checkpoint, and rank by fact and layer."""

from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.results.text import label
from circuit_drift.measures.figures.slider import slide
from circuit_drift.page import theme
from circuit_drift.page.axis import over_checkpoints
from circuit_drift.record.record import RunRecord
from circuits.trace.lens import TOP, LogitLens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHOWN = 60
WIDTH = 48


def lenses_of(run: RunRecord) -> list[LogitLens]:
    """The lenses of the checkpoints that have one, in order."""
    return [point.results["lens"] for point in run if "lens" in point.results]


def lens_figure(run: RunRecord) -> "go.Figure":
    """Median rank after every layer (up) at every checkpoint (across), on a log scale."""
    import plotly.graph_objects as go

    lenses = lenses_of(run)
    x = [i for i, point in enumerate(run) if "lens" in point.results]
    median = np.stack([lens.median for lens in lenses], axis=1)
    hits = np.stack([lens.hit(TOP) for lens in lenses], axis=1)
    figure = go.Figure(
        go.Heatmap(
            z=np.log10(median),
            x=x,
            y=_layers(lenses[0]),
            customdata=np.stack([median, hits], axis=-1),
            hovertemplate="%{y}: median rank %{customdata[0]:,.0f}, Hit@10 %{customdata[1]:.2f}<extra></extra>",
            colorscale=f"{theme.UNSIGNED}_r",
            zmin=0.0,
            colorbar_title="log10 rank",
        )
    )
    first, last = lenses[0], lenses[-1]
    theme.dress(
        figure,
        title=f"Median rank of the answer at the end of the layers {first.median[-1]:,.0f} → {last.median[-1]:,.0f}; "
        f"Hit@{TOP} {first.hit(TOP)[-1]:.2f} → {last.hit(TOP)[-1]:.2f}",
        subtitle=f"at the last checkpoint answers stay among the {TOP} top tokens from layer {last.mean_settled:.1f} "
        f"of {last.layers} on average; layer 0 = the embedding",
        height=max(360, 16 * last.layers + 240),
    )
    return over_checkpoints(figure, run)


def facts_figure(run: RunRecord) -> "go.Figure":
    """Rank of every fact's answer (down) after every layer (across), with a slider over the checkpoints."""
    import plotly.graph_objects as go

    points = [point for point in run if "lens" in point.results]
    lenses = lenses_of(run)
    top = max(float(np.log10(lens.rank[:SHOWN].max())) for lens in lenses)
    drawings = [[_heat(lens, top)] for lens in lenses]
    figure = go.Figure(drawings[-1])
    last = lenses[-1]
    there, shown = int((last.rank[:, -1] <= TOP).sum()), min(SHOWN, len(last))
    part = f"the first {shown} of {len(last)} facts" if shown < len(last) else f"{shown} facts"
    theme.dress(
        figure,
        title=f"{there} of {len(last)} answers are among the {TOP} top tokens at the last checkpoint",
        subtitle=f"{part}; colour: log10 of the answer's rank, one scale for all checkpoints",
        height=max(420, 16 * shown + 260),
    )
    figure.update_xaxes(title_text="after layer (0 = embedding)").update_yaxes(autorange="reversed")
    return slide(figure, run, points, drawings)


def _heat(lens: LogitLens, top: float) -> Any:
    import plotly.graph_objects as go

    names = [f"{i}: {label(name[-WIDTH:])}" for i, name in enumerate(lens.names[:SHOWN])]
    return go.Heatmap(
        z=np.log10(lens.rank[:SHOWN]).astype(np.float32),
        x=list(range(lens.layers + 1)),
        y=names,
        colorscale=f"{theme.UNSIGNED}_r",
        zmin=0.0,
        zmax=top,
        colorbar_title="log10 rank",
    )


def _layers(lens: LogitLens) -> list[str]:
    return [f"layer {layer}" for layer in range(lens.layers + 1)]


def lens_frame(run: RunRecord) -> "pd.DataFrame":
    """One row a checkpoint and layer: step, layer, median rank, Hit@1, Hit@10."""
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "step": point.label,
                "layer": np.arange(lens.layers + 1),
                "median_rank": lens.median,
                "hit@1": lens.hit(1),
                f"hit@{TOP}": lens.hit(TOP),
            }
        )
        for point in run
        if (lens := point.results.get("lens")) is not None
    ]
    return pd.concat(frames, ignore_index=True)
