"""Retrieval heads and needle readouts followed over a training run, from stored results alone, without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from checkpoints.errors import BadPrompt, CheckpointMismatch, require_choices
from checkpoints.stats.bootstrap import (
    counted_interval,
    percentiles,
    resampled_means,
    resampling,
    stretched,
    widened,
)
from checkpoints.stats.units import Floats, independent_units, nanmean
from heads.comparison.diff import diff
from heads.niah.grid import MIDDLE
from heads.scores.agreement import agreement
from heads.scores.scores import THRESHOLD, Scores, retrieves
from heads.tracking.correlation import Correlation, align_steps, correlate
from heads.tracking.head_track import CURVES, MARGIN, Curve, HeadTrack, Transition
from heads.tracking.saturation import BOUNDS, Saturation, count_bound, log_fit, saturation

Series = Sequence[tuple[int, int | None, Scores]]
SHARES = ("needle_score", "needle_accuracy")
UNBOUNDED = ("answer_nll", "middle_penalty")
CORRELATED = ("needle_score", "needle_accuracy", "answer_ppl", "retrieval_heads", "initial_set_mean")
"""What arXiv 2604.02650, table 4, correlates with downstream scores; its needle score in both readings."""


def track(
    series: Series,
    *,
    threshold: float = THRESHOLD,
    top_k: int | None = 30,
    bounds: Mapping[str, float] | None = None,
    downstream: Mapping[str, Mapping[int, float]] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> HeadTrack:
    """Follow retrieval through a training run.

    Intervals resample needles, the same ones at every checkpoint, so that changes are paired, and reach as far as t
    intervals do (`checkpoints.stats.bootstrap.stretched`); with fewer than three needles there are none.

    Args:
        series: (step, tokens or None, scores) per checkpoint, in order, all over one set of prompts.
        threshold: score above which a head is a retrieval head.
        top_k: length of the lists whose overlap is reported; None = neighbours are not compared.
        bounds: metric -> change per doubling of tokens that counts as still; names what is tested
            (`heads.tracking.saturation.BOUNDS`, and the number of heads, unless given).
        downstream: column -> {step: value} (`heads.tracking.correlation.read_downstream`) to correlate with.
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
    initial = retrieves(scores[0].mean, threshold)
    metrics = _Metrics.of(scores, initial, threshold, draws=draws, seed=seed)
    tested = {"retrieval_heads": count_bound(metrics.point["retrieval_heads"]), **BOUNDS} if bounds is None else bounds
    correlations, missing = _correlations(steps, metrics.point, downstream or {})
    curves = metrics.curves(threshold)
    return HeadTrack(
        steps=steps,
        axis="tokens" if known else "steps",
        position=position,
        curves={name: curves[name] for name in CURVES},
        transitions=() if top_k is None else _transitions(steps, scores, threshold, top_k),
        saturations=tuple(
            metrics.saturation(name, np.array(steps), position, bound)
            for name, bound in tested.items()
            if np.isfinite(metrics.point[name]).all()
        ),
        fit=log_fit(position, metrics.point["answer_ppl"]),
        correlations=correlations,
        threshold=threshold,
        initial_set=tuple(h.name for h in scores[0].top(scores[0].mean.size) if initial[h.layer, h.head]),
        unit=metrics.unit,
        notes=missing,
        margins={name.removeprefix(MARGIN): curve for name, curve in curves.items() if name.startswith(MARGIN)},
    )


