"""Needle maps over training: answer perplexity and needle score in every cell; what middle and interference cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuit_drift.measures.figures.estimates import ends, estimates_figure
from circuit_drift.measures.figures.slider import slide
from circuit_drift.page import theme
from circuit_drift.record.record import RunRecord
from heads.niah.grid import NeedleMap
from heads.niah.maps import NeedleMaps

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"length": "length (tokens)", "depth": "depth (share of the text before the needle)"}
NAMES |= {"distance": "distance (tokens after the needle)", "before": "interference (tokens before the needle)"}


def maps_of(run: RunRecord) -> list[NeedleMaps]:
    """The maps of the checkpoints that have them, in order."""
    return [point.results["maps"] for point in run if "maps" in point.results]


def maps_figure(run: RunRecord) -> "go.Figure":
    """Length x depth on the left, distance x interference on the right; a slider over the checkpoints."""
    from plotly.subplots import make_subplots

    points = [point for point in run if "maps" in point.results]
    every = maps_of(run)
    both = all(maps.interference is not None for maps in every)
    top = max(float(np.nanmax(np.log10(part.cell_ppl))) for maps in every for part in _parts(maps, both=both))
    drawings = [[_heat(part, top) for part in _parts(maps, both=both)] for maps in every]
    figure = make_subplots(rows=1, cols=2 if both else 1, horizontal_spacing=0.14)
    for column, (heat, part) in enumerate(zip(drawings[-1], _parts(every[-1], both=both), strict=True), 1):
        figure.add_trace(heat, row=1, col=column)
        figure.update_xaxes(title_text=NAMES[part.axes[1]], type="category", row=1, col=column)
        figure.update_yaxes(title_text=NAMES[part.axes[0]], type="category", row=1, col=column)
    first, last = every[0], every[-1]
    theme.dress(
        figure,
        title=f"Answer perplexity over length and depth {first.answer_ppl:,.2f} → {last.answer_ppl:,.2f}, needle "
        f"score {first.needle_score:.2f} → {last.needle_score:.2f}",
        subtitle="cells: answer perplexity, and share of prompts with over half of the answer right; colour is log10 "
        "of the perplexity, on one scale for all checkpoints",
        height=520,
    )
    return slide(figure, run, points, drawings)


def _parts(maps: NeedleMaps, *, both: bool) -> Sequence[NeedleMap]:
    return [maps.depth, maps.interference] if both and maps.interference is not None else [maps.depth]


def _heat(part: NeedleMap, top: float) -> Any:
    import plotly.graph_objects as go

    ppl, score = part.cell_ppl, part.cell_score
    text = [[f"{p:,.3g}<br>{s:.0%}" for p, s in zip(*row, strict=True)] for row in zip(ppl, score, strict=True)]
    return go.Heatmap(
        z=np.log10(ppl).astype(np.float32),
        x=[f"{value:g}" for value in part.columns],
        y=[f"{value:g}" for value in part.rows],
        text=text,
        texttemplate="%{text}",
        colorscale=f"{theme.UNSIGNED}_r",
        zmin=0.0,
        zmax=top,
        colorbar_title="log10 PPL",
    )


def costs_figure(run: RunRecord) -> "go.Figure":
    """What the middle of the text and interference cost, in nats per answer token, over training."""
    found = [point.results.get("maps") for point in run]
    middle = [maps and maps.middle_penalty for maps in found]
    cost = [maps and maps.interference_cost for maps in found]
    lines = {"middle penalty": middle, "interference cost": cost}
    lines = {name: values for name, values in lines.items() if any(value is not None for value in values)}
    figure = estimates_figure(run, lines, unit="answer NLL, nats per token")
    return theme.dress(
        figure,
        title=f"Middle penalty {ends(middle)}, interference cost {ends(cost)} nats per answer token",
        subtitle="above 0: needles at 30 to 80 % depth are answered worse than the others; more text before the needle "
        "at the same distance makes it worse; bars are 95 % intervals over needles",
    )


def maps_frame(run: RunRecord) -> "pd.DataFrame":
    """The numbers behind the maps: step, map, row, column, and each cell's values."""
    import pandas as pd

    frames = [point.results["maps"].to_frame().assign(step=point.label) for point in run if "maps" in point.results]
    table = pd.concat(frames, ignore_index=True)
    return table[["step", *(column for column in table.columns if column != "step")]]
