"""When to stop: by what the model still learns, not by its loss.

Two curves are judged over the probes of one stage of training: the mean recall of facts, and the answer NLL of needles
in a haystack. A curve is still if the test of tracking (`heads.tracking.saturation`) finds no change per doubling of
steps beyond a bound. Forgetting has begun if recall, of all facts or of one group of them (prior exposure), has fallen
below the best it held by more than a bound and beyond what another draw of facts explains, at several checkpoints in a
row. The best held is the recall at the start of the stage or the lower of two neighbours: the highest of many points
is high by luck, and what follows it falls by itself.

The defaults are chosen by the share of runs that they stop, with 20 / 100 facts in a group, 300 runs each
(``benchmarks/lab/stopping.py``; shipped: facts of the shipped series, published: of arXiv 2601.03858's run). The first
four are noise, so that their shares are false stops; below, one minus the share is the rate of missed stops.

    loss of recall that counts as forgetting   highest .02   held .02      held .1       held .2
    never taught (shipped, pre-training)       .04 / .15     .00 / .01     .00 / .00     .00 / .00
    answers that flicker at .5                 .19 / .17     .04 / .04     .04 / .04     .04 / .00
    answers that flicker, each its own         .19 / .15     .06 / .03     .06 / .02     .03 / .00
    epochs shuffled (published)                .18 / .14     .05 / .04     .00 / .00     .00 / .00
    old facts in continual pre-training        1.0 / 1.0     1.0 / 1.0     1.0 / 1.0     1.0 / 1.0
    .2 of .8 is lost                           .81 / 1.0     .44 / .99     .44 / .99     .43 / .69
    .1 of .8 is lost                           .44 / .85     .14 / .55     .14 / .54     .13 / .05

    change per doubling that counts as still   .01           .02           .05           .1
    recall stands                              .40 / .27     .47 / .96     1.0 / 1.0     1.0 / 1.0
    recall rises by .03 per doubling           .21 / .00     .22 / .02     .83 / 1.0     1.0 / 1.0
    recall rises by .05 per doubling           .08 / .00     .08 / .00     .48 / .67     1.0 / 1.0

So .1 and .02; a rule over 20 facts alone is a weak one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import percentiles, resampled_means, resampling, stretched
from checkpoints.stats.units import independent_units
from heads.tracking.saturation import saturation

if TYPE_CHECKING:
    import heads
    from circuit_drift.knowledge import UnitScores

Retrieval = Sequence[tuple[int, "heads.Scores"]]


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """What counts as still, and for how long.

    Attributes:
        recall_bound: change of mean recall per doubling of steps that counts as still.
        forgetting_bound: smallest loss of recall that counts as forgetting.
        nll_bound: change of the needles' answer NLL per doubling that counts as still, in nats per token.
        patience: further checkpoints that must agree.
        draws: resamples of facts or needles.
        seed: of the resamples.
    """

    recall_bound: float = 0.02
    forgetting_bound: float = 0.1
    nll_bound: float = 0.02
    patience: int = 2
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.patience < 1 or min(self.recall_bound, self.forgetting_bound, self.nll_bound) <= 0:
            raise BadPrompt(f"a stopping rule needs patience >= 1 and bounds > 0: got {self}")


@dataclass(frozen=True, slots=True)
class WatchedCurve:
    """A measure over the checkpoints of a stage.

    Attributes:
        name: in words.
        steps: C optimizer steps.
        since: [C] steps since the stage began; 0 for the checkpoint it began with.
        values: [C].
        draws: [D, C] the same over resampled facts or needles.
        bound: change per doubling that counts as still.
    """

    name: str
    steps: tuple[int, ...]
    since: NDArray[np.float64]
    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    bound: float

    def until(self, step: int) -> "WatchedCurve":
        """What was known of it at a step."""
        count = sum(s <= step for s in self.steps)
        steps, since = self.steps[:count], self.since[:count]
        return WatchedCurve(self.name, steps, since, self.values[:count], self.draws[:, :count], self.bound)

    def still_since(self, patience: int) -> int | None:
        """The first step after which the curve is still, with that many checkpoints after it."""
        later = self.since > 0  # doublings count from the first step on
        steps = [step for step, counts in zip(self.steps, later, strict=True) if counts]
        time, values, draws = np.log2(self.since[later]), self.values[later], self.draws[:, later]
        tested = saturation(self.name, steps, time, values, draws, bound=self.bound).trends
        enough = tested[: max(0, len(steps) - patience)]
        return next((trend.step for trend in enough if trend.saturated), None)

    def fallen_since(self, patience: int, bound: float) -> int | None:
        """The step of the best value held, if the last checkpoints all lie below it beyond the bound and chance."""
        split = len(self.steps) - patience
        if split < 1:
            return None
        held = _held(self.values[:split])
        best = int(np.nanargmax(held))
        drop = held[best] - self.values[split:]
        low, _ = percentiles(_held(self.draws[:, :split])[:, [best]] - self.draws[:, split:])
        return self.steps[best] if bool((drop > bound).all() and (low > 0).all()) else None


def _held(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower of each value and the one before it, over the last axis; the first stands for itself."""
    lower = values.copy()
    lower[..., 1:] = np.minimum(values[..., :-1], values[..., 1:])
    return lower


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rule says at one checkpoint.

    Attributes:
        step: the checkpoint.
        recall_still: step since which recall is still; None while it moves or where it was not measured.
        needles_still: the same of the needles' answer NLL.
        forgotten_since: step at which the best recall was held, if forgetting has begun.
        forgotten: of what.
        stop: whether to stop here.
        reason: in words.
    """

    step: int
    recall_still: int | None
    needles_still: int | None
    forgotten_since: int | None
    forgotten: str | None
    stop: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule over a finished run.

    Attributes:
        judgements: at every checkpoint, by what was known there.
        recall_change: mean recall at the end less that at the stop; NaN without a stop or without facts.
    """

    judgements: tuple[Judgement, ...]
    recall_change: float

    @property
    def stop(self) -> Judgement | None:
        """The first checkpoint at which the rule would have stopped."""
        return next((judgement for judgement in self.judgements if judgement.stop), None)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        last = self.judgements[-1]
        if self.stop is None:
            return f"no reason to stop up to {last.step}: {last.reason}"
        change = round(self.recall_change, 3) + 0.0  # never "-0.000"
        after = f"; going on to {last.step} changed mean recall by {change:+.3f}"
        return f"stop at {self.stop.step}: {self.stop.reason}" + (after if np.isfinite(self.recall_change) else "")