@dataclass(frozen=True, slots=True)
class _Metrics:
    """Every metric over C checkpoints.

    Attributes:
        point: name -> [C].
        spread: name -> [D, C] on resampled needles.
        unit: what is resampled.
        units: how many there are.
    """

    point: Mapping[str, Floats]
    spread: Mapping[str, Floats]
    unit: str
    units: int

    @classmethod
    def of(cls, scores: Sequence[Scores], initial: np.ndarray, threshold: float, *, draws: int, seed: int) -> Self:
        """The metrics of all prompts, and those of the same resamples of needles at every checkpoint."""
        unit, cluster = independent_units(scores[0].needle)
        weights = resampling(len(np.unique(cluster)), draws=draws, seed=seed)
        values = [_metrics(s, _plain_mean, initial, threshold) for s in scores]
        resampled = [_metrics(s, lambda v: resampled_means(v, cluster, weights), initial, threshold) for s in scores]
        point = {name: np.concatenate([v[name] for v in values]) for name in values[0]}
        units = weights.shape[1]
        drawn = {name: np.stack([r[name] for r in resampled], axis=1) for name in point}
        return cls(point, {name: _spread(name, point[name], drawn[name], units) for name in point}, unit, units)

    def curves(self, threshold: float) -> dict[str, Curve]:
        """Each metric with its intervals."""
        found = {name: _curve(name, self.point[name], self.spread[name], units=self.units) for name in self.point}
        count = found["retrieval_heads"]
        ends = counted_interval(count.low, count.high, units=self.units, threshold=threshold)
        return {**found, "retrieval_heads": Curve(count.value, *ends)}

    def saturation(self, name: str, steps: np.ndarray, position: Floats, bound: float) -> Saturation:
        """Whether a metric still changes, from the first checkpoint after the start of training on."""
        later = position > 0
        doublings = np.log2(position[later])
        return saturation(
            name, steps[later].tolist(), doublings, self.point[name][later], self.spread[name][:, later], bound=bound
        )


def _spread(name: str, value: Floats, draws: Floats, units: int) -> Floats:
    """[D, C] a metric on resampled needles, reaching as far as t intervals do, within what it can be."""
    if name == "answer_ppl" or name.startswith(MARGIN):
        return np.asarray(np.exp(stretched(np.log(value), np.log(draws), units=units)))
    least, most = (-np.inf, np.inf) if name in UNBOUNDED else (0.0, np.inf if name == "retrieval_heads" else 1.0)
    return np.clip(stretched(value, draws, units=units), least, most)


def _curve(name: str, value: Floats, draws: Floats, *, units: int) -> Curve:
    low, high = percentiles(draws)
    return Curve(value, *(widened(low, high, units=units) if name in SHARES else (low, high)))


def _check(steps: Sequence[int], scores: Sequence[Scores], bounds: Mapping[str, float]) -> None:
    if len(steps) < 2:
        raise BadPrompt(f"tracking heads needs at least two checkpoints: got {len(steps)}")
    if any(b <= a for a, b in pairwise(steps)):
        raise BadPrompt(f"steps must rise from checkpoint to checkpoint: got {list(steps)}")
    require_choices("metric in bounds", bounds, CURVES)
    for step, score in zip(steps, scores, strict=True):
        if score.shape != scores[0].shape or score.meta["prompts"] != scores[0].meta["prompts"]:
            raise CheckpointMismatch(
                f"step {step} was scored on another model shape or other prompts than step {steps[0]}: "
                "score all checkpoints on one needle set"
            )


def _plain_mean(values: Floats) -> Floats:
    """[1, ...] mean over the prompts."""
    return nanmean(values)[None]


def _metrics(
    scores: Scores, mean: Callable[[Floats], Floats], initial: np.ndarray, threshold: float
) -> dict[str, Floats]:
    """Every metric of one checkpoint, [R], where ``mean`` takes R means over prompts: one of all, or many of draws."""
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
    steps: Sequence[int], scores: Sequence[Scores], threshold: float, top_k: int
) -> tuple[Transition, ...]:
    out = []
    for i in range(len(steps) - 1):
        change = diff(scores[i], scores[i + 1], threshold=threshold)
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
                found.append(correlate(point[name], align_steps(table, steps), names=(name, column)))
            except BadPrompt as reason:
                missing.append(f"no correlation: {reason}")
    return tuple(found), tuple(dict.fromkeys(missing))
