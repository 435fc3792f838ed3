"""Do checkpoints lie on one run's path, in the order of their steps?

Distances between checkpoints are taken per matrix and reduced by medians over matrices. The weights of a run
move away from where they were, so that the order of their steps is the shortest path through them. One that costs a
long detour everywhere is off the path; among the others, where swapping two or moving one makes the path clearly
shorter, those that then stand elsewhere are misplaced. One that is uncorrelated with all others is not of this run.
Where late steps only jitter about a minimum their order leaves no trace, and a swap of such steps is not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_DETOUR = 0.6  # in order, a straight line gives 0, a random walk 0.41, jitter about a minimum 1 everywhere
OFF_PATH_DETOUR = 2.5
BETTER_PLACE = 0.7  # the better place costs at most this share of the own place
CONSENSUS = 0.9  # of the matrices must agree
MIN_GAIN = 0.1  # a new order must be shorter by this share of the edges that it changes
MIN_END_GAIN = 0.2  # where it changes one edge, turning an end around: jitter that decays gives up to 0.18
MAX_FOREIGN_Z = 4.0
MIN_KIN_Z = 8.0
_TINY = 1e-150  # in place of a distance of 0 between neighbours; costs in units of it stay finite


@dataclass(frozen=True, slots=True)
class OffPath:
    """A checkpoint that does not lie where its step says.

    Attributes:
        index: its position in the arrays.
        kind: ``"misplaced"``, ``"off_path"`` or ``"foreign"``.
        belongs: position of the checkpoint whose step its weights fit; its own unless misplaced.
        detour: cost of its own place, in units of the distance between its neighbours; 0 = straight line.
        best: cost of the place it fits best, same unit.
        consensus: share of matrices for which that place is cheaper than its own.
    """

    index: int
    kind: Literal["misplaced", "off_path", "foreign"]
    belongs: int
    detour: float = np.nan
    best: float = np.nan
    consensus: float = np.nan


@dataclass(frozen=True, slots=True)
class _Place:
    """What a checkpoint costs at its place in a path (`detour`), and in the best gap of the others (`best`)."""

    place: int
    detour: float
    gap: int
    best: float
    consensus: float

    def better_elsewhere(self) -> bool:
        return self.best < BETTER_PLACE * self.detour and self.consensus >= CONSENSUS


def distances(samples: Floats) -> Floats:
    """Euclidean distances of one matrix's samples: [N, K] -> [N, N]."""
    gram = samples @ samples.T
    norms = np.diag(gram)
    return np.sqrt(np.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0.0))


def correlations(samples: Floats) -> Floats:
    """Correlation of one matrix's samples in units of its standard error under independence: [N, K] -> [N, N]."""
    centred = samples - samples.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    norms[norms == 0] = np.inf
    scaled = centred / norms[:, None]
    z: Floats = scaled @ scaled.T * np.sqrt(samples.shape[1])
    return z


def find_off_path(d: Floats, z: Floats, path: Sequence[int]) -> list[OffPath]:
    """Find the checkpoints of one path that do not lie on it.

    Args:
        d: distances per matrix [T, N, N].
        z: correlations per matrix in standard errors [T, N, N].
        path: positions in the order of their steps, without repeats of equal weights.

    Returns:
        one entry per such checkpoint, in path order.
    """
    foreign = _foreign(z, path)
    left = [index for index in path if index not in foreign]
    lost: set[int] = set()
    while len(left) >= 4:
        off = [found for place in range(len(left)) if _is_off(found := _judge(d, left, place), len(left))]
        if not off:
            break
        worst = max(off, key=lambda found: found.detour - found.best)
        index = left.pop(worst.place)
        lost |= set() if worst.better_elsewhere() else {index}
    kept = [index for index in path if index not in foreign | lost]
    restored = _restore(d, kept)
    entries = [
        *(OffPath(index, "foreign", index) for index in foreign),
        *(_off_path(d, path, index) for index in lost),
        *(_misplaced(d, kept, restored, index) for index, now in zip(kept, restored, strict=True) if index != now),
    ]
    return sorted(entries, key=lambda entry: path.index(entry.index))


def _restore(d: Floats, path: Sequence[int]) -> list[int]:
    """Shorten a path by swapping and moving checkpoints, while that is clearly shorter by most matrices."""
    order = np.array(path)
    if len(order) < 4:
        return list(path)
    units = np.median(d[:, order[:-1], order[1:]], axis=1)
    scaled = d / np.maximum(units, _TINY)[:, None, None]
    length = np.median(scaled, axis=0)
    while True:
        best = min(_best_swap(length, order), _best_move(length, order), key=lambda found: _total(length, found))
        gain = _total(length, order) - _total(length, best)
        edges = _edges(order) - _edges(best)
        changed = sum(length[tuple(edge)] for edge in edges)
        needed = MIN_GAIN if len(edges) > 1 else MIN_END_GAIN
        agree = np.mean(_lengths(scaled, best) < _lengths(scaled, order))
        if gain <= needed * changed or agree < CONSENSUS:
            return [int(index) for index in order]
        order = best


