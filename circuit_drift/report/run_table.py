"""One row for each checkpoint of a run."""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from circuit_drift.measures.recall import recall_by_class
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.record.training_log import logged_losses, losses

if TYPE_CHECKING:
    import pandas as pd


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
    return frame if any(point.branch for point in run) else frame.drop(columns="branch")


def run_html(run: RunRecord) -> str:
    """What a notebook shows of a run: its verdict and its table."""
    from circuit_drift.report.verdict import run_verdict

    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in run_verdict(run))
    table = run_frame(run).to_html(index=False, na_rep="n/a", float_format=lambda value: f"{value:.3g}", border=0)
    return f"<p><b>{escape(run.name)}</b>: {len(run)} checkpoints</p><ul>{sentences}</ul>{table}"


def _row(point: Point, loss: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "checkpoint": point.name,
        "step": point.step,
        "stage": point.stage,
        "branch": point.branch,
        "tokens": point.tokens,
        **loss,
    }
    parts: tuple[tuple[Any, Callable[[Any], dict[str, Any]]], ...] = (
        (point.heads, _heads_columns),
        (point.circuit, _recall_columns),
        (point.faithfulness, _faithfulness_columns),
    )
    for result, columns in parts:
        if result is not None:
            row |= columns(result)
    return row


def _heads_columns(scores: Any) -> dict[str, Any]:
    best = scores.top(1)
    return {
        "needle_score": scores.needle_score,
        "needle_accuracy": scores.needle_accuracy,
        "answer_ppl": scores.answer_ppl,
        "retrieval_heads": scores.count(),
        "best_head": best[0].name if best else None,
        "best_score": best[0].score.value if best else None,
    }


def _faithfulness_columns(curve: Any) -> dict[str, Any]:
    return {"faithfulness": curve.values[curve.drawn], "circuit_edges": int(curve.n_edges[curve.drawn])}


def _recall_columns(graph: Any) -> dict[str, Any]:
    shares = recall_by_class(graph)
    overall = {"recall": float((graph.answer_rank == 0).mean())}
    return overall | ({f"recall_{name}": share for name, (share, _) in shares.items()} if len(shares) > 1 else {})
