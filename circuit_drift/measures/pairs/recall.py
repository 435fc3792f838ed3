"""Recall of the facts at two checkpoints: how many changed sides, as a whole and by class, and whether that is real."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.stats.shares import mcnemar_p, share_above_p, share_interval, trials_to_bound
from circuit_drift.record.groups import class_names, ways_of
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, Effect, Question
from circuit_drift.statements.statement import Statement

if TYPE_CHECKING:
    import circuits

TURNOVER = "facts that change sides"
NET = "recall of all facts"


def recall_questions(
    a: "circuits.AttributionGraph", b: "circuits.AttributionGraph", *, deltas: Deltas, noun: str = "fact"
) -> Iterator[Question]:
    """Does more than the margin of the facts change sides; does recall rise or fall, overall and in each class?

    Opposite changes cancel in the mean, so that turnover is asked about by itself: exact binomial against the margin.
    The others are exact McNemar tests. The noun is what a fact is called.
    """
    before, after = a.answer_rank == 0, b.answer_rank == 0
    turned, n = int((before != after).sum()), len(before)
    low, high = share_interval(turned, n)
    bound = deltas.recall
    turnover = TURNOVER.replace("fact", noun)
    effect = Effect(turnover, turned / n, low, high, 0.0, (-1.0, bound), n, noun, trials_to_bound(turned, n, bound))
    yield Question("behaviour", turnover, share_above_p(turned, n, bound), effects=(effect,))
    for name, chosen in _asked_of(a).items():
        ways = ways_of(before[chosen], after[chosen])
        gained, lost = int(ways["learned"].sum()), int(ways["lost"].sum())
        yield Question(
            "behaviour", name.replace("fact", noun), mcnemar_p(gained, lost), least=mcnemar_p(int(chosen.sum()), 0)
        )


def _asked_of(graph: "circuits.AttributionGraph") -> dict[str, np.ndarray]:
    """All facts, then each class where there are several: name -> [N] which facts."""
    names = class_names(graph)
    kinds = list(dict.fromkeys(names.tolist()))
    classes = {f"recall of {kind} facts": names == kind for kind in kinds} if len(kinds) > 1 else {}
    return {NET: np.ones(len(names), dtype=bool), **classes}


def recall_statements(pair: PairRecord) -> Iterator[Statement]:
    """Recall of all facts with how many went each way; then by class, the surest change first."""
    a, b = pair.a.circuit, pair.b.circuit
    if a is None or b is None:
        return
    before, after = a.answer_rank == 0, b.answer_rank == 0
    ways = {way: int(chosen.sum()) for way, chosen in ways_of(before, after).items()}
    asked = {question.name: question for question in pair.questions if question.family == "behaviour"}
    turnover = asked[TURNOVER]
    numbers = {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "of": len(before),
        **ways,
        "low": turnover.effects[0].low,
        "high": turnover.effects[0].high,
        "margin": pair.deltas.recall,
        "p": asked[NET].p,
        "outcome": turnover.outcome,
    }
    yield Statement("recall", numbers, basis="exact binomial interval of the share that changed sides; exact McNemar")
    rows: list[dict[str, Any]] = [
        {
            "name": name.removeprefix("recall of ").removesuffix(" facts"),
            "n": int(chosen.sum()),
            "before": float(before[chosen].mean()),
            "after": float(after[chosen].mean()),
            "p": asked[name].p,
            "least": asked[name].least,
            "adjusted": asked[name].adjusted,
            "outcome": asked[name].outcome,
        }
        for name, chosen in _asked_of(a).items()
        if name != NET and (before[chosen] != after[chosen]).any()
    ]
    if rows:
        rows.sort(key=lambda row: row["p"])
        yield Statement("classes", {"classes": rows}, basis="exact McNemar in each class, Holm over the pair")
