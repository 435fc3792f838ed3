"""Two checkpoints' retrieval scores, prompt by prompt: which heads changed, by how much, how surely."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch, require_choice
from checkpoints.results.result import Result
from checkpoints.results.text import counted
from checkpoints.stats.changes import mean_change_p, moderated_test
from checkpoints.stats.shares import change_interval, exchange_p, others_change_interval
from checkpoints.stats.ttests import MIN_UNITS, TTest, difference_test, selected_interval, skewed_interval, welch_test
from checkpoints.stats.units import Floats, Pairing, Unit, cluster_means, independent_units, nanmean
from heads.scores.change import Change
from heads.scores.names import head_name, head_names
from heads.scores.scores import THRESHOLD, Scores, retrieves

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, slots=True)
class HeadDiff(Result):
    """Change of every head's retrieval score from A to B; positive means B retrieves more.

    Attributes:
        before: [L, H] mean score in A.
        after: [L, H] mean score in B.
        delta: [L, H] mean difference B - A.
        low: [L, H] lower end of its 95 % interval.
        high: [L, H] upper end.
        p: [L, H] two-sided p.
        q: [L, H] Benjamini-Hochberg q-value over all heads.
        accuracy: change of the needle accuracy.
        nll: change of the answer NLL, nats per token; negative means B answers better.
        level: q below which a change counts as significant.
        threshold: score above which a head is a retrieval head.
        pairing: over identical prompts, or not.
        unit: what was treated as independent.
        n: number of those units (of the smaller side when unpaired).
    """

    artifact = "head_comparison"

    before: Floats
    after: Floats
    delta: Floats
    low: Floats
    high: Floats
    p: Floats
    q: Floats
    accuracy: Change
    nll: Change
    level: float
    threshold: float
    pairing: Pairing
    unit: str
    n: int

    @property
    def n_significant(self) -> int:
        """Heads whose score changed at the level."""
        return int(np.sum(self.q <= self.level))

    @property
    def gained(self) -> tuple[str, ...]:
        """Heads that crossed the threshold upwards and changed significantly, largest change first."""
        return self._crossed(self.before, self.after)

    @property
    def lost(self) -> tuple[str, ...]:
        """Heads that crossed it downwards and changed significantly, largest change first."""
        return self._crossed(self.after, self.before)

    @property
    def significant(self) -> bool:
        """Any head changed at the level, or a readout did.

        Hochberg's step-up over the two readouts: one at half the level, or both at the level.
        """
        first, second = sorted(1.0 if np.isnan(c.p) else c.p for c in (self.accuracy, self.nll))
        return self.n_significant > 0 or first <= self.level / 2 or (first <= self.level and second <= self.level)

    @property
    def named_interval(self) -> tuple[Floats, Floats]:
        """[L, H] 95 % intervals that hold for the heads singled out, by the false coverage rate; NaN of the others.

        Singled out are the heads that changed, or where none did the one that changed most; with units too few for a
        test, intervals are plain.
        """
        if not np.isfinite(self.p).any():
            return self.low, self.high
        chosen = np.asarray(self.q <= self.level)
        size = np.nan_to_num(np.abs(self.delta), nan=-1.0)
        chosen = chosen if chosen.any() else np.arange(size.size).reshape(size.shape) == size.argmax()
        test = TTest(self.delta, self.low, self.high, self.p, self.q)
        return selected_interval(test, chosen, self.n)

    def _crossed(self, from_: Floats, to: Floats) -> tuple[str, ...]:
        crossed = ~retrieves(from_, self.threshold) & retrieves(to, self.threshold) & (self.q <= self.level)
        found = sorted(np.argwhere(crossed), key=lambda at: -abs(self.delta[tuple(at)]))
        return tuple(head_name(int(layer), int(head)) for layer, head in found)

    @property
    def verdict(self) -> str:
        """The finding in one sentence, with its numbers."""
        heads = f"{self.n_significant} of {self.delta.size} heads changed their retrieval score (q ≤ {self.level})"
        crossed = f"{len(self.gained)} gained, {len(self.lost)} lost (threshold {self.threshold})"
        return f"{heads}, {crossed}; {self.accuracy}; {self.nll}; n = {counted(self.n, self.unit)}, {self.pairing}"

    def to_frame(self) -> "pd.DataFrame":
        """One row a head, strongest change first: scores, change with interval, p, q, status."""
        import pandas as pd

        layers, heads = np.indices(self.delta.shape)
        names = head_names((self.delta.shape[0], self.delta.shape[1]))
        gained, lost = set(self.gained), set(self.lost)
        status = ["gained" if n in gained else "lost" if n in lost else "" for n in names]
        columns = {"name": names, "layer": layers.ravel(), "head": heads.ravel()}
        fields = ("before", "after", "delta", "low", "high", "p", "q")
        columns |= {name: getattr(self, name).ravel() for name in fields}
        frame = pd.DataFrame(columns | {"status": status})
        return frame.sort_values("delta", key=np.abs, ascending=False, kind="stable", ignore_index=True)

    def plot(self) -> "go.Figure":
        """Heat map of the change, layers x heads, significant heads marked."""
        from heads.comparison.diff_view import plot_comparison

        return plot_comparison(self)


def diff(
    a: Scores,
    b: Scores,
    *,
    q: float = 0.05,
    threshold: float = THRESHOLD,
    pairing: Pairing = "paired",
    unit: Unit = "auto",
) -> HeadDiff:
    """Compare two checkpoints head by head.

    p of a head is that of its moderated change among all heads', by sign flips of units and by centred units drawn
    anew, whichever is larger (`checkpoints.stats.changes`), or Welch's over other prompts; Benjamini-Hochberg over all
    heads. p of the NLL is `checkpoints.stats.changes.mean_change_p`'s, that of the accuracy exact: A and B exchanged
    needle by needle, which is McNemar's where a needle has one prompt. Over other prompts both are Welch's; intervals
    are Student's. The prompts of one needle share its text and its haystack, so the unit is the needle (mean over its
    depths), however few there are: intervals need three, p five, and a head is named from six on, as q is at least
    2^(1 - n).

    Args:
        a: scores of the first checkpoint.
        b: scores of the second.
        q: false discovery rate.
        threshold: of a retrieval head.
        pairing: ``unpaired`` compares results over different prompts (Welch's test).
        unit: what to treat as independent.

    Raises:
        CheckpointMismatch: different models, or different prompts when paired.
        BadPrompt: ``q`` outside (0, 1), or an unknown pairing.
    """
    require_choice("pairing", pairing, get_args(Pairing))
    if not 0 < q < 1:
        raise BadPrompt(f"q is a false discovery rate in (0, 1): got {q}")
    if a.shape != b.shape:
        raise CheckpointMismatch(f"A has {a.shape} layers x heads, B has {b.shape}: not two checkpoints of one model")
    if pairing == "paired" and a.meta["prompts"] != b.meta["prompts"]:
        raise CheckpointMismatch(
            "A and B were scored on different prompts (another tokenizer, needle list, seed, length or depths): "
            "score both on one set, or ask for pairing='unpaired'"
        )
    chosen, units_a, units_b = _units(a, b, unit)
    before, after = units_a(a.copy), units_b(b.copy)
    heads = _changes(after - before) if pairing == "paired" else _other_changes(before, after)
    n = min(len(units_a(a.prompt_nll)), len(units_b(b.prompt_nll)))
    right, nll = _answers(a, b, chosen) if pairing == "paired" else _other_answers(a, b, units_a, units_b)
    return HeadDiff(
        before=a.mean,
        after=b.mean,
        delta=heads.delta,
        low=heads.low,
        high=heads.high,
        p=heads.p,
        q=heads.q,
        accuracy=_change("needle accuracy", a.correct.astype(float), b.correct.astype(float), right),
        nll=_change("answer NLL (nats per token)", a.prompt_nll, b.prompt_nll, nll),
        level=q,
        threshold=threshold,
        pairing=pairing,
        unit=chosen,
        n=n,
    )


def _changes(difference: Floats) -> TTest:
    """Each head's change over units [U, L, H], with an interval that allows for their skew, and for few that agree."""
    low, high = change_interval(difference, *skewed_interval(difference))
    return replace(moderated_test(difference), low=low, high=high)


def _other_changes(before: Floats, after: Floats) -> TTest:
    """The same over other units [U, L, H] and [V, L, H]."""
    test = welch_test(before, after)
    low, high = others_change_interval(before, after, test.low, test.high)
    return replace(test, low=low, high=high)


Grouping = Callable[[Floats], Floats]


def _units(a: Scores, b: Scores, unit: Unit) -> tuple[str, Grouping, Grouping]:
    """What is independent, and how to average a result's prompts down to it."""
    chosen, of_a = independent_units(a.needle, unit)
    other, of_b = independent_units(b.needle, unit)
    if chosen != other:
        return _units(a, b, "prompt")
    return chosen, lambda values: cluster_means(values, of_a), lambda values: cluster_means(values, of_b)


def _answers(a: Scores, b: Scores, unit: str) -> tuple[TTest, TTest]:
    """Accuracy and NLL over identical prompts."""
    _, of = independent_units(a.needle, "prompt" if unit == "prompt" else "needle")
    answered, nll = b.correct.astype(float) - a.correct, cluster_means(b.prompt_nll - a.prompt_nll, of)
    net = np.bincount(np.unique(of, return_inverse=True)[1], weights=answered).astype(int)
    exact = exchange_p(net) if len(net) >= MIN_UNITS else float("nan")
    units = cluster_means(answered, of)
    right = difference_test(units)
    low, high = change_interval(units, right.low, right.high)
    right = replace(right, low=low, high=high, p=np.asarray(exact))
    return right, replace(difference_test(nll), p=np.asarray(mean_change_p(nll)))


def _other_answers(a: Scores, b: Scores, units_a: Grouping, units_b: Grouping) -> tuple[TTest, TTest]:
    """The same over other prompts."""
    right = _other_changes(units_a(a.correct.astype(float)), units_b(b.correct.astype(float)))
    return right, welch_test(units_a(a.prompt_nll), units_b(b.prompt_nll))


def _change(name: str, before: Floats, after: Floats, test: TTest) -> Change:
    spread = (float(test.delta), float(test.low), float(test.high), float(test.p))
    return Change(name, float(nanmean(before)), float(nanmean(after)), *spread)
