"""A circuit along a series in words and as figures: every number computed; checkpoints stand evenly spaced."""

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import (
    BLUE,
    CATEGORIES,
    DASHES,
    GREY,
    SIGNED,
    SYMBOLS,
    VERMILLION,
    dress,
)
from checkpoints.results.text import counted
from circuits.graph.scores import meaning
from circuits.tracking.contrasts import STANDS_OUT, sentences

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.tracking.changepoints import Split
    from circuits.tracking.circuit_track import CircuitTrack, Phase


def circuit_track_verdict(track: "CircuitTrack") -> str:
    """Where the circuit changed, which phases that leaves, and how settled the end is."""
    steps = track.steps
    jumps = ", ".join(_place(track, split) for split in track.change_points if split.sudden)
    cuts = ", ".join(_place(track, split) for split in track.change_points if not split.sudden)
    drift = f"steady drift fits as well as a jump, and is best cut {cuts}" if cuts else ""
    if jumps:
        told = f"The circuit changes {jumps}" + (f"; elsewhere {drift}" if drift else "")
    else:
        told = f"No change point in {len(track)} checkpoints (steps {steps[0]:,} to {steps[-1]:,})"
        told += f", though the circuit changes: {drift}" if drift else ""
    last = track.phases[-1]
    alike = (
        f"; the circuits of its last phase, from step {last.first:,} on, have a mean cosine of {last.likeness:.2f}"
        if isfinite(last.likeness)
        else ""
    )
    return " ".join([f"{told}{_formed(track)}{alike}.", sentences(track.contrasts)]).rstrip()


def _formed(track: "CircuitTrack") -> str:
    """From which step on the circuit stands out of the prompt noise everywhere, and at how many checkpoints before."""
    clear = [share > STANDS_OUT for share in track.reliability]
    begin = next((i for i in range(len(clear)) if all(clear[i:])), len(clear))
    before = sum(clear[:begin])
    if begin == len(clear):
        if not before:
            return "; it never stands out of noise"
        return f"; it stands out of the prompt noise at {before} of {len(clear)} checkpoints, not at the last one"
    early = f", and at {before} of the {counted(begin, 'checkpoint')} before" if before else ""
    return f"; it stands out of the prompt noise from step {track.steps[begin]:,} on{early}"


def _place(track: "CircuitTrack", split: "Split") -> str:
    """Between which steps a stretch is cut, with the interval and p."""
    steps = track.steps
    ends = f"[{steps[max(split.low - 1, 0)]:,}, {steps[split.high]:,}]"
    return f"between steps {steps[split.index - 1]:,} and {steps[split.index]:,} {ends} (p = {split.p:.2g})"


def circuit_track_figure(track: "CircuitTrack") -> "go.Figure":
    """Overlap with the previous and the last circuit, between halves of the facts, beside the floor."""
    import plotly.graph_objects as go

    figure = go.Figure()
    x = list(range(len(track)))
    for j, name, colour, dash, symbol in (
        (0, "previous", BLUE, "solid", "circle"),
        (2, "last", VERMILLION, "dash", "square"),
    ):
        figure.add_scatter(
            x=x,
            y=track.similarity[:, j, 1],
            name=f"with the {name}",
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol},
        )
    floor = {"x": x, "mode": "lines", "legendgroup": "floor"}
    figure.add_scatter(**floor, y=track.similarity[:, 0, 3], line={"width": 0}, showlegend=False, hoverinfo="skip")
    figure.add_scatter(
        **floor,
        y=track.similarity[:, 0, 2],
        name="within one checkpoint: floor for the previous, to its 5th percentile",
        line={"color": GREY, "dash": "dot"},
        fill="tonexty",
        fillcolor="rgba(118, 118, 118, 0.25)",
    )
    figure.update_yaxes(title_text=f"Jaccard, {track.n_edges} edges", range=[0, 1])
    number = sum(split.sudden for split in track.change_points)
    dress(
        figure,
        title=f"{counted(number, 'change point')} in {len(track)} checkpoints",
        subtitle="between halves of the facts; below the shade: less alike than halves at one checkpoint are; grey "
        "columns: 95 % intervals of the change points",
        height=440,
    )
    return _over_steps(figure, track)


def _span(phase: "Phase") -> str:
    return f"{phase.first:,}" if phase.first == phase.last else f"{phase.first:,} to {phase.last:,}"


def likeness_figure(track: "CircuitTrack") -> "go.Figure":
    """The noise-corrected cosines of every checkpoint with every other."""
    import plotly.graph_objects as go

    labels = [str(step) for step in track.steps]
    figure = go.Figure(
        go.Heatmap(
            z=track.likeness.astype(np.float32),
            x=labels,
            y=labels,
            zmin=-1,
            zmax=1,
            colorscale=SIGNED,
            colorbar={"title": {"text": "cosine"}},
            hovertemplate="step %{y} and step %{x}: %{z:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="step", type="category")
    figure.update_yaxes(title_text="step", type="category", autorange="reversed")
    dress(
        figure,
        title=f"Phases: {', '.join(map(_span, track.phases))}",
        subtitle="cosine of the mean edge scores, corrected for prompt noise; blank: nothing but noise",
        height=520,
    )
    return figure


def lineage_figure(track: "CircuitTrack", k: int = 20) -> "go.Figure":
    """Scores of the k writers of largest peak."""
    import plotly.graph_objects as go

    frame, errors = track.lineage(k), track.lineage_errors(k)
    figure = go.Figure()
    for i, (node, row) in enumerate(frame.iterrows()):
        figure.add_scatter(
            x=list(range(len(track))),
            y=row.to_numpy(),
            error_y={"array": errors.loc[node].to_numpy(), "thickness": 1, "width": 2},
            name=str(node),
            mode="lines+markers",
            line={"color": CATEGORIES[i % len(CATEGORIES)], "dash": DASHES[i % len(DASHES)]},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)]},
        )
    figure.update_yaxes(title_text="node score")
    dress(
        figure,
        title=f"{frame.index[0]} carries most: {np.abs(frame.iloc[0]).max():.2f} at its peak",
        subtitle=f"sum over a writer's out-edges; {meaning(track.meta, 'it')}; bars: standard errors",
        height=480,
    )
    return _over_steps(figure, track)


def _over_steps(figure: "go.Figure", track: "CircuitTrack") -> "go.Figure":
    """The common axis, with every change point and its interval."""
    figure.update_xaxes(
        title_text="step (checkpoints evenly spaced)",
        tickmode="array",
        tickvals=list(range(len(track))),
        ticktext=[str(step) for step in track.steps],
    )
    for split in track.change_points:
        figure.add_vrect(x0=split.low - 0.5, x1=split.high - 0.5, fillcolor=GREY, opacity=0.15, line_width=0)
        figure.add_vline(x=split.index - 0.5, line={"color": GREY, "dash": "dash", "width": 1})
    return figure
