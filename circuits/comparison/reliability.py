"""How far mean scores can be trusted, rank by rank: a circuit larger than its ranks are reliable is a draw of noise.

Split-half reliability: the edges are ranked by |mean score| on one third of the units, and the means of the two other
thirds are correlated over each band of ranks; Spearman and Brown's 3 r / (1 + 2 r) carries that third to all units.
Bands are chosen on other units than they are judged on, else the chosen look reliable by being chosen.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.stats.units import Floats

if TYPE_CHECKING:
    from circuits.graph.scores import AttributionGraph

RELIABLE = 0.5
FEWEST_UNITS, FEWEST_EDGES = 6, 8


@dataclass(frozen=True, slots=True)
class RankBand:
    """The edges of some ranks by |mean score|.

    Attributes:
        first, last: ranks, 1 = the strongest edge.
        reliability: correlation of their mean scores with those over other facts, as many as there are; 1 = exact.
    """

    first: int
    last: int
    reliability: float


def reliability_by_rank(graph: "AttributionGraph", *, splits: int = 24, seed: int = 0) -> tuple[RankBand, ...]:
    """Reliability of mean edge scores in bands of ranks that double: 1 to 16, 17 to 32, 33 to 64, ...

    Args:
        graph: scores of at least six facts or groups of them.
        splits: random thirds; their mean is taken.
        seed: of them.

    Raises:
        BadPrompt: too few units, or edges.
    """
    scores = np.asarray(graph.edge_scores)
    units, edges = scores.shape
    if units < FEWEST_UNITS or edges < FEWEST_EDGES:
        raise BadPrompt(
            f"reliability by rank needs {FEWEST_UNITS} facts and {FEWEST_EDGES} edges, got {units} and {edges}: "
            "measure more"
        )
    bounds = [0, 16]
    while bounds[-1] < edges:
        bounds.append(2 * bounds[-1])
    bounds = [*(bound for bound in bounds if bound < edges - FEWEST_EDGES), edges]
    rng = np.random.default_rng(seed)
    found = np.zeros(len(bounds) - 1)
    for _ in range(splits):
        ranking, one, other = (
            scores[part].mean(0, dtype=np.float64) for part in np.array_split(rng.permutation(units), 3)
        )
        order = np.argsort(-np.abs(ranking), kind="stable")
        bands = [order[first:last] for first, last in pairwise(bounds)]
        found += [_similar(one[band], other[band]) for band in bands]
    third = found / splits
    whole = np.clip(3 * third / (1 + 2 * np.maximum(third, -0.4)), -1, 1)
    return tuple(RankBand(*ends, float(r)) for ends, r in zip(_ranks(bounds), whole, strict=True))


def recommended_size(bands: tuple[RankBand, ...], *, least: float = RELIABLE) -> int:
    """How many edges a circuit may have so that all of its ranks are reliable; 0 where none are."""
    size = 0
    for band in bands:
        if not band.reliability >= least:
            break
        size = band.last
    return size


def _ranks(bounds: list[int]) -> list[tuple[int, int]]:
    return [(first + 1, last) for first, last in pairwise(bounds)]


def _similar(one: Floats, other: Floats) -> float:
    """Correlation about 0 of two sets of means: the sign and the size of a score count, not its place about a mean."""
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms else 0.0
