"""The track in words and as a figure: every number computed, never typed; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

from checkpoints.results.figure import BLUE, dress
from checkpoints.results.text import counted
from heads.tracking.saturation import Saturation, Trend, deceptive

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from heads.tracking.head_track import Curve, HeadTrack

WORDS = {
    "needle_score": "needle score",
    "needle_accuracy": "needle accuracy",
    "answer_nll": "answer PPL",
    "retrieval_heads": "the number of retrieval heads",
    "initial_set_mean": "the mean score of the initial retrieval heads",
    "all_heads_mean": "the mean score of all heads",
}
NEEDLE_TESTS = ("needle_score", "needle_accuracy")
PASSED = 0.9
READOUTS = (*NEEDLE_TESTS, "answer_nll")


def findings(track: "HeadTrack") -> tuple[str, ...]:
    """Counts, births, saturation, deceptive saturation, fit and correlations, a sentence each."""
    return (
        _counts(track),
        _initial(track),
        *_saturations(track),
        *_deceptive(track),
        *_middle(track),
        *_fit(track),
        *(str(c) for c in track.correlations),
        *track.notes,
    )


def _counts(track: "HeadTrack") -> str:
    heads = track.curves["retrieval_heads"]
    first, last = (f"{heads.value[i]:.0f} {_ends(heads.low[i], heads.high[i], '.0f')}" for i in (0, -1))
    born, died = (sum(len(getattr(t, what)) for t in track.transitions) for what in ("born", "died"))
    return (
        f"retrieval heads (score > {track.threshold}): {first} at step {track.steps[0]:,}, {last} at step "
        f"{track.steps[-1]:,}; {counted(born, 'birth')} and {counted(died, 'death')} on the way"
    )


def _initial(track: "HeadTrack") -> str:
    if not track.initial_set:
        return (
            f"no head retrieves at step {track.steps[0]:,}: the mean over the initial set is not applicable; "
            "begin the series at a later step to freeze another set"
        )
    curve = track.curves["initial_set_mean"]
    begun = counted(len(track.initial_set), "initial retrieval head scores", "initial retrieval heads score")
    return (
        f"the {begun} {curve.value[0]:.2f} at first and "
        f"{curve.value[-1]:.2f} {_ends(curve.low[-1], curve.high[-1], '.2f')} at last"
    )


def _ends(low: float, high: float, form: str) -> str:
    return "(no interval: too few needles)" if np.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def _saturations(track: "HeadTrack") -> tuple[str, ...]:
    out = []
    for saturation in track.saturations:
        if saturation.at is None:
            out.append(_unsaturated(saturation))
        else:
            out.append(_still(saturation.at))
    return tuple(out)


def _unsaturated(saturation: Saturation) -> str:
    """That a metric has not settled: because it moves, or because its intervals are too wide to tell."""
    name = WORDS.get(saturation.metric, saturation.metric)
    if not saturation.trends:
        return f"whether {name} has saturated cannot be told from so few checkpoints"
    if np.isnan(saturation.trends[-1].low):
        return f"whether {name} has saturated cannot be told from so few needles"
    text = f"{name} has not saturated within +-{_bound(saturation.trends[-1])} per doubling"
    moving = [trend for trend in saturation.trends if trend.moving]
    if not moving:
        return f"{text}: its intervals include both 0 and more than that"
    last = moving[-1]
    return f"{text}: last seen to change after step {last.step:,}, {_change(last)} per doubling"


def _still(trend: Trend) -> str:
    name = WORDS.get(trend.metric, trend.metric)
    return f"{name} saturated at step {trend.step:,} ({_change(trend)} per doubling after it, bound +-{_bound(trend)})"


def deception(track: "HeadTrack") -> tuple[Trend, Trend] | None:
    """A needle test that is passed and still, and the NLL that falls after it; None where no test deceives so.

    Of two tests the one that was still first, the stricter on a tie.
    """
    readouts = [s for s in track.saturations if s.metric in READOUTS]
    found = [
        (still, moving)
        for still, moving in deceptive(readouts)
        if still.metric in NEEDLE_TESTS and moving.metric == "answer_nll" and moving.high < 0 and _passed(track, still)
    ]
    return min(found, key=lambda pair: (pair[0].step, -NEEDLE_TESTS.index(pair[0].metric)), default=None)


def deceptive_sentence(still: Trend, moving: Trend) -> str:
    """What `deception` found, in words."""
    return (
        f"{WORDS[still.metric]} saturated at step {still.step:,}; answer PPL still falls {_fall(moving)} per "
        "doubling after it"
    )


def _deceptive(track: "HeadTrack") -> tuple[str, ...]:
    found = deception(track)
    return () if found is None else (f"deceptive saturation: {deceptive_sentence(*found)}",)


def _passed(track: "HeadTrack", still: Trend) -> bool:
    """Whether `PASSED` of the needles passed a test from a step on: one that stays failed deceives nobody."""
    later = np.array(track.steps) >= still.step
    return bool(later.any() and track.curves[still.metric].value[later].mean() >= PASSED)


def _middle(track: "HeadTrack") -> tuple[str, ...]:
    """Whether needles in the middle of the haystack are worse answered at the end; silent where depths do not tell."""
    curve = track.curves.get("middle_penalty")
    if curve is None or not np.isfinite(curve.low[-1]):
        return ()
    first, last = (f"{curve.value[i]:+.2g} [{curve.low[i]:+.2g}, {curve.high[i]:+.2g}]" for i in (0, -1))
    return (
        f"NLL of answers at 30 to 80 % depth minus that at other depths: {first} nats per token at step "
        f"{track.steps[0]:,}, {last} at step {track.steps[-1]:,}",
    )


def _change(trend: Trend) -> str:
    if trend.metric == "answer_nll":
        slope, low, high = (100 * np.expm1(value) for value in (trend.slope, trend.low, trend.high))
        return f"{slope:+.1f} % [{low:+.1f}, {high:+.1f}]"
    slope, low, high = (round(value, 6) + 0.0 for value in (trend.slope, trend.low, trend.high))
    return f"{slope:+.2g} [{low:+.2g}, {high:+.2g}]"


def _bound(trend: Trend) -> str:
    return f"{100 * np.expm1(trend.bound):.0f} %" if trend.metric == "answer_nll" else f"{trend.bound:g}"


def _fall(trend: Trend) -> str:
    """A fall of NLL as the fall of the perplexity it is, in percent."""
    fall, least, most = (-100 * np.expm1(value) for value in (trend.slope, trend.high, trend.low))
    return f"{fall:.1f} % [{least:.1f}, {most:.1f}]"


def _fit(track: "HeadTrack") -> tuple[str, ...]:
    fit = track.fit
    if fit is None:
        return ()
    worst = max(map(abs, fit.residuals))
    return (
        f"answer PPL = {fit.a:+.3g} [{fit.a_low:+.3g}, {fit.a_high:+.3g}] ln({track.axis}) {fit.b:+.3g}, "
        f"R^2 = {fit.r_squared:.2f}, largest residual {worst:.2g}",
    )


def plot_head_track(track: "HeadTrack") -> "go.Figure":
    """Retrieval heads, needle score and accuracy, answer perplexity over training, each with its 95 % band."""
    from plotly.subplots import make_subplots

    panels = (
        ("retrieval_heads", "retrieval heads"),
        ("needle_score", "needle score"),
        ("needle_accuracy", "needle accuracy"),
        ("answer_ppl", "answer PPL"),
    )
    still = {{"answer_nll": "answer_ppl"}.get(s.metric, s.metric): s.at for s in track.saturations}
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for row, (name, title) in enumerate(panels, 1):
        for trace in _band(track.steps, track.curves[name], title):
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title=title, row=row, col=1)
        if (at := still.get(name)) is not None:
            figure.add_vline(x=at.step, line_dash="dot", row=row, col=1)
    figure.update_yaxes(type="log", row=len(panels), col=1)
    figure.update_xaxes(title="step", type="log" if min(track.steps) > 0 else "linear", row=len(panels), col=1)
    deceived = [sentence for sentence in track.findings if sentence.startswith("deceptive")]
    title = deceived[0] if deceived else track.findings[0]
    about = f"bands: 95 % over {track.unit}s; dotted: saturated from here on"
    return dress(figure, title=title, subtitle=about, height=720).update_layout(showlegend=False)


def _band(steps: "tuple[int, ...]", curve: "Curve", name: str) -> "list[go.Scatter]":
    import plotly.graph_objects as go

    x, around = [*steps, *steps[::-1]], np.concatenate([curve.high, curve.low[::-1]])
    band = go.Scatter(x=x, y=around, fill="toself", fillcolor=BLUE, opacity=0.15, line_width=0, hoverinfo="skip")
    line = go.Scatter(x=list(steps), y=curve.value, mode="lines+markers", name=name, line_color=BLUE)
    return [band, line]
