"""A long-context series trained under several seeds: its main curves over needles and seeds.

Every seed is a `heads.HeadTrack`, in which its checkpoints' scores are summed up; `load_seeds` reads saved ones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from circuit_drift.replicate.seeds import seeds_reach
from heads.tracking.head_track import Curve, HeadTrack

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAIN = {
    "retrieval_heads": "heads that retrieve",
    "needle_score": "needle score",
    "answer_nll": "answer NLL (nats)",
}
"""Curves of a `heads.HeadTrack` that are compared over seeds -> their name on an axis."""
WITHIN = {"needle_score": (0.0, 1.0), "retrieval_heads": (0.0, np.inf), "answer_nll": (0.0, np.inf)}
"""Where each curve can lie."""


def load_seeds(folder: Path | str) -> dict[str, HeadTrack]:
    """The tracks that `heads.HeadTrack.save` wrote into the folders of a folder: name -> track, by name.

    Raises:
        StoreError: a track is damaged.
    """
    return {path.name: HeadTrack.load(path) for path in sorted(Path(folder).iterdir()) if path.is_dir()}


def curves_frame(seeds: Mapping[str, HeadTrack]) -> "pd.DataFrame":
    """The main curves at every step: a row a step and curve, a column a seed, their mean and its 95 % interval.

    The half width of the interval is the root of two squares: Student's of the seeds, and the mean of the seeds' own
    half widths over needles, which all seeds share: the needles' error of the mean over seeds is at most that. Cut to
    where the curve can lie.

    Args:
        seeds: name -> track, at the same steps.

    Raises:
        BadPrompt: fewer than two seeds, or seeds saved at different steps.
    """
    import pandas as pd

    steps = _steps(seeds)
    rows = []
    for name in MAIN:
        curves = [track.curves[name] for track in seeds.values()]
        mean, low, high = _over_seeds(curves, *WITHIN[name])
        for i, step in enumerate(steps):
            each = {seed: track.curves[name].value[i] for seed, track in seeds.items()}
            rows.append({"step": step, "curve": name, **each, "mean": mean[i], "low": low[i], "high": high[i]})
    return pd.DataFrame(rows)


def first_retrieves(track: HeadTrack) -> int | None:
    """The first step of a track at which any head retrieves; None where none ever does."""
    found = np.flatnonzero(track.curves["retrieval_heads"].value >= 1)
    return track.steps[found[0]] if found.size else None


def seeds_figure(seeds: Mapping[str, HeadTrack]) -> "go.Figure":
    """The main curves over training, a panel each and a line a seed, with the seeds' own bands.

    Raises:
        BadPrompt: fewer than two seeds, or seeds saved at different steps.
    """
    from plotly.subplots import make_subplots

    from circuit_drift.page import theme

    steps = _steps(seeds)
    figure = make_subplots(rows=len(MAIN), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for k, (seed, track) in enumerate(seeds.items()):
        line = {"color": theme.CATEGORIES[k % len(theme.CATEGORIES)], "dash": theme.DASHES[k % len(theme.DASHES)]}
        for row, name in enumerate(MAIN, 1):
            curve = track.curves[name]
            bars = {"array": curve.high - curve.value, "arrayminus": curve.value - curve.low, "thickness": 1}
            figure.add_scatter(
                x=steps,
                y=curve.value,
                error_y=bars,
                line=line,
                mode="lines+markers",
                name=seed,
                legendgroup=seed,
                showlegend=row == 1,
                row=row,
                col=1,
            )
    for row, label in enumerate(MAIN.values(), 1):
        figure.update_yaxes(title_text=label, row=row, col=1)
    figure.update_xaxes(title_text="step", row=len(MAIN), col=1)
    about = "bars: 95 % intervals over the needles, which all seeds share"
    return theme.dress(figure, title=seeds_finding(seeds), subtitle=about, height=700)


def seeds_finding(seeds: Mapping[str, HeadTrack]) -> str:
    """When heads first retrieve under each seed, and with which needle score and perplexity it ends."""
    first = [first_retrieves(track) for track in seeds.values()]
    when = ", ".join("never" if step is None else f"{step:,}" for step in first)
    ends = {name: [float(track.curves[name].value[-1]) for track in seeds.values()] for name in MAIN}
    score = ", ".join(f"{value:.2f}" for value in ends["needle_score"])
    ppl = ", ".join(f"{np.exp(value):.3g}" for value in ends["answer_nll"])
    return f"Heads first retrieve at step {when}; the needle score ends at {score}, the perplexity at {ppl}"


def _steps(seeds: Mapping[str, HeadTrack]) -> tuple[int, ...]:
    if len(seeds) < 2:
        raise BadPrompt(f"an interval over seeds needs at least 2 of them; got {len(seeds)}: train more")
    (first, track), *others = seeds.items()
    for name, other in others:
        if other.steps != track.steps:
            raise BadPrompt(f"{name} was saved at steps {other.steps}, {first} at {track.steps}: measure the same")
    return track.steps


def _over_seeds(curves: list[Curve], least: float, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.stack([curve.value for curve in curves])
    mean = values.mean(axis=0)
    needles = np.mean([(curve.high - curve.low) / 2 for curve in curves], axis=0)
    reach = np.hypot([seeds_reach(column) for column in values.T], needles)
    return mean, np.maximum(mean - reach, least), np.minimum(mean + reach, most)
