"""Which heads retrieve at which step: per-step sets against the static list (arXiv 2602.11162, equation 1)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import Estimate
from checkpoints.stats.ttests import mean_interval
from checkpoints.stats.units import nanmean
from heads.scores.scores import Scores


@dataclass(frozen=True, slots=True)
class Dynamics:
    """How much the heads that copy change from one answer token to the next.

    Attributes:
        size: heads that copy at a step.
        with_static: Jaccard overlap of a step's heads with the static top list.
        adjacent: Jaccard overlap of neighbouring steps; low values mean that heads take turns.
        top_k: length of the static list.
    """

    size: Estimate
    with_static: Estimate
    adjacent: Estimate
    top_k: int

    def __str__(self) -> str:
        return (
            f"{self.size} heads copy at a step; overlap with the static top {self.top_k} {self.with_static}, "
            f"between neighbouring steps {self.adjacent}"
        )


def dynamics(scores: Scores, *, top_k: int = 20) -> Dynamics:
    """Compare the heads that copy at each step with the static top list and with the step before.

    Means over steps, then prompts, with t intervals over independent units (`DetectorScores.cluster`); steps at
    which no head copies have no overlap and are left out.

    Args:
        scores: of `score`.
        top_k: length of the static list.

    Raises:
        BadPrompt: a result without steps.
    """
    if scores.steps is None:
        raise BadPrompt("this result holds no steps: measure it again with heads.score()")
    static = np.zeros(scores.shape, dtype=bool)
    for head in scores.top(top_k):
        static[head.layer, head.head] = True
    sizes, against, between = [], [], []
    for prompt in scores.steps:
        steps = [step == 1 for step in np.moveaxis(prompt, -1, 0) if (step >= 0).any()]
        sizes.append(_mean([float(step.sum()) for step in steps]))
        against.append(_mean([_jaccard(step, static) for step in steps if step.any()]))
        between.append(_mean([_jaccard(a, b) for a, b in pairwise(steps) if a.any() or b.any()]))
    size, with_static, adjacent = (_estimate(values, scores) for values in (sizes, against, between))
    return Dynamics(size, with_static, adjacent, top_k)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _estimate(values: list[float], scores: Scores) -> Estimate:
    array = np.array(values)
    low, high = mean_interval(array, scores.cluster)
    return Estimate(float(nanmean(array)), float(low), float(high), int((~np.isnan(array)).sum()))
