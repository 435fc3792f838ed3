"""Corpus perplexity over training: by corpus with its fit A log N + B, and over the tokens that need a long context."""

from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.results.text import label
from checkpoints.stats.bootstrap import Estimate
from circuit_drift.measures.figures.estimates import ends, estimates_figure
from circuit_drift.page import theme
from circuit_drift.record.record import RunRecord
from heads.niah.corpora import CorpusLoss
from heads.tracking.saturation import LogFit, log_fit

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def fits_frame(run: RunRecord) -> "pd.DataFrame":
    """One row a checkpoint and corpus: step, n (tokens, or steps where one counts none), ppl, low, high, fit, residual.

    ``fit`` and ``residual`` are NaN at N = 0 and where there are fewer than three checkpoints to fit.
    """
    import pandas as pd

    points = [point for point in run if "corpora" in point.results]
    counts = "tokens" if all(point.tokens is not None for point in points) else "steps"
    rows: list[dict[str, Any]] = []
    for point in points:
        n = point.tokens if counts == "tokens" else point.step
        found: CorpusLoss = point.results["corpora"]
        for name in found.names:
            ppl = found.ppl(name)
            row = {"step": point.label, "corpus": name, "counted_in": counts, "n": np.nan if n is None else float(n)}
            rows.append({**row, "ppl": ppl.value, "low": ppl.low, "high": ppl.high})
    frame = pd.DataFrame(rows).assign(fit=np.nan, residual=np.nan)
    for name, fit in fits(frame).items():
        own = frame.index[(frame.corpus == name) & (frame.n > 0) & np.isfinite(frame.ppl)]
        frame.loc[own, "residual"] = np.array(fit.residuals)
        frame.loc[own, "fit"] = frame.loc[own, "ppl"] - frame.loc[own, "residual"]
    return frame


def fits(frame: "pd.DataFrame") -> dict[str, LogFit]:
    """Corpus -> its fit, of those that can be fitted."""
    every = {
        str(name): log_fit(own.n.to_numpy(float), own.ppl.to_numpy(float))
        for name, own in frame.groupby("corpus", sort=False)
    }
    return {name: fit for name, fit in every.items() if fit is not None}


def fits_figure(run: RunRecord, frame: "pd.DataFrame") -> "go.Figure":
    """Perplexity against N on a log axis with the fits (above), residuals (below)."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.7, 0.3])
    told, known = [], fits(frame)
    for k, (name, every) in enumerate(frame.groupby("corpus", sort=False)):
        own, look = every[every.n > 0], {"color": theme.CATEGORIES[k % 8]}
        bars = {"type": "data", "symmetric": False, "array": own.high - own.ppl, "arrayminus": own.ppl - own.low}
        marker = {"symbol": theme.SYMBOLS[k % 8]}
        figure.add_scatter(
            x=own.n, y=own.ppl, name=label(str(name)), mode="markers", marker={**look, **marker}, error_y=bars,
            row=1, col=1,
        )  # fmt: skip
        told.append(f"{name} {every.ppl.iloc[0]:.2f} → {every.ppl.iloc[-1]:.2f}")
        if name in known:
            fit = known[str(name)]
            told[-1] += f" (A = {fit.a:+.3g}, B = {fit.b:.3g}, R² = {fit.r_squared:.2f})"
            lines = {"mode": "lines", "line": {**look, "dash": "dot"}, "showlegend": False}
            figure.add_scatter(x=own.n, y=own.fit, name=f"fit of {label(str(name))}", **lines, row=1, col=1)
            figure.add_scatter(
                x=own.n, y=own.residual, mode="lines+markers", line=look, marker=marker, showlegend=False,
                name=f"residual of {label(str(name))}", row=2, col=1,
            )  # fmt: skip
    figure.update_xaxes(type="log").update_xaxes(
        title_text=f"N, training {frame.counted_in.iloc[0]} (log)", row=2, col=1
    )
    figure.update_yaxes(title_text="perplexity", row=1, col=1)
    figure.update_yaxes(title_text="PPL - fit", row=2, col=1)
    return theme.dress(
        figure,
        title=f"Corpus perplexity {'; '.join(told)}",
        subtitle="dotted: PPL = A log N + B by least squares, A for each factor e of N; bars are 95 % intervals over "
        "windows",
        height=560,
    )


def long_figure(run: RunRecord) -> "go.Figure":
    """LongPPL of every corpus over training, on a log scale, with 95 % intervals over windows."""
    there: list[CorpusLoss | None] = [point.results.get("corpora") for point in run]
    last = [result for result in there if result is not None][-1]
    key = last.chosen
    lines: dict[str, list[Estimate | None]] = {
        name: [_finite(result, last, name) for result in there] for name in last.names
    }
    figure = estimates_figure(run, lines, unit="LongPPL (log)", log=True)
    told = "; ".join(f"{name} {ends(values)}" for name, values in lines.items())
    shares = ", ".join(
        f"{name} {key[last.corpus == i].sum():,}/{(~np.isnan(last.short[last.corpus == i])).sum():,}"
        for i, name in enumerate(last.names)
    )
    return theme.dress(
        figure,
        title=f"LongPPL {told}",
        subtitle=f"perplexity of the key tokens alone, judged by {judge_of(run)}; key tokens of those that have a "
        f"short context: {shares}",
    )


def judge_of(run: RunRecord) -> str:
    """Who chose the key tokens, in words."""
    last = [point for point in run if "corpora" in point.results][-1]
    judge = last.results["corpora"].meta.get("judge")
    if judge is None:
        return f"the last checkpoint measured, {last.label}, which favours it"
    return f"{judge['name']} (weights {judge['weights'][:12]})"


def _finite(result: CorpusLoss | None, last: CorpusLoss, name: str) -> Estimate | None:
    """The LongPPL of one checkpoint; None where there is no key token, or other text was read."""
    if result is None or not result.same_text(last):
        return None
    found = result.long_ppl(name, last.chosen)
    return found if found.n else None
