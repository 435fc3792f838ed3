"""How far down a ranking is reliable: what two sets of units agree on, band after band of ranks made by a third."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from checkpoints.stats.units import Floats

FIRST, SPLITS, RELIABLE, PARTS = 25, 20, 0.5, 3
LEAST_UNITS = 2 * PARTS


@dataclass(frozen=True, slots=True)
class RankBand:
    """Elements of some ranks.

    Attributes:
        first, last: ranks, from 1.
        reliability: expected correlation of their means with those of as many units again; NaN with too few units.
    """

    first: int
    last: int
    reliability: float


def rank_bands(scores: Floats, *, splits: int = SPLITS, seed: int = 0) -> tuple[RankBand, ...]:
    """Reliability of means [E] over units [U, E], by rank of |mean|.

    Units are split in three: one third ranks the elements, and the means of the two others are correlated within each
    band of ranks (1 to 25, to 100, to 400, ...), averaged over splits and stepped up to all units (Spearman-Brown).
    Ranked on the same units, the strongest would look reliable because they were chosen for being strong there.

    Args:
        scores: [U, E]; at least 6 units.
        splits: random splits.
        seed: of the splits.
    """
    units, elements = scores.shape
    bands = list(_bands(elements))
    if units < LEAST_UNITS:
        return tuple(RankBand(first, last, float("nan")) for first, last in bands)
    rng = np.random.default_rng(seed)
    found = np.zeros((splits, len(bands)))
    for split in range(splits):
        parts = np.array_split(rng.permutation(units), PARTS)
        ranking, one, other = (scores[part].mean(0, dtype=np.float64) for part in parts)
        order = np.argsort(-np.abs(ranking), kind="stable")
        found[split] = [_correlation(one[order[a - 1 : b]], other[order[a - 1 : b]]) for a, b in bands]
    agreement = np.clip(found.mean(0), 0, 1)
    stepped = PARTS * agreement / (1 + (PARTS - 1) * agreement)
    return tuple(RankBand(a, b, float(r)) for (a, b), r in zip(bands, stepped, strict=True))


def reliable_rank(bands: tuple[RankBand, ...]) -> int:
    """The last rank before reliability falls below a half; 0 where it is below from the first."""
    last = 0
    for band in bands:
        if not band.reliability >= RELIABLE:
            break
        last = band.last
    return last


def _bands(elements: int) -> Iterator[tuple[int, int]]:
    first, last = 1, FIRST
    while first <= elements:
        yield first, min(last, elements)
        first, last = last + 1, 4 * last


def _correlation(x: Floats, y: Floats) -> float:
    """Uncentred, since a score has a sign and a zero; 0 where a side is nothing."""
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else 0.0
