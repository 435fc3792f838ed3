"""One row for each checkpoint of a run."""

import math
from html import escape
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from checkpoints.results.text import counted
from circuit_drift.measures.registry import kinds_in
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.record.training_log import logged_losses, losses

if TYPE_CHECKING:
    import pandas as pd


ROWS = 20
"""Checkpoints that a notebook shows of a run."""


def run_frame(run: RunRecord) -> "pd.DataFrame":
    """Behaviour, heads and circuit of every checkpoint, tidy; a measure that failed or was not asked for is NaN.

    Columns: checkpoint, step, stage, tokens; branch where there are any; loss where the series brings a training log;
    needle_score (share of prompts with over half of the answer right), needle_accuracy (with all of it), answer_ppl;
    retrieval_heads (score > 0.1), best_head, best_score; recall (top token), recall_<class>;
    faithfulness of the circuit that is drawn and compared, and circuit_edges, how many edges that has.
    """
    import pandas as pd

    logged = losses(run)
    kept: list[dict[str, Any]] = [{"loss": loss} for loss in logged] if logged_losses(run) else [{} for _ in run]
    frame = pd.DataFrame([_row(point, loss) for point, loss in zip(run, kept, strict=True)])
    for kind in kinds_in(run):
        frame = frame.assign(**kind.along(run))
    return frame if any(point.branch for point in run) else frame.drop(columns="branch")


def readings(run: RunRecord, measure: str) -> dict[str, dict[int, float]]:
    """Number -> {step: value} of one measure, over the points that have a step.

    Raises:
        DriftError: no such point has a result of it.
    """
    found: dict[str, dict[int, float]] = {}
    for kind in (kind for kind in kinds_in(run) if kind.name == measure):
        for point in run:
            if point.step is not None and measure in point.results:
                for name, value in kind.reading(point.results[measure]).items():
                    found.setdefault(name, {})[point.step] = float(value)
        for name, values in kind.along(run).items():
            there = ((point.step, value) for point, value in zip(run, values, strict=True) if not math.isnan(value))
            found[name] = {step: float(value) for step, value in there if step is not None}
    if not found:
        raise DriftError(f"the run {run.name} has no result of {measure}: measure it with run --measures {measure}")
    return found


def run_html(run: RunRecord) -> str:
    """What a notebook shows of a run: its verdict and its table, of a long run so many rows evenly spread."""
    from circuit_drift.report.verdict import run_verdict

    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in run_verdict(run))
    frame = run_frame(run)
    shown = sorted({round(i * (len(frame) - 1) / (ROWS - 1)) for i in range(ROWS)}) if len(frame) > ROWS else None
    table = frame if shown is None else frame.iloc[shown]
    left = "" if shown is None else f"<p>{ROWS} of {len(frame)} checkpoints; <code>to_frame()</code> has all.</p>"
    html = table.to_html(index=False, na_rep="n/a", float_format=lambda value: f"{value:.3g}", border=0)
    return f"<p><b>{escape(run.name)}</b>: {counted(len(run), 'checkpoint')}</p><ul>{sentences}</ul>{html}{left}"


def _row(point: Point, loss: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "checkpoint": point.name,
        "step": point.step,
        "stage": point.stage,
        "branch": point.branch,
        "tokens": point.tokens,
        **loss,
    }
    for kind in kinds_in([point]):
        columns = kind.columns(point.results[kind.name])
        if taken := row.keys() & columns.keys():
            raise DriftError(f"the measure {kind.name} has a column {min(taken)}, which the table has; rename it")
        row |= columns
    return row
