"""What a series of checkpoints says about retrieval, as a value: numpy only, saved and loaded without torch."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from checkpoints.results.fields import Arrays, pack, unpack
from checkpoints.results.result import Result
from checkpoints.results.text import bulleted
from checkpoints.stats.units import Floats
from heads.scores.agreement import Agreement
from heads.tracking.correlation import Correlation
from heads.tracking.saturation import LogFit, Saturation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


_DRAWN = ("curves", "margins", "position")


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the checkpoints: values with the ends of their 95 % intervals, each [C]."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Transition:
    """From one checkpoint to the next: how alike their heads are, and which were born or died.

    Births and deaths cross the threshold and change significantly (`heads.diff`).
    """

    before: int
    after: int
    agreement: Agreement
    born: tuple[str, ...]
    died: tuple[str, ...]


@dataclass(frozen=True, repr=False, slots=True)
class HeadTrack(Result):
    """What a series of checkpoints says about retrieval.

    Attributes:
        steps: of the checkpoints, in order.
        axis: what doublings count: ``tokens`` where all are known, else ``steps``.
        position: [C] tokens or steps.
        curves: metric -> `Curve`. ``retrieval_heads`` (count above the threshold), ``initial_set_mean`` (mean over
            the heads above it at the first checkpoint, frozen), ``current_set_mean``, ``all_heads_mean``,
            ``needle_score`` (more than half of the answer right), ``needle_accuracy`` (all of it), ``answer_nll``
            (nats per token), ``answer_ppl``, and ``middle_penalty`` (nats per token at 30 to 80 % depth minus those
            elsewhere; NaN without depths in both parts). A share on which all units agree has the exact binomial
            interval.
        margins: fifth of the haystack in which the needle stands (``0-20 %``, where there are any) -> answer PPL.
        transitions: between neighbours.
        saturations: one per metric tested that applies at every checkpoint.
        fit: answer PPL = A ln(tokens) + B; None with fewer than three checkpoints.
        correlations: with every downstream column given.
        threshold: of a retrieval head.
        initial_set: the frozen heads of `initial_set_mean`.
        unit: what was resampled.
        notes: what could not be computed, and why.
    """

    artifact = "monitor"  # as earlier versions, whose results are read

    steps: tuple[int, ...]
    axis: str
    position: Floats
    curves: Mapping[str, Curve]
    transitions: tuple[Transition, ...]
    saturations: tuple[Saturation, ...]
    fit: LogFit | None
    correlations: tuple[Correlation, ...]
    threshold: float
    initial_set: tuple[str, ...]
    unit: str
    notes: tuple[str, ...] = field(default=())
    margins: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def findings(self) -> tuple[str, ...]:
        """What the numbers say, a sentence each."""
        from heads.tracking.head_track_view import findings

        return findings(self)

    def to_frame(self) -> "pd.DataFrame":
        """One row a checkpoint: every metric with its interval, and the agreement with the one before."""
        import pandas as pd

        columns: dict[str, object] = {"step": self.steps, self.axis: self.position}
        margins = {f"answer_ppl at {band}": curve for band, curve in self.margins.items()}
        for name, curve in {**self.curves, **margins}.items():
            columns |= {name: curve.value, f"{name}_low": curve.low, f"{name}_high": curve.high}
        for name in ("shared", "k", "by_chance", "rank_biased", "spearman", "tied", "spearman_top"):
            columns[name] = [np.nan, *(getattr(t.agreement, name) for t in self.transitions)]
        for name in ("born", "died"):
            columns[name] = [np.nan, *(len(getattr(t, name)) for t in self.transitions)]
        return pd.DataFrame(columns)

    def table(self) -> "pd.DataFrame":
        """One row a checkpoint, to be read: the main metrics as text with their intervals, and what changed before."""
        import pandas as pd

        columns: dict[str, list[str]] = {"step": [f"{step:,}" for step in self.steps]}
        for name in TOLD:
            curve = self.curves[name]
            columns[name] = [_with_ends(*ends) for ends in zip(curve.value, curve.low, curve.high, strict=True)]
        columns["top K shared"] = ["", *(_shared(t.agreement) for t in self.transitions)]
        columns["spearman"] = ["", *(_short(t.agreement.spearman) for t in self.transitions)]
        columns["born"] = ["", *(str(len(t.born)) for t in self.transitions)]
        columns["died"] = ["", *(str(len(t.died)) for t in self.transitions)]
        return pd.DataFrame(columns)

    def plot(self) -> "go.Figure":
        """Retrieval heads, needle score and accuracy, and answer perplexity over training, with their bands."""
        from heads.tracking.head_track_view import plot_head_track

        return plot_head_track(self)

    @property
    def verdict(self) -> str:
        """The findings, after one another."""
        return "; ".join(self.findings)

    def __repr__(self) -> str:
        return bulleted(f"HeadTrack of {len(self.steps)} checkpoints", self.findings, ".findings")

    def _stored(self) -> tuple[dict[str, Any], Arrays]:
        arrays: Arrays = {}
        about = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _DRAWN}
        document = {"about": pack(about, "", arrays)}
        for name, curve in {**self.curves, **{f"{MARGIN}{band}": c for band, c in self.margins.items()}}.items():
            pack(curve, name, arrays)
        return document, {**arrays, "position": self.position}

    @classmethod
    def _restored(cls, document: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        places = {f"curves.{name}.": f"{name}." for name in CURVES} | {"margins.": MARGIN}
        renamed = {"position": arrays["position"]}
        for new, old in places.items():
            renamed |= {new + path.removeprefix(old): array for path, array in arrays.items() if path.startswith(old)}
        found: Self = unpack(cls, document["about"], "", renamed)
        return replace(found, curves={name: found.curves[name] for name in CURVES if name in found.curves})

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.findings)
        return f"<ul>{said}</ul>{self.table().to_html(index=False)}"


CURVES = (
    "retrieval_heads",
    "initial_set_mean",
    "current_set_mean",
    "all_heads_mean",
    "needle_score",
    "needle_accuracy",
    "answer_nll",
    "answer_ppl",
    "middle_penalty",
)
TOLD = ("retrieval_heads", "needle_score", "needle_accuracy", "answer_ppl")
MARGIN = "answer_ppl at "


def _with_ends(value: float, low: float, high: float) -> str:
    return _short(value) if np.isnan(low) else f"{_short(value)} [{_short(low)}, {_short(high)}]"


def _shared(found: Agreement) -> str:
    return f"{found.shared} of {found.k} (chance {_short(found.by_chance)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
