"""Retrieval heads of two checkpoints: head by head, needle accuracy and the answers' likelihood."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import heads
from checkpoints.stats.changes import smallest_change_q, smallest_mean_change_p
from circuit_drift.measures.pairs.pairing import Compared, Pairing, PairTable
from circuit_drift.page.page import Section
from circuit_drift.record.groups import ways_of
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.questions import Deltas, Effect, PairQuestion, folded, units_needed
from circuit_drift.record.record import Point
from circuit_drift.statements.statement import Statement
from heads.comparison.diff import HeadDiff
from heads.scores.names import head_names

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["name", "before", "after", "delta", "low", "high", "q", "status"]
LARGEST, ACCURACY, NLL = "the largest change of a head's score", "needle accuracy", "answer NLL"


class HeadPairing(Pairing):
    """See `heads.diff`."""

    noun = "head"
    tables = ("heads",)
    place = 3

    def compare(self, a: Point, b: Point, *, q: float, earlier: Mapping[str, Any]) -> Compared | None:
        """Head by head, over identical prompts."""
        if a.heads is None or b.heads is None:
            return None
        compared = heads.diff(a.heads, b.heads, q=q)
        return Compared(compared, readouts=(compared.accuracy, compared.nll))

    def questions(self, a: Point, b: Point, change: HeadDiff, *, deltas: Deltas) -> Iterator[PairQuestion]:
        """Whether any head changed, and whether the answers to the needles did.

        Of the heads the p is that of the smallest q, which is Simes' for all of them. Accuracy has no margin: it is
        the likelihood cut at a threshold, and the likelihood tells the same with less noise.
        """
        p = float(np.nanmin(change.q)) if np.isfinite(change.q).any() else float("nan")
        lowest = smallest_change_q(change.n)
        moved = _moved(a, b)
        yield PairQuestion("heads", "heads", p, effects=tuple(head_effects(change, deltas, moved)), least=lowest)
        yield PairQuestion("readouts", ACCURACY, change.accuracy.p, least=2.0 ** (1 - change.n))
        least = smallest_mean_change_p(change.n)
        yield PairQuestion("readouts", NLL, change.nll.p, effects=tuple(nll_effects(change, deltas)), least=least)

    def held(self, change: HeadDiff, questions: Sequence[PairQuestion]) -> HeadDiff:
        """With no head named where heads do not hold for the pair: every q is then at least what does."""
        asked = next(question for question in questions if question.family == "heads")
        if asked.adjusted <= change.level:
            return change
        return replace(change, q=np.maximum(change.q, np.nan_to_num(asked.adjusted, nan=1.0)))

    def statements(self, pair: PairRecord) -> Iterator[Statement]:
        """The answers at the needles; then how many heads changed, and which began or ceased to retrieve."""
        change = pair.heads
        if change is None:
            return
        yield Statement("needles", _needles(change, pair), basis=f"95 % t intervals over {change.n} {change.unit}s")
        place = int(np.nanargmax(np.abs(change.delta))) if np.isfinite(change.delta).any() else 0
        largest: dict[str, Any] = {"name": head_names((change.delta.shape[0], change.delta.shape[1]))[place]}
        low, high = change.named_interval
        largest |= {"delta": float(change.delta.flat[place])}
        largest |= {"low": float(low.flat[place]), "high": float(high.flat[place])}
        numbers = {
            "changed": change.n_significant,
            "moved": int(_moved(pair.a, pair.b).sum()),
            "of": change.delta.size,
            "largest": largest,
            "gained": list(change.gained),
            "lost": list(change.lost),
            "threshold": change.threshold,
            "margin": pair.deltas.heads,
            "n": change.n,
            "unit": change.unit,
            "outcome": next((q.outcome for q in pair.questions if q.family == "heads"), ""),
        }
        yield Statement(
            "heads", numbers, basis=f"paired over {change.n} {change.unit}s; q ≤ {change.level:g}; false coverage rate"
        )

    def frames(self, pair: PairRecord) -> Iterator[PairTable]:
        """The strongest changes."""
        if pair.heads is not None:
            yield PairTable("heads", "Retrieval heads, strongest changes", _shown(pair.heads))

    def sections(self, pair: PairRecord, *, anchor: str) -> Iterator[Section]:
        """All heads before and after."""
        if pair.heads is not None:
            yield Section(
                f"heads-{anchor}",
                f"Retrieval heads {pair.span}",
                text=" ".join(statement.text for statement in self.statements(pair)),
                figure=pair.heads.plot(),
                frame=pair.heads.to_frame(),
            )


def _moved(a: Point, b: Point) -> NDArray[np.bool_]:
    """[L, H] heads whose score differs on any prompt."""
    assert a.heads is not None
    assert b.heads is not None
    before, after = (np.nan_to_num(scores.copy) for scores in (a.heads, b.heads))
    return np.asarray((before != after).any(axis=0))


def head_effects(change: HeadDiff, deltas: Deltas, moved: NDArray[np.bool_]) -> Iterator[Effect]:
    """The largest change of any head, whatever its sign; equivalent where every head's interval is inside the margin.

    Its interval reaches from the largest lower to the largest upper end of |change| over the heads. Those that no
    prompt ``moved`` [L, H], as most that never retrieve, count as unchanged: what so few needles leave open of each is
    in its own interval alone.
    """
    low, high = (np.where(moved, end, 0.0 * end) for end in folded(change.low, change.high))
    lacking = np.isnan(change.delta) & ~(np.isnan(change.before) & np.isnan(change.after))
    if not np.isfinite(high).any() or not np.isfinite(change.q).any():
        return
    value, ends = float(np.nanmax(np.abs(change.delta))), (float(np.nanmax(low)), float(np.nanmax(high)))
    bounds = (-1.0, deltas.heads)
    needed = units_needed(value, 2 * value - ends[1], ends[1], 0.0, bounds, change.n)
    if lacking.any():  # a head that one end lacks may have changed at will
        ends, needed = (ends[0], np.inf), change.n + 1
    yield Effect(LARGEST, value, *ends, 0.0, bounds, change.n, change.unit, needed)


def nll_effects(change: HeadDiff, deltas: Deltas) -> Iterator[Effect]:
    """The change of the answers' negative log-likelihood."""
    nll, bounds = change.nll, (-deltas.nll, deltas.nll)
    if not np.isfinite(nll.delta):
        yield Effect(NLL, nll.delta, -np.inf, np.inf, 0.0, bounds, change.n, change.unit, change.n + 1)
    elif np.isfinite(nll.p) and np.isfinite(nll.low):
        needed = units_needed(nll.delta, nll.low, nll.high, 0.0, bounds, change.n)
        yield Effect(NLL, nll.delta, nll.low, nll.high, 0.0, bounds, change.n, change.unit, needed)


