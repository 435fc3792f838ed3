"""When heads begin to retrieve, told of one head by name: chosen on half of the needles, dated and scored on the rest.

The best score of any head is the largest of many, which noise lifts over a threshold early and high; a head that was
chosen on other needles has no such advantage.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import (
    Estimate,
    counted_interval,
    percentiles,
    resampled_means,
    resampling,
    stretched,
)
from checkpoints.stats.emergence import Emergence, emergence
from checkpoints.stats.shares import score_interval
from checkpoints.stats.units import FEWEST, Floats, independent_units, nanmean
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.stages.stages import line, stages
from heads.scores.names import head_names
from heads.scores.scores import THRESHOLD, Scores, retrieves

DRAWS = 1000


@dataclass(frozen=True, slots=True)
class HeadOnset:
    """When the head that retrieves best begins to.

    Attributes:
        head: its name.
        found: when it begins; None with fewer than three checkpoints, or needles for two halves.
        best: its score where it is best, with the 95 % interval.
        at: the checkpoint where that is.
        first, last: checkpoints looked at.
        count: heads that retrieve at the last of them, with the interval over all needles.
        of: all heads.
        chosen_on, judged_on: needles that head and checkpoint were chosen on, and the others; 0 others = the same.
        unit: what they are: needles, or prompts.
        line: of training, where the run has several.
    """

    head: str
    found: Emergence | None
    best: Estimate
    at: Point
    first: Point
    last: Point
    count: Estimate
    of: int
    chosen_on: int
    judged_on: int
    unit: str
    line: str = ""


def head_onsets(run: RunRecord) -> Iterator[HeadOnset]:
    """The onset on each line of training: the run, or its branches, or its stages where each counts its own steps.

    A line whose head was dated on one before, in the part that they share, is left out.
    """
    seen: set[tuple[str, str, str]] = set()
    for name, points in _lines(run):
        scored = [(point, point.heads) for point in points if point.heads is not None]
        if not scored or len({scores.meta["prompts"] for _, scores in scored}) > 1:
            continue
        onset = _onset([point for point, _ in scored], [scores for _, scores in scored], name)
        by = "" if onset.found is None else str(onset.found.by)
        key = (onset.head, onset.first.place, by)
        if key not in seen:
            seen.add(key)
            yield onset


def _lines(run: RunRecord) -> list[tuple[str, list[Point]]]:
    """Every line of training with its name; "" where there is one."""
    with suppress(BadPrompt):
        return [("", line(run) or list(run.points))]
    found = []
    for name in dict.fromkeys(point.branch for point in run if point.branch):
        with suppress(BadPrompt):
            found.append((f"branch {name}", line(run, branch=name)))
    return found or [(_name(stage[0]), stage) for stage in stages(run)]


def _name(point: Point) -> str:
    told = (f"{kind} {name}" for kind, name in (("stage", point.stage), ("branch", point.branch)) if name)
    return ", ".join(told)


def _onset(points: Sequence[Point], scores: Sequence[Scores], name: str) -> HeadOnset:
    unit, cluster = independent_units(scores[0].needle)
    units = np.unique(cluster)
    apart = len(units) >= 2 * FEWEST
    judging = np.isin(cluster, units[1::2]) if apart else np.ones(len(cluster), dtype=bool)
    choosing = ~judging if apart else judging
    means = np.stack([np.nan_to_num(nanmean(each.copy[choosing]), nan=-np.inf) for each in scores])
    place, layer, head = (int(i) for i in np.unravel_index(int(means.argmax()), means.shape))
    values = [np.asarray(each.copy[judging, layer, head], dtype=np.float64) for each in scores]
    low, high = score_interval(values[place], cluster[judging])
    return HeadOnset(
        head=head_names(scores[0].shape)[layer * scores[0].shape[1] + head],
        found=_dated(points, values, cluster[judging]) if apart else None,
        best=Estimate(float(nanmean(values[place])), float(low), float(high), n=len(values[place])),
        at=points[place],
        first=points[0],
        last=points[-1],
        count=_count(scores[-1]),
        of=scores[-1].mean.size,
        chosen_on=len(np.unique(cluster[choosing])),
        judged_on=len(np.unique(cluster[judging])) if apart else 0,
        unit=unit,
        line=name,
    )


def _dated(points: Sequence[Point], values: Sequence[Floats], cluster: np.ndarray) -> Emergence | None:
    steps = [point.position for point in points if point.position is not None]
    if not 3 <= len(steps) == len(points) or not all(np.isfinite(each).all() for each in values):
        return None
    weights = resampling(len(np.unique(cluster)), draws=DRAWS)
    mean = np.array([each.mean() for each in values])
    draws = np.stack([resampled_means(each, cluster, weights) for each in values], axis=1)
    return emergence("score", steps, mean, stretched(mean, draws, units=weights.shape[1]), threshold=THRESHOLD)


def _count(scores: Scores) -> Estimate:
    _, cluster = independent_units(scores.needle)
    units = len(np.unique(cluster))
    drawn = retrieves(resampled_means(scores.copy, cluster, resampling(units, draws=DRAWS))).sum(axis=(1, 2))
    low, high = percentiles(stretched(np.asarray(float(scores.count())), drawn.astype(float), units=units))
    ends = (np.clip(np.round(end), 0, scores.mean.size) for end in (low, high))
    least, most = counted_interval(*ends, units=units, threshold=THRESHOLD)
    return Estimate(float(scores.count()), float(least), float(most), n=units)
