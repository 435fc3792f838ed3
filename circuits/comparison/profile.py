"""Numbers that describe a whole graph: how deep its work lies, and over how many edges and nodes it spreads.

Every edge weighs its share of the summed |mean score|. Few facts make means noisier, every |mean| larger, and a graph
look more spread than it is; `profile_changes` takes that back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from checkpoints.stats.ttests import reach
from checkpoints.stats.units import Floats
from circuits.graph.shape import GraphShape

LARGE = 200_000
PROFILES = ("centre of mass, layers", "effective edges", "effective nodes", "total |score|")
SPLITS = 8
EXPONENT, EXPONENTS = 0.7, (0.6, 0.9)
"""How the bias of |mean| over n facts falls, n^-a: by 1/2 for edges without a score, by 1 for those with one."""
FEW, UNSURE = 32, (1.25, 0.75)
"""Units up to which, and beyond which, the range of exponents counts for so many standard errors."""


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """One number of the profile at A and at B.

    Attributes:
        name: what it is.
        a, b: its values, freed of the bias of few facts.
        delta: b - a.
        low, high: 95 % interval of the difference, over the units; NaN below three units.
    """

    name: str
    a: float
    b: float
    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Side:
    """The profile of one checkpoint over n units.

    Attributes:
        value: [4] freed of the bias of few units.
        slow, fast: [4] the same if that bias fell by the lower and by the higher of `EXPONENTS`.
        units: [n, 4] where leaving out one unit moves it.
    """

    value: Floats
    slow: Floats
    fast: Floats
    units: Floats

    @property
    def moved(self) -> Floats:
        """[n, 4] the jackknife's contribution of each unit, whose squares sum to the variance."""
        n = len(self.units)
        return np.asarray(np.sqrt((n - 1) / n) * (self.units - self.units.mean(0)))


class _Sums:
    """Sums over the edges of a graph, and the numbers of `PROFILES` that follow from them."""

    def __init__(self, shape: GraphShape) -> None:
        rows = np.nonzero(shape.mask)[0]
        self.edges = len(rows)
        self.starts = np.flatnonzero(np.r_[True, np.diff(rows) > 0])
        self.layers = np.r_[np.nan, np.repeat(np.arange(shape.n_layers), shape.n_heads + 1)][rows[self.starts]]

    def of(self, scores: Floats) -> Floats:
        """[..., W + 1] of mean scores [..., E]: each writer's summed |score|, and the sum of |score| log |score|."""
        size = np.abs(scores)
        nodes = np.add.reduceat(size, self.starts, axis=-1)
        return np.concatenate([nodes, _times_log(size)[..., None]], axis=-1)

    def numbers(self, sums: Floats) -> Floats:
        """[..., 4] the numbers of `PROFILES`; NaN where nothing is left.

        Sums freed of noise can stand for more edges than there are; up to their square, which keeps such errors wide.
        """
        nodes, times_log = np.maximum(sums[..., :-1], 0), sums[..., -1]
        total, inner = nodes.sum(-1), ~np.isnan(self.layers)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = (nodes[..., inner] @ self.layers[inner]) / nodes[..., inner].sum(-1)
            entropies = (np.log(total) - s / total for s in (times_log, _times_log(nodes)))
            edges, writers = (np.exp(np.minimum(entropy, 2 * np.log(self.edges))) for entropy in entropies)
        return np.stack([centre, edges, writers, total], axis=-1)


def profiler(shape: GraphShape) -> Callable[[Floats], Floats]:
    """A function from mean scores [..., E] to the numbers of `PROFILES` [..., 4].

    Centre of mass: mean layer of the writers, the input left out. Effective edges and nodes: exp of the entropy of
    the shares of edges, and of writers by their out-edges. Total: sum of |score|, in the metric's unit.
    """
    sums = _Sums(shape)
    return lambda scores: sums.numbers(sums.of(scores))


def profile_changes(shape: GraphShape, a: Floats, b: Floats, *, paired: bool) -> tuple[ProfileChange, ...]:
    """How the profile changes from units [U, E] to units [V, E], freed of the bias of few facts.

    All four numbers follow from sums over edges of |m| and |m| log |m|, of the means m over the n units. Over halves of
    the units those sums are larger; their growth, times 1 / (2^a - 1), is what they are too large by, if that falls as
    n^-a with n. The error is the jackknife's over the units, with the difference that a = 0.6 instead of 0.9 makes as
    further standard errors (`UNSURE`), and the interval Student's. Where noise grows from A to B and the scores do not,
    half of that difference was too little: effective edges of 8 to 16 facts then covered .76 to .84. Intervals about
    the jackknife's own corrected values covered .6 to .98, as its corrections of |m|, which is not smooth at 0, are far
    noisier than it tells; these cover .85 to 1, most .93 to .99 (`benchmarks/calibration/coverage.py`).

    Args:
        shape: the graph.
        a: scores of the units at A.
        b: at B.
        paired: the same units on both sides.
    """
    sums = _Sums(shape)
    first, second = (_side(sums, scores) for scores in (a, b))
    delta = second.value - first.value
    if paired:
        variance, freedom = ((second.moved - first.moved) ** 2).sum(0), np.full(4, len(a) - 1.0)
    else:
        of_a, of_b = ((side.moved**2).sum(0) for side in (first, second))
        variance = of_a + of_b
        with np.errstate(invalid="ignore", divide="ignore"):
            freedom = variance**2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    unknown = (second.slow - first.slow) - (second.fast - first.fast)
    units = min(len(a), len(b))
    half = reach(freedom, units) * np.sqrt(variance + (UNSURE[units > FEW] * unknown) ** 2)
    columns = (first.value, second.value, delta, delta - half, delta + half)
    return tuple(ProfileChange(name, *(float(c[i]) for c in columns)) for i, name in enumerate(PROFILES))


def _side(sums: _Sums, scores: Floats) -> _Side:
    n, total = len(scores), scores.sum(0, dtype=np.float64)
    whole = sums.of(total / n)
    growth = _of_halves(sums, scores) - whole
    slow, value, fast = (whole - growth / (2**a - 1) for a in (EXPONENTS[0], EXPONENT, EXPONENTS[1]))
    without = np.stack([sums.of((total - unit) / (n - 1)) for unit in scores])
    most = np.array([np.inf, sums.edges, np.inf, np.inf])
    return _Side(
        value=np.minimum(sums.numbers(value), most),
        slow=sums.numbers(slow),
        fast=sums.numbers(fast),
        units=sums.numbers(value + without - without.mean(0)),
    )


def _of_halves(sums: _Sums, scores: Floats) -> Floats:
    """The mean sums over random halves of the units: the same halves for equally many, and each as heavy as it is."""
    n, rng = len(scores), np.random.default_rng(len(scores))
    halves = [part for _ in range(SPLITS) for part in np.array_split(rng.permutation(n), 2)]
    return np.asarray(sum(len(part) * sums.of(scores[part].mean(0, dtype=np.float64)) for part in halves) / n / SPLITS)


def _times_log(values: Floats) -> Floats:
    """[...] sum over the last axis of v log v, 0 at 0."""
    return np.asarray(np.einsum("...e,...e->...", values, np.log(values + np.finfo(values.dtype).tiny)))
