"""Where to look next: a few checkpoints log-spaced, then one at a time between those that differ most beyond noise.

Two checkpoints differ by the squared distance between their mean scores of heads, of edges and of facts recalled, taken
between different prompts only, so that prompt noise adds nothing on average (cross-validated, as change points are), as
a share of the largest squared length met so far. Of the gaps across which that is `LEAST` or more the widest is halved,
so that every change is located alike; where there is none, the widest of all.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from checkpoints import Checkpoint, Series
from checkpoints.errors import DriftError
from checkpoints.results.text import counted
from checkpoints.series.selection import lines, log_spaced
from circuit_drift.record.record import Point

logger = logging.getLogger(__name__)

Values = Mapping[str, NDArray[np.floating]]
"""Name -> [units, features] of one checkpoint, the same units at each."""
LEAST = 0.2
"""Squared distance of two vectors of unit length whose cosine is .9, from which on a change point may be one."""
FEWEST = 4
UNITS = 16


def values_of(point: Point) -> Values:
    """What checkpoints are compared by: heads prompt by prompt, edges fact by fact, which facts are recalled."""
    found: dict[str, NDArray[np.floating]] = {}
    if point.heads is not None:
        found["heads"] = np.nan_to_num(point.heads.copy.reshape(len(point.heads), -1))
    if point.circuit is not None:
        found["circuit"] = _grouped(point.circuit.edge_scores)
        found["recall"] = (point.circuit.answer_rank == 0).astype(np.float64)[:, None]
    return found


def choose(
    lengths: Sequence[int], count: int, first: Sequence[int], measure: Callable[[int], Values | None]
) -> list[int]:
    """Positions of ``count`` checkpoints, in order: those of ``first``, then where neighbours differ most.

    Args:
        lengths: how many checkpoints each line of training has, one line after the other.
        count: how many to measure in all.
        first: positions to begin with, the first and last of each line among them.
        measure: measures the checkpoint of a position; None where no further one is to be measured.
    """
    known = {place: found for place in sorted(first) if (found := measure(place)) is not None}
    line_of = np.repeat(np.arange(len(lengths)), lengths)
    total = min(count, int(np.sum(lengths)))
    while len(known) < total:
        order = sorted(known)
        gaps = [(a, b) for a, b in pairwise(order) if b - a > 1 and line_of[a] == line_of[b]]
        if not gaps:
            break
        changes = {gap: change(known, *gap) for gap in gaps}
        beyond = [gap for gap in gaps if changes[gap] >= LEAST]
        a, b = max(beyond or gaps, key=lambda gap: (gap[1] - gap[0], changes[gap]))
        middle = (a + b) // 2
        if (found := measure(middle)) is None:
            break
        known[middle] = found
    return sorted(known)


def change(known: Mapping[int, Values], a: int, b: int) -> float:
    """The largest squared distance of two checkpoints over what both have, as a share of the largest squared length."""
    found = [0.0]
    for name in known[a].keys() & known[b].keys():
        first, second = known[a][name], known[b][name]
        if len(first) < 2 or first.shape != second.shape:
            continue
        scale = max(_product(each[name], each[name]) for each in known.values() if name in each)
        if scale > 0:
            difference = second - first
            found.append(_product(difference, difference) / scale)
    return max(found)


def start(series: Series, count: int) -> list[int]:
    """Positions to begin with: a third of the count, log-spaced within each line, its ends among them.

    Where the count is too small for that, shorter lines begin with their two ends alone.
    """
    line_up = lines(series.checkpoints)
    each = max(FEWEST, count // (3 * len(line_up)))
    looks = [log_spaced(series.checkpoints, line, each) for line in line_up]
    for place in sorted(range(len(line_up)), key=lambda place: len(line_up[place])):
        if sum(map(len, looks)) > count:
            looks[place] = log_spaced(series.checkpoints, line_up[place], 2)
    return [place for look in looks for place in look]


def adaptively(
    series: Series, count: int, measure: Callable[[Sequence[Checkpoint]], Iterator[tuple[int, Point]]]
) -> tuple[Checkpoint, ...]:
    """The checkpoints of a series that are worth measuring, each measured on the way.

    Args:
        series: to choose from.
        count: how many.
        measure: measures checkpoints, and stores what it finds: each with its place among those it was asked for. It
            ends early where no further one is to be measured.

    Raises:
        DriftError: too few for the lines of training that there are, or lines that do not follow each other.
    """
    line_up = lines(series.checkpoints)
    if [place for line in line_up for place in line] != list(range(len(series.checkpoints))):
        raise DriftError(f"the lines of training of {series.name} interleave: choose one with --steps, then adaptively")
    first = start(series, count)
    if count < len(first):
        raise DriftError(
            f"adaptive {count} is too few: {counted(len(line_up), 'line')} of training of {series.name} take "
            f"{len(first)} checkpoints to begin with"
        )
    early = {first[place]: point for place, point in measure([series[place] for place in first])}

    def values(place: int) -> Values | None:
        point = early.get(place) or next((point for _, point in measure([series[place]])), None)
        return None if point is None else values_of(point)

    chosen = choose([len(line) for line in line_up], count, list(early), values)
    return tuple(series[place] for place in chosen)


def _product(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Estimate of the inner product of two noiseless means, between different units only."""
    units = len(a)
    whole = float(a.sum(0) @ b.sum(0)) - float(np.einsum("ue,ue->", a, b))
    return whole / (units * (units - 1))


def _grouped(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Means over groups of facts, where there are many, so that what is kept of a checkpoint stays small."""
    if len(scores) <= UNITS:
        return np.asarray(scores)
    return np.stack([part.mean(0) for part in np.array_split(scores, UNITS)])
