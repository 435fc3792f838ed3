"""Numbers that describe a whole graph: how deep its work lies, and over how many edges and nodes it spreads.

Every edge weighs its share of the summed |mean score|. Few facts make means noisier and the spread look larger, so
compare graphs over equally many facts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.bootstrap import draw_units, percentiles
from circuits.graph.shape import GraphShape

Floats = NDArray[np.floating]
LARGE = 200_000
PROFILES = ("centre of mass, layers", "effective edges", "effective nodes", "total |score|")


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """One number of the profile at A and at B.

    Attributes:
        name: what it is.
        a, b: its values.
        delta: b - a.
        low, high: 95 % bootstrap interval of the difference, over the units.
    """

    name: str
    a: float
    b: float
    delta: float
    low: float
    high: float


def profiler(shape: GraphShape) -> Callable[[Floats], Floats]:
    """A function from mean scores [..., E] to the numbers of `PROFILES` [..., 4].

    Centre of mass: mean layer of the writers, the input left out. Effective edges and nodes: exp of the entropy of
    the shares of edges, and of writers by their out-edges. Total: sum of |score|, in the metric's unit.
    """
    rows = np.nonzero(shape.mask)[0]
    starts = np.flatnonzero(np.r_[True, np.diff(rows) > 0])
    layers = np.r_[np.nan, np.repeat(np.arange(shape.n_layers), shape.n_heads + 1)][rows[starts]]
    inner = ~np.isnan(layers)

    def profile(scores: Floats) -> Floats:
        size = np.abs(scores)
        total = size.sum(-1)
        nodes = np.add.reduceat(size, starts, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = (nodes[..., inner] @ layers[inner]) / nodes[..., inner].sum(-1)
        spread = [_effective(values, total) for values in (size, nodes)]
        return np.stack([centre, *spread, total], axis=-1)

    return profile


def profile_changes(
    shape: GraphShape, a: Floats, b: Floats, *, paired: bool, draws: int | None = None, seed: int = 0
) -> tuple[ProfileChange, ...]:
    """How the profile changes from units [U, E] to units [V, E], with bootstrap intervals.

    Args:
        shape: the graph.
        a: scores of the units at A.
        b: at B.
        paired: draw the same units on both sides.
        draws: bootstrap samples; by default 200, and 40 for graphs of more than 200,000 edges.
        seed: of the samples.
    """
    draws = draws or (200 if a.shape[1] <= LARGE else 40)
    profile = profiler(shape)
    rng = np.random.default_rng(seed)
    weights_a = draw_units(rng, len(a), draws) / len(a)
    weights_b = weights_a if paired else draw_units(rng, len(b), draws) / len(b)
    changes = [
        profile(w_b.astype(b.dtype) @ b) - profile(w_a.astype(a.dtype) @ a)
        for w_a, w_b in zip(np.array_split(weights_a, draws // 8), np.array_split(weights_b, draws // 8), strict=True)
    ]
    low, high = percentiles(np.concatenate(changes))
    first, second = (profile(x.mean(0, dtype=np.float64)) for x in (a, b))
    columns = (first, second, second - first, low, high)
    return tuple(ProfileChange(name, *(float(c[i]) for c in columns)) for i, name in enumerate(PROFILES))


def _effective(values: Floats, total: Floats) -> Floats:
    """Exp of the entropy of the shares of ``total``, all >= 0."""
    logs = np.log(values + np.finfo(values.dtype).tiny)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.exp(np.log(total) - np.einsum("...e,...e->...", values, logs) / total))