def judge(
    scores: "UnitScores | None" = None,
    retrieval: Retrieval = (),
    *,
    rule: StoppingRule | None = None,
    origin: int = 0,
    by: str | None = None,
) -> Judgement | None:
    """What the rule says at the last checkpoint.

    Args:
        scores: of facts, at the probes so far.
        retrieval: (step, retrieval scores) at the probes so far, all on one needle set.
        rule: when to stop.
        origin: step at which this stage of training began; doublings are counted from there.
        by: a label of the facts (prior exposure): forgetting is then looked for in each of its groups too, since
            what is lost in one may be hidden by what is learned in another.

    Returns:
        the judgement; None while there is no checkpoint after the origin.

    Raises:
        BadPrompt: the facts have no such label.
    """
    watched = _watch(scores, retrieval, rule or StoppingRule(), origin, by)
    return watched.judge(watched.steps[-1]) if watched.steps else None


def verdict(
    scores: "UnitScores | None" = None,
    retrieval: Retrieval = (),
    *,
    rule: StoppingRule | None = None,
    origin: int = 0,
    by: str | None = None,
) -> Verdict:
    """Replay the rule over a finished run, at each checkpoint with what was known there; arguments as for `judge`.

    Raises:
        BadPrompt: no checkpoint after the origin, or no such label.
    """
    watched = _watch(scores, retrieval, rule or StoppingRule(), origin, by)
    if not watched.steps:
        raise BadPrompt(f"no checkpoint after step {origin} has scores of facts or needles: nothing can be judged")
    judged = tuple(watched.judge(step) for step in watched.steps)
    stop = next((judgement.step for judgement in judged if judgement.stop), None)
    recall, change = watched.curves.get("recall"), float("nan")
    if recall is not None and stop is not None:
        change = float(recall.values[-1] - recall.until(stop).values[-1])
    return Verdict(judged, change)


