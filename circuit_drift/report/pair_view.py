"""How a pair looks as JSON and in a notebook."""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from checkpoints.results.strict_json import plain_json
from circuit_drift.comparison.pair_tables import pair_tables, table_names
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point
from circuit_drift.report.asked import recorded
from circuit_drift.report.verdict_pair import pair_statements, pair_verdict
from circuit_drift.statements.statement import Statement

if TYPE_CHECKING:
    import pandas as pd

    import circuits
    import heads

SHOWN = 10


def pair_json(pair: PairRecord, statements: Sequence[Statement] | None = None) -> dict[str, Any]:
    """A pair as plain values; NaN becomes null.

    Args:
        pair: two points compared.
        statements: those of `pair_statements`, where they were found before.
    """
    told = pair_statements(pair) if statements is None else statements
    document = {
        "a": _point_json(pair.a),
        "b": _point_json(pair.b),
        "q": pair.q,
        "significant": pair.significant,
        "outcome": pair.outcome,
        "deltas": asdict(pair.deltas),
        "verdict": [statement.text for statement in told],
        "statements": [statement.to_json() for statement in told],
        "questions": [asdict(question) for question in pair.questions],
        "floor": None if pair.floor is None else pair.floor.to_json(),
        "behaviour": [asdict(change) for change in pair.behaviour],
        **dict.fromkeys(table_names(pair)),
        **{table.name: _records(table.frame) for table in pair_tables(pair)},
        "refused_facts": _refused(pair.a.circuit, pair.b.circuit),
        "refused_needles": _refused(pair.a.heads, pair.b.heads),
        "facts": pair.facts,
        "not_compared": dict(pair.missing),
        "weights": None if pair.weights is None else _records(pair.weights.to_frame()),
        "explanations": [found.to_json() for found in pair.explanations],
    }
    found: dict[str, Any] = plain_json(document)
    return found


def pair_html(pair: PairRecord) -> str:
    """What a notebook shows of a pair."""
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in pair_verdict(pair))
    parts = [f"<p><b>{escape(pair.a.label)} → {escape(pair.b.label)}</b></p><ul>{sentences}</ul>"]
    parts += [_html(table.frame.head(SHOWN)) for table in pair_tables(pair) if len(table.frame)]
    asked = (*pair.explanations, *(() if pair.weights is None else (pair.weights,)))
    parts += [found._repr_html_() for found in asked]
    return "".join(parts)


def _refused(*results: "circuits.AttributionGraph | heads.Scores | None") -> list[dict[str, Any]]:
    """The facts or needles that could not be scored, with their place in the input and the reason.

    Both checkpoints are asked the same, so the first that was asked speaks for them.
    """
    refused = next((result.meta.get("refused", ()) for result in results if result is not None), ())
    return [{"index": index, "reason": reason} for index, reason in refused]


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "checkpoint": point.name,
        "step": point.step,
        "tokens": point.tokens,
        "stage": point.stage,
        "branch": point.branch,
        "results": dict(point.keys),
        "settings": {measure: record.get("parameters") for measure, record in recorded(point).items()},
    }


def _records(frame: "pd.DataFrame") -> Sequence[dict[str, Any]]:
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def _html(frame: "pd.DataFrame") -> str:
    return str(frame.to_html(index=False, border=0, na_rep="n/a", float_format=lambda value: f"{value:.3g}"))