def _shown(change: HeadDiff) -> "pd.DataFrame":
    """Heads, strongest change first; those that changed with intervals that hold for what was named."""
    frame = change.to_frame()
    low, high = change.named_interval
    for name, ends in (("low", low), ("high", high)):
        held = ends[frame["layer"], frame["head"]]
        frame[name] = np.where(np.isnan(held), frame[name], held)
    return frame[COLUMNS]


def _needles(change: HeadDiff, pair: PairRecord) -> dict[str, dict[str, float]]:
    """Accuracy as a difference, with the prompts that went each way, which cancel in it; perplexity as a ratio."""
    right, nll = change.accuracy, change.nll
    accuracy = {name: getattr(right, name) for name in ("before", "after", "delta", "low", "high", "p")}
    assert pair.a.heads is not None
    assert pair.b.heads is not None
    ways = ways_of(np.asarray(pair.a.heads.correct, dtype=bool), np.asarray(pair.b.heads.correct, dtype=bool))
    accuracy |= {way: int(ways[way].sum()) for way in ("lost", "learned")}
    ratio = {"ratio": nll.delta, "low": nll.low, "high": nll.high, "before": nll.before, "after": nll.after}
    return {"accuracy": accuracy, "ppl": {name: float(np.exp(value)) for name, value in ratio.items()} | {"p": nll.p}}