@dataclass(frozen=True, slots=True)
class _Watched:
    """The curves of one stage.

    Attributes:
        curves: ``recall`` and ``needles``, those that were measured: their saturation is judged.
        recalls: recall of all facts and of each group: their fall is judged.
        rule: when to stop.
    """

    curves: dict[str, WatchedCurve]
    recalls: tuple[WatchedCurve, ...]
    rule: StoppingRule

    @property
    def steps(self) -> tuple[int, ...]:
        """The checkpoints after the stage began."""
        return tuple(sorted({s for c in self.curves.values() for s, n in zip(c.steps, c.since, strict=True) if n > 0}))

    def judge(self, step: int) -> Judgement:
        known = {name: curve.until(step) for name, curve in self.curves.items()}
        still = {name: curve.still_since(self.rule.patience) for name, curve in known.items()}
        lost, since = self._fallen(step)
        if lost is not None:
            reason = f"forgetting has begun: {lost} has fallen significantly since its best, held at {since}"
        else:
            reason = "; ".join(
                f"{known[name].name} " + ("still moves" if at is None else f"is still since {at}")
                for name, at in still.items()
            )
        stop = lost is not None or all(at is not None for at in still.values())
        return Judgement(step, still.get("recall"), still.get("needles"), since, lost, stop, reason)

    def _lost(self, curve: WatchedCurve, step: int) -> int | None:
        return curve.until(step).fallen_since(self.rule.patience, self.rule.forgetting_bound)

    def _fallen(self, step: int) -> tuple[str | None, int | None]:
        """The first recall that has fallen, and the step of its best."""
        for curve in self.recalls:
            if (since := self._lost(curve, step)) is not None:
                return curve.name, since
        return None, None


def _watch(
    scores: "UnitScores | None", retrieval: Retrieval, rule: StoppingRule, origin: int, by: str | None
) -> _Watched:
    curves, recalls = {}, []
    if scores is not None:
        curves["recall"] = _recall(scores, "recall of facts", rule, origin)
        groups = scores.groups(by) if by is not None else {}
        recalls = [_recall(part, f"recall of {by} {value}", rule, origin) for value, part in groups.items()]
        recalls.insert(0, curves["recall"])
    if retrieval:
        curves["needles"] = _needles(retrieval, rule, origin)
    return _Watched({name: curve for name, curve in curves.items() if curve.since.any()}, tuple(recalls), rule)


def _recall(scores: "UnitScores", name: str, rule: StoppingRule, origin: int) -> WatchedCurve:
    later = np.array(scores.steps) >= origin
    values, units = scores.mean[:, later], np.arange(len(scores.units))
    draws = resampled_means(values, units, resampling(len(units), draws=rule.draws, seed=rule.seed))
    point = resampled_means(values, units, np.ones((1, len(units))))[0]
    steps = tuple(int(step) for step in np.array(scores.steps)[later])
    since = np.array(steps) - float(origin)
    return WatchedCurve(name, steps, since, point.astype(np.float64), draws.astype(np.float64), rule.recall_bound)


def _needles(retrieval: Retrieval, rule: StoppingRule, origin: int) -> WatchedCurve:
    """Answer NLL per token over the needles, resampled as tracking does."""
    later = [(step, scores) for step, scores in retrieval if step >= origin]
    steps = tuple(step for step, _ in later)
    points, draws = [], []
    for _, scores in later:
        _, cluster = independent_units(scores.needle)
        units = len(np.unique(cluster))
        tokens = ~np.isnan(scores.nll)
        total = np.where(tokens, scores.nll, 0.0).sum(axis=1)
        weights = np.vstack([np.ones((1, units)), resampling(units, draws=rule.draws, seed=rule.seed)])
        means = resampled_means(total, cluster, weights) / resampled_means(tokens.sum(axis=1) * 1.0, cluster, weights)
        points.append(means[0])
        draws.append(stretched(means[0], means[1:], units=units))
    values, spread = np.array(points), np.array(draws, dtype=np.float64).T.reshape(rule.draws, len(steps))
    return WatchedCurve(
        "the needles' answer NLL", steps, np.array(steps) - float(origin), values, spread, rule.nll_bound
    )
