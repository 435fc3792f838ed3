"""Where to look next: a few checkpoints log-spaced, then one at a time between those that differ most beyond noise.

Two checkpoints differ by the squared distance between their mean scores of heads, of edges and of facts recalled, taken
between different prompts only, so that prompt noise adds nothing on average (cross-validated, as change points are), as
a share of the larger squared length of the two: a change of weak scores counts as one of strong scores does, except
where noise is all there is. The widest gap is halved, and one across which that is `LEAST` or more counts as `CLOSER`
times as wide: every change is located alike, and long stretches are looked into before any change is located exactly.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from checkpoints import Checkpoint, Series
from checkpoints.errors import DriftError
from checkpoints.results.text import counted
from checkpoints.series.selection import lines, log_spaced
from circuit_drift.record.record import Point

Values = Mapping[str, NDArray[np.floating]]
"""Name -> [units, features] of one checkpoint, the same units at each."""
LEAST = 0.2
"""Squared distance of two vectors of unit length whose cosine is .9, from which on a change point may be one."""
CLOSER = 12
NOISE = 4
"""How many times what prompt noise adds to a difference's squared length the two lengths are taken to be at least."""
FEWEST = 4
KEPT = 8
"""One in so many is kept to be chosen by what was found, where lines of training can begin with fewer."""
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
    ends = np.cumsum([0, *lengths]).tolist()
    while len(known) < min(count, ends[-1]):
        line_up = [{place: known[place] for place in sorted(known) if a <= place < b} for a, b in pairwise(ends)]
        gaps = [gap for line in line_up for gap in _gaps(line)]
        if not gaps:
            break
        middle = max(gaps, key=lambda gap: gap[1:])[0]
        if (found := measure(middle)) is None:
            break
        known[middle] = found
    return sorted(known)


def _gaps(known: Mapping[int, Values]) -> Iterator[tuple[int, int, float]]:
    """The middle of every gap between neighbours of one line of training, for how wide it counts, its change."""
    for a, b in pairwise(known):
        if b - a > 1:
            changed = change(known, a, b)
            yield (a + b) // 2, (b - a) * (CLOSER if changed >= LEAST else 1), changed


def change(known: Mapping[int, Values], a: int, b: int) -> float:
    """The largest squared distance across a gap over what is compared, as a share of the larger squared length.

    Args:
        known: what the checkpoints of a line of training gave.
        a: where the gap begins. Where that lacks something, as a checkpoint that failed does, the one before is taken.
        b: where it ends; so with the one behind.
    """
    found = [0.0]
    for name in {name for values in known.values() for name in values}:
        before = max((place for place in known if place <= a and name in known[place]), default=None)
        after = min((place for place in known if place >= b and name in known[place]), default=None)
        if before is None or after is None:
            continue
        first, second = known[before][name], known[after][name]
        if len(first) < 2 or first.shape != second.shape:
            continue
        difference = second - first
        squared, mean = _product(difference, difference), difference.mean(0)
        noise = float(mean @ mean) - squared
        if (scale := max(_product(first, first), _product(second, second), NOISE * noise)) > 0:
            found.append(squared / scale)
    return max(found)


def start(series: Series, count: int) -> list[int]:
    """Positions to begin with: a third of the count, log-spaced within each line, its ends among them.

    Where that would leave too few to choose, shorter lines begin with their two ends alone.

    Raises:
        DriftError: the count is too small for that too, or the lines of training do not follow each other.
    """
    line_up = lines(series.checkpoints)
    if [place for line in line_up for place in line] != list(range(len(series.checkpoints))):
        raise DriftError(f"the lines of training of {series.name} interleave: choose one with --steps, then adaptively")
    each = max(FEWEST, count // (3 * len(line_up)))
    looks = [log_spaced(series.checkpoints, line, each) for line in line_up]
    for place in sorted(range(len(line_up)), key=lambda place: len(line_up[place])):
        if sum(map(len, looks)) > count - count // KEPT:
            looks[place] = log_spaced(series.checkpoints, line_up[place], 2)
    if count < (needed := sum(map(len, looks))):
        raise DriftError(
            f"adaptive {count} is too few: {counted(len(line_up), 'line')} of training of {series.name} take "
            f"{needed} checkpoints to begin with"
        )
    return [place for look in looks for place in look]


def not_looked_at(series: Series, names: Collection[str]) -> str | None:
    """What lies between the measured checkpoints of these names, in words; None where they are all of the series."""
    places = [place for place, checkpoint in enumerate(series) if checkpoint.name in names]
    a, b = max(pairwise(places), key=lambda gap: gap[1] - gap[0], default=(0, 1))
    if b - a == 1:
        return None
    return (
        f"{len(places)} of {len(series)} checkpoints are measured; nothing between two neighbours was looked at: most, "
        f"{counted(b - a - 1, 'checkpoint')}, between {series[a].label} and {series[b].label}"
    )


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
        DriftError: see `start`.
    """
    first = start(series, count)
    early = {first[place]: point for place, point in measure([series[place] for place in first])}

    def values(place: int) -> Values | None:
        point = early.get(place) or next((point for _, point in measure([series[place]])), None)
        return None if point is None else values_of(point)

    chosen = choose([len(line) for line in lines(series.checkpoints)], count, list(early), values)
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
