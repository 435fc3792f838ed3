"""Head ablation over training: what is left of the needle score without the best heads, and without as many others."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.stats.bootstrap import Estimate
from checkpoints.stats.shares import score_interval
from checkpoints.stats.units import independent_units
from circuit_drift.measures.figures.estimates import ends, estimates_figure
from circuit_drift.page import theme
from circuit_drift.record.record import RunRecord
from heads.ablation.ablation import Ablation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def ablation_figure(run: RunRecord) -> "go.Figure":
    """Needle score of the model as it is, with its best heads ablated, and the mean over the controls of each kind."""
    found: list[Ablation | None] = [point.results.get("ablation") for point in run]
    kinds = list(dict.fromkeys(kind for each in found if each is not None for kind in each.controls))
    lines: dict[str, list[Estimate | None]] = {
        "as it is": [None if each is None else each.estimate(each.baseline) for each in found],
        "best heads ablated": [None if each is None else each.estimate(each.tested) for each in found],
        **{f"{kind.replace('_', '-')} controls": [_control(each, kind) for each in found] for kind in kinds},
    }
    figure = estimates_figure(run, lines, unit="needle score (share of prompts)")
    figure.update_yaxes(range=[-0.03, 1.03])
    there = [each for each in found if each is not None]
    said = ", ".join(f"{name} {ends(values)}" for name, values in lines.items())
    return theme.dress(
        figure,
        title=f"Needle score {said}",
        subtitle=f"causal at {sum(each.causal is True for each in there)} of {len(there)} checkpoints: ablating the "
        "best heads raises the answer NLL significantly more than the first controls do; bars are 95 % intervals over "
        "needles",
    )


def _control(found: Ablation | None, kind: str) -> Estimate | None:
    """The mean over the draws of a kind, its interval over needles."""
    if found is None or kind not in found.controls:
        return None
    passed = np.mean([draw.accepted for draw in found.controls[kind]], axis=0)
    _, cluster = independent_units(found.needle)
    low, high = score_interval(passed, cluster)
    return Estimate(float(passed.mean()), float(low), float(high), len(np.unique(cluster)))


def ablation_frame(run: RunRecord) -> "pd.DataFrame":
    """One row an ablation of each checkpoint: step, and what `Ablation.to_frame` says."""
    import pandas as pd

    frames = [p.results["ablation"].to_frame().assign(step=p.label) for p in run if "ablation" in p.results]
    table = pd.concat(frames, ignore_index=True)
    return table[["step", *(column for column in table.columns if column != "step")]]
