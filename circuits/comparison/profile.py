"""Numbers that describe a whole graph: how deep its work lies, and over how many edges and nodes it spreads.

Every edge weighs its share of the summed |mean score|. Few facts make means noisier and the spread look larger, so
compare graphs over equally many facts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.stats.ttests import paired_test, welch_test
from circuits.graph.shape import GraphShape

Floats = NDArray[np.floating]
LARGE = 200_000
PROFILES = ("centre of mass, layers", "effective edges", "effective nodes", "total |score|")


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """One number of the profile at A and at B.

    Attributes:
        name: what it is.
        a, b: its values, freed of the bias of few facts.
        delta: b - a.
        low, high: 95 % jackknife interval of the difference, over the units.
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


def profile_changes(shape: GraphShape, a: Floats, b: Floats, *, paired: bool) -> tuple[ProfileChange, ...]:
    """How the profile changes from units [U, E] to units [V, E], freed of the bias of few facts by the jackknife.

    With theta the number over all units and theta_i that without unit i, the values are means of the pseudo-values
    n theta - (n - 1) theta_i, and the interval of the difference is Student's t over them (Tukey 1958). Means over few
    facts look more spread than they are; resampling them adds that bias once more, so that 95 % intervals covered .03
    to .6. These cover .93 to .97 at 53 facts, .77 to .93 at 16: read them from about 50 facts on.

    Args:
        shape: the graph.
        a: scores of the units at A.
        b: at B.
        paired: the same units on both sides.
    """
    profile = profiler(shape)
    of_a, of_b = (_pseudo_values(profile, scores) for scores in (a, b))
    test = paired_test(of_a, of_b) if paired else welch_test(of_a, of_b)
    first, second = of_a.mean(0), of_b.mean(0)
    columns = (first, second, second - first, test.low, test.high)
    return tuple(ProfileChange(name, *(float(c[i]) for c in columns)) for i, name in enumerate(PROFILES))


def _pseudo_values(profile: Callable[[Floats], Floats], scores: Floats) -> Floats:
    """[U, 4] the jackknife's pseudo-values of the profile."""
    n, total = len(scores), scores.sum(0, dtype=np.float64)
    without = np.stack([profile((total - unit) / (n - 1)) for unit in scores])
    return np.asarray(n * profile(total / n) - (n - 1) * without)


def _effective(values: Floats, total: Floats) -> Floats:
    """Exp of the entropy of the shares of ``total``, all >= 0."""
    logs = np.log(values + np.finfo(values.dtype).tiny)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.exp(np.log(total) - np.einsum("...e,...e->...", values, logs) / total))