def _best_swap(length: Floats, order: NDArray[np.int_]) -> NDArray[np.int_]:
    """The order that swaps the two checkpoints, not neighbours, whose swap shortens the path most."""
    count = len(order)
    edge = np.pad(length[np.ix_(order, order)], 1)  # a step beyond either end has length 0
    at, before, after = np.arange(1, count + 1), np.arange(count), np.arange(2, count + 2)
    own = edge[before, at] + edge[at, after]
    there = edge[np.ix_(before, at)] + edge[np.ix_(after, at)]  # [place, checkpoint put there]
    gains = own[:, None] + own[None, :] - there - there.T
    gains[np.abs(at[:, None] - at[None, :]) < 2] = -np.inf  # neighbours: a swap is a move
    a, b = np.unravel_index(int(gains.argmax()), gains.shape)
    swapped = order.copy()
    swapped[[a, b]] = order[[b, a]]
    return swapped


def _best_move(length: Floats, order: NDArray[np.int_]) -> NDArray[np.int_]:
    """The order that moves the one checkpoint whose move shortens the path most."""
    best, gain = order, -np.inf
    for place, index in enumerate(order):
        others = np.delete(order, place)
        costs = _costs(length[None], others, index)[0]
        own = costs[place]
        costs[place] = np.inf
        if own - costs.min() > gain:
            best, gain = np.insert(others, int(costs.argmin()), index), own - costs.min()
    return best


def _total(length: Floats, order: NDArray[np.int_]) -> float:
    return float(length[order[:-1], order[1:]].sum())


def _lengths(d: Floats, order: NDArray[np.int_]) -> Floats:
    """Length of a path, per matrix."""
    lengths: Floats = d[:, order[:-1], order[1:]].sum(axis=1)
    return lengths


def _edges(order: NDArray[np.int_]) -> set[frozenset[int]]:
    return {frozenset((int(a), int(b))) for a, b in pairwise(order)}


def _off_path(d: Floats, path: Sequence[int], index: int) -> OffPath:
    found = _judge(d, path, path.index(index))
    return OffPath(index, "off_path", index, found.detour, found.best, found.consensus)


def _misplaced(d: Floats, path: Sequence[int], restored: Sequence[int], index: int) -> OffPath:
    """Describe a checkpoint that stands elsewhere in the restored order."""
    place, to = path.index(index), restored.index(index)
    scale = _scale(d, path, place)
    own = _cost_at(d, path, place) / scale
    best = _cost_at(d, restored, to) / scale
    consensus = float(np.mean(best < own))
    return OffPath(index, "misplaced", path[to], float(np.median(own)), float(np.median(best)), consensus)


def _foreign(z: Floats, path: Sequence[int]) -> set[int]:
    """Checkpoints uncorrelated with all others, where the others are correlated among themselves."""
    if len(path) < 3:
        return set()
    kinship = np.median(z[np.ix_(range(len(z)), path, path)], axis=0)
    np.fill_diagonal(kinship, -np.inf)
    nearest = kinship.max(axis=1)
    if np.median(nearest) < MIN_KIN_Z:
        return set()
    return {index for index, value in zip(path, nearest, strict=True) if value < MAX_FOREIGN_Z}


def _judge(d: Floats, path: Sequence[int], place: int) -> _Place:
    """Compare a checkpoint's own place with the best gap among the others, by medians over matrices."""
    others = [*path[:place], *path[place + 1 :]]
    relative = _costs(d, others, path[place]) / _scale(d, path, place)[:, None]
    elsewhere = np.ones(len(path))
    elsewhere[[0, -1]] = 2.0  # beyond an end there is no way back to count, which would favour it
    elsewhere[place] = 1.0
    relative = relative * elsewhere
    median = np.median(relative, axis=0)
    gap = int(median.argmin())
    consensus = float(np.mean(relative[:, gap] < relative[:, place]))
    return _Place(place, float(median[place]), gap, float(median[gap]), consensus)


def _costs(d: Floats, others: Sequence[int] | NDArray[np.int_], index: int) -> Floats:
    """Extra path length of putting a checkpoint into each gap of the others, ends included: [T, gaps]."""
    to = d[:, index, others]
    inner = to[:, :-1] + to[:, 1:] - d[:, others[:-1], others[1:]]
    return np.concatenate([to[:, :1], inner, to[:, -1:]], axis=1)


def _cost_at(d: Floats, path: Sequence[int], place: int) -> Floats:
    """Extra path length of the checkpoint at a place: [T]."""
    return _costs(d, [*path[:place], *path[place + 1 :]], path[place])[:, place]


def _scale(d: Floats, path: Sequence[int], place: int) -> Floats:
    """Distance between a checkpoint's neighbours; at an end, to its one neighbour: [T]."""
    low, high = max(place - 1, 0), min(place + 1, len(path) - 1)
    return np.maximum(d[:, path[low], path[high]], _TINY)


def _is_off(found: _Place, length: int) -> bool:
    if found.place in (0, length - 1):
        return found.better_elsewhere()
    return found.detour > (MIN_DETOUR if found.better_elsewhere() else OFF_PATH_DETOUR)
