"""The monitor: retrieval heads and needle readouts over a training run, from stored results alone, without torch."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.results.artifacts import read_artifact, write_artifact
from heads.comparison.comparison import compare
from heads.niah.grid import MIDDLE
from heads.scores.agreement import Agreement, agreement
from heads.scores.scores import THRESHOLD, RetrievalScores, retrieves
from heads.scores.stats import Floats, independent_units, nanmean, percentiles, resampled_means, resampling, widened
from heads.tracking.correlation import Correlation, align, correlate
from heads.tracking.findings import findings
from heads.tracking.saturation import BOUNDS, LogFit, Saturation, Trend, count_bound, log_fit, saturation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "monitor"
Series = Sequence[tuple[int, int | None, RetrievalScores]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the checkpoints: values with the ends of their 95 % intervals, each [C]."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Transition:
    """From one checkpoint to the next: how alike their heads are, and which were born or died.

    Births and deaths cross the threshold and change significantly (`heads.compare`).
    """

    before: int
    after: int
    agreement: Agreement
    born: tuple[str, ...]
    died: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Monitor:
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
        from heads.figures.plots import plot_monitor

        return plot_monitor(self)

    def __repr__(self) -> str:
        return f"<Monitor of {len(self.steps)} checkpoints: {'; '.join(self.findings)}>"

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.findings)
        return f"<ul>{said}</ul>{self.table().to_html(index=False)}"

    def save(self, folder: Path | str) -> Path:
        """Write the result to a folder, atomically."""
        about = {name: value for name, value in asdict(self).items() if name not in ("curves", "margins", "position")}
        curves = {**self.curves, **{f"{MARGIN}{band}": curve for band, curve in self.margins.items()}}
        arrays = {f"{name}.{part}": getattr(c, part) for name, c in curves.items() for part in c.__slots__}
        return write_artifact(folder, KIND, {"about": about}, {"position": self.position, **arrays})

    @classmethod
    def load(cls, folder: Path | str) -> "Monitor":
        """Read what `save` wrote.

        Raises:
            StoreError: nothing there, damaged, or of another kind.
        """
        meta, arrays = read_artifact(folder, KIND)
        about = meta["about"]
        names = dict.fromkeys(name.rpartition(".")[0] for name in sorted(arrays) if "." in name)
        curves = {n: Curve(*(arrays[f"{n}.{part}"] for part in Curve.__slots__)) for n in names}
        transitions = [t | {"agreement": Agreement(**t["agreement"])} for t in about["transitions"]]
        return cls(
            steps=tuple(about["steps"]),
            axis=about["axis"],
            position=arrays["position"],
            curves={name: curves[name] for name in CURVES if name in curves},
            margins={n.removeprefix(MARGIN): curve for n, curve in curves.items() if n.startswith(MARGIN)},
            transitions=tuple(
                Transition(**{**t, "born": tuple(t["born"]), "died": tuple(t["died"])}) for t in transitions
            ),
            saturations=tuple(
                Saturation(s["metric"], tuple(Trend(**t) for t in s["trends"])) for s in about["saturations"]
            ),
            fit=LogFit(**{**about["fit"], "residuals": tuple(about["fit"]["residuals"])}) if about["fit"] else None,
            correlations=tuple(
                Correlation(**{**c, "leave_one_out": tuple(c["leave_one_out"])}) for c in about["correlations"]
            ),
            threshold=about["threshold"],
            initial_set=tuple(about["initial_set"]),
            unit=about["unit"],
            notes=tuple(about["notes"]),
        )


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
SHARES = ("needle_score", "needle_accuracy")
TOLD = ("retrieval_heads", "needle_score", "needle_accuracy", "answer_ppl")
MARGIN = "answer_ppl at "
CORRELATED = ("needle_score", "needle_accuracy", "answer_ppl", "retrieval_heads", "initial_set_mean")
"""What arXiv 2604.02650, table 4, correlates with downstream scores; its needle score in both readings."""


def monitor(
    series: Series,
    *,
    threshold: float = THRESHOLD,
    top_k: int = 30,
    bounds: Mapping[str, float] | None = None,
    downstream: Mapping[str, Mapping[int, float]] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Monitor:
    """Follow retrieval through a training run.

    Intervals resample needles (or prompts, with fewer than eight needles), the same ones at every checkpoint, so
    that changes are paired.

    Args:
        series: (step, tokens or None, scores) per checkpoint, in order, all over one set of prompts.
        threshold: score above which a head is a retrieval head.
        top_k: length of the lists whose overlap is reported.
        bounds: metric -> change per doubling of tokens that counts as still; names what is tested
            (`heads.tracking.saturation.BOUNDS`, and the number of heads, unless given).
        downstream: column -> {step: value} (`heads.read_downstream`) to correlate with.
        draws: resamples.
        seed: of the resamples.

    Raises:
        BadPrompt: fewer than two checkpoints, steps out of order, or an unknown metric in ``bounds``.
        CheckpointMismatch: checkpoints of different models or prompts.
    """
    steps = tuple(step for step, _, _ in series)
    scores = [s for _, _, s in series]
    _check(steps, scores, bounds or {})
    tokens = [t for _, t, _ in series]
    known = all(t is not None for t in tokens)
    position = np.array([t or 0 for t in tokens] if known else steps, dtype=np.float64)
    unit, cluster = independent_units(scores[0].needle)
    weights = resampling(len(np.unique(cluster)), draws=draws, seed=seed)
    initial = retrieves(scores[0].mean, threshold)
    values = [_metrics(s, None, None, initial, threshold) for s in scores]
    resampled = [_metrics(s, cluster, weights, initial, threshold) for s in scores]
    point = {name: np.concatenate([v[name] for v in values]) for name in values[0]}
    spread = {name: np.stack([r[name] for r in resampled], axis=1) for name in values[0]}
    curves = {name: _curve(name, point[name], spread[name], units=weights.shape[1]) for name in point}
    tested = {"retrieval_heads": count_bound(point["retrieval_heads"]), **BOUNDS} if bounds is None else bounds
    later = position > 0
    correlations, missing = _correlations(steps, point, downstream or {})
    return Monitor(
        steps=steps,
        axis="tokens" if known else "steps",
        position=position,
        curves={name: curves[name] for name in CURVES},
        transitions=_transitions(steps, scores, threshold, top_k),
        saturations=tuple(
            saturation(
                name,
                np.array(steps)[later].tolist(),
                np.log2(position[later]),
                point[name][later],
                spread[name][:, later],
                bound=bound,
            )
            for name, bound in tested.items()
            if np.isfinite(point[name]).all()
        ),
        fit=log_fit(position, point["answer_ppl"]),
        correlations=correlations,
        threshold=threshold,
        initial_set=tuple(h.name for h in scores[0].top(scores[0].mean.size) if initial[h.layer, h.head]),
        unit=unit,
        notes=missing,
        margins={name.removeprefix(MARGIN): curve for name, curve in curves.items() if name.startswith(MARGIN)},
    )


def _curve(name: str, value: Floats, draws: Floats, *, units: int) -> Curve:
    low, high = percentiles(draws)
    return Curve(value, *(widened(low, high, units=units) if name in SHARES else (low, high)))


def _with_ends(value: float, low: float, high: float) -> str:
    return f"{_short(value)} [{_short(low)}, {_short(high)}]"


def _shared(found: Agreement) -> str:
    return f"{found.shared} of {found.k} (chance {_short(found.by_chance)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _check(steps: Sequence[int], scores: Sequence[RetrievalScores], bounds: Mapping[str, float]) -> None:
    if len(steps) < 2:
        raise BadPrompt(f"a monitor follows at least two checkpoints: got {len(steps)}")
    if any(b <= a for a, b in pairwise(steps)):
        raise BadPrompt(f"steps must rise from checkpoint to checkpoint: got {list(steps)}")
    if unknown := set(bounds) - set(CURVES):
        raise BadPrompt(f"bounds name unknown metrics {sorted(unknown)}; there are {list(CURVES)}")
    for step, score in zip(steps, scores, strict=True):
        if score.shape != scores[0].shape or score.meta["prompts"] != scores[0].meta["prompts"]:
            raise CheckpointMismatch(
                f"step {step} was scored on another model shape or other prompts than step {steps[0]}: "
                "score all checkpoints on one needle set"
            )


def _metrics(
    scores: RetrievalScores,
    cluster: np.ndarray | None,
    weights: Floats | None,
    initial: np.ndarray,
    threshold: float,
) -> dict[str, Floats]:
    """Every metric of one checkpoint, [1], or on resampled units, [draws]."""

    def mean(values: Floats) -> Floats:
        if cluster is None or weights is None:
            return nanmean(values)[None]
        return resampled_means(values, cluster, weights)

    by_head = mean(scores.copy)
    current = retrieves(scores.mean, threshold)

    def nll_over(chosen: np.ndarray) -> Floats:
        tokens = ~np.isnan(scores.nll) & chosen[:, None]
        total = mean(np.where(tokens, scores.nll, 0.0).sum(axis=1))
        with np.errstate(invalid="ignore"):
            return np.asarray(total / mean(tokens.sum(axis=1).astype(float)))

    nll = nll_over(np.ones(len(scores), dtype=bool))
    middle = (scores.depth >= MIDDLE[0]) & (scores.depth <= MIDDLE[1])
    fifth = np.minimum((5 * scores.depth).astype(int), 4)
    return {
        "retrieval_heads": retrieves(by_head, threshold).sum(axis=(1, 2)).astype(float),
        "initial_set_mean": nanmean(by_head[:, initial], axis=1),
        "current_set_mean": nanmean(by_head[:, current], axis=1),
        "all_heads_mean": nanmean(by_head.reshape(len(by_head), -1), axis=1),
        "needle_score": mean(scores.accepted.astype(float)),
        "needle_accuracy": mean(scores.correct.astype(float)),
        "answer_nll": nll,
        "answer_ppl": np.exp(nll),
        "middle_penalty": nll_over(middle) - nll_over(~middle),
        **{f"{MARGIN}{20 * i}-{20 * i + 20} %": np.exp(nll_over(fifth == i)) for i in np.unique(fifth)},
    }


def _transitions(
    steps: Sequence[int], scores: Sequence[RetrievalScores], threshold: float, top_k: int
) -> tuple[Transition, ...]:
    out = []
    for i in range(len(steps) - 1):
        change = compare(scores[i], scores[i + 1], threshold=threshold)
        alike = agreement(scores[i].mean, scores[i + 1].mean, top_k=top_k)
        out.append(Transition(steps[i], steps[i + 1], alike, change.gained, change.lost))
    return tuple(out)


def _correlations(
    steps: Sequence[int], point: Mapping[str, Floats], downstream: Mapping[str, Mapping[int, float]]
) -> tuple[tuple[Correlation, ...], tuple[str, ...]]:
    """The metrics of `CORRELATED` against every downstream column, and why some pairs have no correlation."""
    found, missing = [], []
    for column, table in downstream.items():
        for name in CORRELATED:
            try:
                found.append(correlate(point[name], align(table, steps), names=(name, column)))
            except BadPrompt as reason:
                missing.append(f"no correlation: {reason}")
    return tuple(found), tuple(missing)
