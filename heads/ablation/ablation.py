"""What an ablation did, and whether that is more than controls did: values, numpy only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.result import Result
from checkpoints.stats.bootstrap import Estimate, widened
from checkpoints.stats.shares import change_interval
from checkpoints.stats.ttests import mean_interval, paired_test
from checkpoints.stats.units import Floats, cluster_means, independent_units
from heads.scores.change import Change
from heads.scores.scores import GATE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_ARRAYS = ("recall", "nll", "text_nll")
LEVEL = 0.05
READINGS: Mapping[str, str] = {
    "accepted": "needle score",
    "correct": "needle accuracy",
    "nll": "answer NLL (nats per token)",
    "text_nll": "plain-text NLL (nats per token)",
    "excess": "answer NLL beyond plain-text NLL (nats per token)",
}
"""What a readout holds of every prompt, and what its mean is called."""
SHARES = ("accepted", "correct")
COLUMNS: Mapping[str, str] = {
    "needle_score": "accepted",
    "needle_accuracy": "correct",
    "answer_nll": "nll",
    "text_nll": "text_nll",
}
"""Column of `Ablation.to_frame` -> the reading it holds."""


@dataclass(frozen=True, slots=True)
class Readout:
    """What the model does with some heads ablated, prompt by prompt.

    Attributes:
        heads: ablated, by name; none for the model as it is.
        kind: what ablating meant.
        scope: at which positions.
        recall: [N] share of the answer's tokens that are the most likely ones.
        nll: [N] nats per answer token.
        text_nll: [N] nats per token of plain haystack text, which needs no retrieval; larger after an ablation means
            damage beyond retrieval. With scope ``decode`` the text comes before what is touched.
    """

    heads: tuple[str, ...]
    kind: str
    scope: str
    recall: Floats
    nll: Floats
    text_nll: Floats

    @property
    def excess(self) -> Floats:
        """[N] answer NLL minus plain-text NLL: what it costs to answer beyond what it costs to read."""
        return np.asarray(self.nll - self.text_nll)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[N] the answer right token for token."""
        return np.asarray(self.recall == 1)

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """[N] more than half of the answer's tokens right: the gate of arXiv 2404.15574."""
        return np.asarray(self.recall > GATE)

    @property
    def accuracy(self) -> float:
        """Share of prompts answered right."""
        return float(self.correct.mean())

    @property
    def score(self) -> float:
        """Share of prompts that pass the gate, by which needle tests are scored."""
        return float(self.accepted.mean())

    def __str__(self) -> str:
        """One sentence: what was ablated, and what the model still does."""
        done = f"{', '.join(self.heads)} ablated ({self.kind}, {self.scope})" if self.heads else "nothing ablated"
        return (
            f"{done}: needle score {self.score:.1%}, accuracy {self.accuracy:.1%}, answer NLL {self.nll.mean():.3g}, "
            f"plain-text NLL {self.text_nll.mean():.3g} nats per token, over {len(self.recall)} prompts"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row a prompt: recall, answer NLL, plain-text NLL."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in _ARRAYS})

    def plot(self) -> "go.Figure":
        """Answer NLL and plain-text NLL of every prompt, as boxes."""
        from heads.ablation.ablation_view import plot_readout

        return plot_readout(self)


@dataclass(frozen=True, repr=False, slots=True)
class Ablation(Result):
    """Heads ablated, beside the model as it is and, where there are any, controls.

    Attributes:
        baseline: nothing ablated.
        tested: the heads in question ablated.
        controls: kind of control (`heads.ablation.kinds.CONTROLS`) -> its draws, as many other heads each; empty where
            none were asked for, and then nothing is said of causes.
        retrieving: every head that retrieves, best first: a control that holds some is not clean.
        needle: [N] which needle a prompt hides.
        notes: kinds of control that could not be drawn, and why.
        meta: model and prompts.
    """

    artifact = "head_validation"  # as earlier versions, whose results are read

    baseline: Readout
    tested: Readout
    controls: Mapping[str, tuple[Readout, ...]]
    retrieving: tuple[str, ...]
    needle: NDArray[np.integer]
    notes: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def change(self, reading: str, control: str) -> Change:
        """A reading of `READINGS`, from the mean over one kind of control to the tested heads, paired by prompt."""
        _, cluster = independent_units(np.asarray(self.needle))
        tested = np.asarray(getattr(self.tested, reading), dtype=float)
        spared = np.mean([np.asarray(getattr(c, reading), dtype=float) for c in self.controls[control]], axis=0)
        before, after = cluster_means(spared, cluster), cluster_means(tested, cluster)
        test = paired_test(before, after)
        low, high = change_interval(after - before, test.low, test.high) if reading in SHARES else (test.low, test.high)
        spread = (float(test.delta), float(low), float(high), float(test.p))
        return Change(READINGS[reading], float(spared.mean()), float(tested.mean()), *spread)

    def estimate(self, run: Readout, reading: str = "accepted") -> Estimate:
        """Mean of a reading with its 95 % t interval over needles; NaN below three of them.

        A share on which all of them agree has the exact binomial interval.
        """
        values, (_, cluster) = np.asarray(getattr(run, reading), dtype=float), independent_units(self.needle)
        low, high = mean_interval(values, cluster)
        units = len(np.unique(cluster))
        if reading in SHARES:
            low, high = widened(np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0), units=units)
        return Estimate(float(values.mean()), float(low), float(high), units)

    def retrieving_in(self, run: Readout) -> int:
        """How many of a run's ablated heads retrieve."""
        return len(set(run.heads) & set(self.retrieving))

    @property
    def causal(self) -> bool | None:
        """Ablating the tested heads raises the answer NLL significantly more than the first kind of control does.

        What counts is the excess over the damage to plain text (``excess``): heads without any retrieval score raised
        the answer NLL by .34 and that of plain text by .40. The other controls stand beside it: one from any layer may
        hold what the tested heads themselves depend on. None without controls: what an ablation alone does may be
        damage to anything.
        """
        if not self.controls:
            return None
        answer, excess = (self.change(reading, next(iter(self.controls))) for reading in ("nll", "excess"))
        return bool(answer.delta > 0 and excess.delta > 0 and excess.p <= LEVEL)

    @property
    def verdict(self) -> str:
        """The finding in words, with its numbers, and whether its controls are clean."""
        if not self.tested.heads:
            return str(self.baseline)
        return "; ".join([self._opening(), *(self._beside(control) for control in self.controls), *self.notes])

    def _opening(self) -> str:
        """What the ablation of the tested heads did, and whether they are causal where there are controls."""
        baseline, tested, names = self.baseline, self.tested, ", ".join(self.tested.heads)
        before, after = self.estimate(baseline), self.estimate(tested)
        done = (
            f"ablated ({tested.kind}, {tested.scope}), needle score goes from {_percent(before)} to {_percent(after)}, "
            f"accuracy from {baseline.accuracy:.0%} to {tested.accuracy:.0%}"
        )
        if self.causal is None:
            return (
                f"{names} {done}, answer NLL from {baseline.nll.mean():.3g} to {tested.nll.mean():.3g}, plain-text NLL "
                f"from {baseline.text_nll.mean():.3g} to {tested.text_nll.mean():.3g} nats per token; no controls, so "
                "nothing is said of causes"
            )
        return f"{names} {'are' if self.causal else 'are not shown to be'} causal for retrieval here: {done}"

    def _beside(self, control: str) -> str:
        runs = self.controls[control]
        scores, accuracies = [r.score for r in runs], [r.accuracy for r in runs]
        also = [self.retrieving_in(r) for r in runs]
        clean = (
            f"not clean, {np.mean(also):.1f} of each {len(self.tested.heads)} heads retrieve too"
            if any(also)
            else "clean, no head of theirs retrieves"
        )
        return (
            f"{control.replace('_', '-')} controls ({len(runs)}, {clean}): needle score {_range(scores)}, accuracy "
            f"{_range(accuracies)}, {self.change('nll', control)}, {self.change('text_nll', control)}"
        )

    def runs(self) -> Iterator[tuple[str, Readout]]:
        """Every run under its name: baseline, tested, each control."""
        yield "baseline", self.baseline
        yield "tested", self.tested
        for control, runs in self.controls.items():
            yield from ((f"{control.replace('_', '-')} {i}", run) for i, run in enumerate(runs, 1))

    def to_frame(self) -> "pd.DataFrame":
        """One row an ablation: heads, how many of them retrieve, and every reading with the ends of its interval.

        Columns of readings: needle_score, needle_accuracy, answer_nll and text_nll (nats per token), each with
        ``_low`` and ``_high`` (`estimate`).
        """
        import pandas as pd

        rows = []
        for name, run in self.runs():
            row: dict[str, object] = {"ablation": name, "heads": ", ".join(run.heads)}
            row["retrieving"] = self.retrieving_in(run)
            for column, reading in COLUMNS.items():
                found = self.estimate(run, reading)
                row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Needle score, accuracy and NLLs of the model as it is, the tested heads and the controls."""
        from heads.ablation.ablation_view import plot_ablation

        return plot_ablation(self)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        runs = [run for _, run in self.runs()]
        arrays = {name: np.stack([getattr(r, name) for r in runs]) for name in _ARRAYS}
        document = {
            "about": dict(self.meta),
            "runs": [{"heads": list(r.heads), "kind": r.kind, "scope": r.scope} for r in runs],
            "controls": [[control, len(draws)] for control, draws in self.controls.items()],
            "retrieving": list(self.retrieving),
            "notes": list(self.notes),
        }
        return document, {**arrays, "needle": self.needle}

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        baseline, tested, *rest = (
            Readout(tuple(r["heads"]), r["kind"], r["scope"], *(arrays[n][i] for n in _ARRAYS))
            for i, r in enumerate(document["runs"])
        )
        left = iter(rest)
        return cls(
            baseline,
            tested,
            {control: tuple(next(left) for _ in range(n)) for control, n in document["controls"]},
            retrieving=tuple(document["retrieving"]),
            needle=arrays["needle"],
            notes=tuple(document["notes"]),
            meta=document["about"],
        )

    def _table(self) -> str:
        frame = self.to_frame()
        for name in COLUMNS:
            ends = (frame.pop(f"{name}_{end}") for end in ("low", "high"))
            frame[name] = [f"{v:.3g} [{low:.3g}, {high:.3g}]" for v, low, high in zip(frame[name], *ends, strict=True)]
        return str(frame.to_html(index=False))


def _percent(share: Estimate) -> str:
    return f"{share.value:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _range(shares: list[float]) -> str:
    """Mean and spread over draws."""
    return f"{np.mean(shares):.0%} (worst {min(shares):.0%})"
