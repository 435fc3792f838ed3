"""Recall of the facts at two checkpoints: how many changed sides, as a whole and by class, and whether that is real."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.stats.shares import clustered_share, exact_share_interval, mcnemar_p, share_above_p, trials_to_bound
from checkpoints.stats.units import FEWEST
from circuit_drift.record.groups import class_names, ways_of
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, Effect, PairQuestion, units_needed
from circuit_drift.record.recall import net_p
from circuit_drift.statements.statement import Statement
from circuits.comparison.clusters import clusters_of

if TYPE_CHECKING:
    import circuits

TURNOVER = "facts that change sides"
NET = "recall of all facts"


def recall_questions(
    a: "circuits.AttributionGraph",
    b: "circuits.AttributionGraph",
    *,
    deltas: Deltas,
    noun: str = "fact",
    cluster: Sequence[str] = (),
) -> Iterator[PairQuestion]:
    """Does more than the margin of the facts change sides; does recall rise or fall, overall and in each class?

    Opposite changes cancel in the mean, so that turnover is asked about by itself: exact binomial against the margin.
    The others are exact McNemar tests. Facts that agree in the labels ``cluster`` are one unit of each: turnover is
    then Student's t over units, and A and B are exchanged unit by unit. The noun is what a fact is called.
    """
    before, after = a.answer_rank == 0, b.answer_rank == 0
    of = clusters_of(a, cluster) if cluster else None
    turnover = TURNOVER.replace("fact", noun)
    yield _turnover(turnover, before != after, of, deltas.recall, " and ".join(cluster) or noun)
    for name, chosen in _asked_of(a).items():
        inside = None if of is None else of[chosen]
        units = int(chosen.sum()) if inside is None else len(np.unique(inside))
        p = net_p(before[chosen], after[chosen], inside)
        yield PairQuestion("behaviour", name.replace("fact", noun), p, least=mcnemar_p(units, 0))


def _turnover(name: str, turned: np.ndarray, of: np.ndarray | None, bound: float, unit: str) -> PairQuestion:
    """Whether more than a share of the facts [N] changed sides, of units or each by itself."""
    share, n = float(turned.mean()), len(turned)
    if of is None:
        hits = int(turned.sum())
        low, high = exact_share_interval(hits, n)
        needed, p = trials_to_bound(hits, n, bound), share_above_p(hits, n, bound) if n >= FEWEST else float("nan")
    else:
        n = len(np.unique(of))
        low, high, p = clustered_share(turned, of, bound)
        if np.isnan(low):
            return PairQuestion("behaviour", name, p)
        half = max(high - share, share - low)
        needed = units_needed(share, share - half, share + half, 0.0, (-1.0, bound), n)
    return PairQuestion(
        "behaviour", name, p, effects=(Effect(name, share, low, high, 0.0, (-1.0, bound), n, unit, needed),)
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
    unit = " and ".join(pair.groups.cluster) if pair.groups is not None else ""
    low, high = next(((found.low, found.high) for found in turnover.effects), (float("nan"), float("nan")))
    numbers = {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "of": len(before),
        **ways,
        "low": low,
        "high": high,
        "margin": pair.deltas.recall,
        "p": asked[NET].p,
        "outcome": turnover.outcome,
    }
    exchanged = f"A and B exchanged by {unit}, exactly" if unit else "exact McNemar"
    interval = f"t interval over units of one {unit}" if unit else "exact binomial interval"
    yield Statement("recall", numbers, basis=f"{interval} of the share that changed sides; {exchanged}")
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
        yield Statement("classes", {"classes": rows}, basis=f"{exchanged}, in each class; Holm over the pair")
