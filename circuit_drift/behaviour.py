"""What a checkpoint does, beside how: fact recall, needle accuracy, answer perplexity, and how they change.

Every change is paired over identical prompts. Recall and accuracy use the exact McNemar test (the two-sided binomial
test over the prompts that changed sides); the answer NLL uses the paired t test over prompts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import circuits
    import heads
    from circuit_drift.run import Point


@dataclass(frozen=True, slots=True)
class Change:
    """One behaviour at A and at B.

    Attributes:
        name: what is measured.
        a, b: its value at each checkpoint.
        low, high: 95 % interval of ``b - a``.
        p: two-sided p value of no change.
        n: prompts it was measured on.
    """

    name: str
    a: float
    b: float
    low: float
    high: float
    p: float
    n: int

    @property
    def delta(self) -> float:
        """``b - a``."""
        return self.b - self.a


def recall_by_class(graph: "circuits.AttributionGraph", label: str = "class") -> dict[str, tuple[float, int]]:
    """Share of facts whose answer is the top token, for each value of a label: value -> (share, n)."""
    known = graph.answer_rank == 0
    classes = np.array([str(labels.get(label, "all")) for labels in graph.labels])
    return {
        name: (float(known[classes == name].mean()), int((classes == name).sum())) for name in dict.fromkeys(classes)
    }


def changes(a: "Point", b: "Point") -> tuple[Change, ...]:
    """How behaviour changed from A to B, for every measure both have."""
    found: list[Change] = []
    if a.heads is not None and b.heads is not None:
        found += _needle_changes(a.heads, b.heads)
    if a.circuit is not None and b.circuit is not None:
        found.append(_share_change("fact recall", a.circuit.answer_rank == 0, b.circuit.answer_rank == 0))
    return tuple(found)


def _needle_changes(a: "heads.RetrievalScores", b: "heads.RetrievalScores") -> Iterable[Change]:
    yield _share_change("needle accuracy", a.correct, b.correct)
    nll_a, nll_b = np.nanmean(a.nll, axis=1), np.nanmean(b.nll, axis=1)
    yield _mean_change("answer NLL (nats per token)", nll_a, nll_b)


def _share_change(name: str, a: np.ndarray, b: np.ndarray) -> Change:
    from scipy.stats import binomtest

    gained, lost, n = int((~a & b).sum()), int((a & ~b).sum()), len(a)
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    low, high = _interval(b.astype(float) - a.astype(float))
    return Change(name, float(a.mean()), float(b.mean()), low, high, float(p), n)


def _mean_change(name: str, a: np.ndarray, b: np.ndarray) -> Change:
    from scipy.stats import ttest_rel

    moved = bool(np.any(a != b))
    p = float(ttest_rel(b, a).pvalue) if moved and len(a) > 1 else 1.0
    low, high = _interval(b - a)
    return Change(name, float(a.mean()), float(b.mean()), low, high, p, len(a))


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % t interval of a mean of paired differences."""
    from scipy.stats import t

    n = len(differences)
    mean = float(differences.mean())
    if n < 2:
        return float("nan"), float("nan")
    half = float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return mean - half, mean + half


def as_json(changes: Iterable[Change]) -> list[Mapping[str, float | str | int]]:
    """Plain values for the JSON output."""
    return [
        {"name": c.name, "a": c.a, "b": c.b, "delta": c.delta, "low": c.low, "high": c.high, "p": c.p, "n": c.n}
        for c in changes
    ]
