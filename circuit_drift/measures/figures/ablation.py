"""Head ablation over training: what is left of the needle score without the best heads, and without as many others."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.stats.bootstrap import Estimate
from circuit_drift.measures.figures.estimates import ends, estimates_figure
from circuit_drift.page import theme
from circuit_drift.record.record import RunRecord
from heads.ablation.validation import Validation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def ablation_figure(run: RunRecord) -> "go.Figure":
    """Needle score of the model as it is, with its best heads ablated, and the mean over the controls of each kind."""
    found: list[Validation | None] = [point.results.get("ablation") for point in run]
    kinds = list(dict.fromkeys(kind for each in found if each is not None for kind in each.controls))
    lines = {
        "as it is": [each and each.estimate(each.baseline) for each in found],
        "best heads ablated": [each and each.estimate(each.tested) for each in found],
        **{f"{kind.replace('_', '-')} controls": [_control(each, kind) for each in found] for kind in kinds},
    }
    figure = estimates_figure(run, lines, unit="needle score (share of prompts)")
    figure.update_yaxes(range=[-0.03, 1.03])
    there = [each for each in found if each is not None]
    said = ", ".join(f"{name} {ends(values)}" for name, values in lines.items())
    return theme.dress(
        figure,
        title=f"Needle score {said}",
        subtitle=f"causal at {sum(each.causal for each in there)} of {len(there)} checkpoints: ablating the best heads "
        "raises the answer NLL significantly more than the first controls do; bars are 95 % intervals over needles",
    )


def _control(found: Validation | None, kind: str) -> Estimate | None:
    """The estimate over the mean of the draws of a kind; each draw's gate is its own."""
    if found is None or kind not in found.controls:
        return None
    draws = found.controls[kind]
    estimates = [found.estimate(draw) for draw in draws]
    mean = (float(np.mean([getattr(each, name) for each in estimates])) for name in ("value", "low", "high"))
    return Estimate(*mean, estimates[0].n)


def ablation_frame(run: RunRecord) -> "pd.DataFrame":
    """One row an ablation of each checkpoint: step, and what `Validation.to_frame` says."""
    import pandas as pd

    frames = [p.results["ablation"].to_frame().assign(step=p.label) for p in run if "ablation" in p.results]
    table = pd.concat(frames, ignore_index=True)
    return table[["step", *(column for column in table.columns if column != "step")]]
