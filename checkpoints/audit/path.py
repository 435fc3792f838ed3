"""Do checkpoints lie on one run's path, in the order of their steps?

Distances between checkpoints are taken per matrix and reduced by medians over matrices. The weights of a run
move away from where they were: a checkpoint costs its neighbours only a small detour. Where one would cost far
less elsewhere, the shortest order is looked for, and whatever then stands elsewhere is misplaced. One that costs
much everywhere is off the path; one that is uncorrelated with all others is not of this run. Where late steps
only jitter about a minimum their order leaves no trace, and a swap of such steps is not found.
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
MAX_FOREIGN_Z = 4.0
MIN_KIN_Z = 8.0


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
    disordered = False
    while len(left) >= 4:
        off = [found for place in range(len(left)) if _is_off(found := _judge(d, left, place), len(left))]
        if not off:
            break
        worst = max(off, key=lambda found: found.detour - found.best)
        index = left.pop(worst.place)
        disordered |= worst.better_elsewhere()
        lost |= set() if worst.better_elsewhere() else {index}
    kept = [index for index in path if index not in foreign | lost]
    restored = _restore(d, kept) if disordered else kept
    entries = [
        *(OffPath(index, "foreign", index) for index in foreign),
        *(_off_path(d, path, index) for index in lost),
        *(_misplaced(d, kept, restored, index) for index, now in zip(kept, restored, strict=True) if index != now),
    ]
    return sorted(entries, key=lambda entry: path.index(entry.index))


def _restore(d: Floats, path: Sequence[int]) -> list[int]:
    """Shorten a path by swapping and moving checkpoints, while that is clearly shorter."""
    units = np.median(d[:, path[:-1], path[1:]], axis=1)
    length = np.median(d / np.maximum(units, np.finfo(float).tiny)[:, None, None], axis=0)
    order = np.array(path)
    while True:
        candidates = _rearranged(order)
        totals = length[candidates[:, :-1], candidates[:, 1:]].sum(axis=1)
        best = candidates[totals.argmin()]
        gain = length[order[:-1], order[1:]].sum() - totals.min()
        changed = _edges(order) - _edges(best)
        if gain <= MIN_GAIN * sum(length[a, b] for a, b in map(tuple, changed)):
            return [int(index) for index in order]
        order = best


def _rearranged(order: NDArray[np.int_]) -> NDArray[np.int_]:
    """Every order that one swap of two, or one move of one, makes of this."""
    count = len(order)
    orders: list[NDArray[np.int_]] = []
    for a in range(count):
        without = np.delete(order, a)
        orders.extend(np.insert(without, b, order[a]) for b in range(count) if b != a)
        for b in range(a + 2, count):
            swapped = order.copy()
            swapped[[a, b]] = swapped[[b, a]]
            orders.append(swapped)
    return np.array(orders)


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


def _costs(d: Floats, others: Sequence[int], index: int) -> Floats:
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
    return np.maximum(d[:, path[low], path[high]], np.finfo(float).tiny)


def _is_off(found: _Place, length: int) -> bool:
    if found.place in (0, length - 1):
        return found.better_elsewhere()
    return found.detour > (MIN_DETOUR if found.better_elsewhere() else OFF_PATH_DETOUR)
