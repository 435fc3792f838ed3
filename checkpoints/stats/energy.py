"""The summed squared change of many elements under sign flips, from the units' inner products: fine p at any width.

One exchange costs units squared, however many elements there are, so that far more of them can be drawn or listed than
`checkpoints.stats.permutation` does for single elements. Needed where many groups share one level.
"""

import numpy as np

from checkpoints.stats.permutation import drawn_p
from checkpoints.stats.units import Floats

LISTED, DRAWS, BUDGET = 16, 19_999, 2_000_000_000


def energy_p(difference: Floats, *, seed: int = 0) -> float:
    """How probable so large a squared sum of paired differences [U, E] is if none is real, by flipping units' signs.

    Exact up to 16 units; beyond, the upper end of what the drawn exchanges leave possible (`drawn_p`).
    """
    units = len(difference)
    values = difference.astype(np.float64).reshape(units, -1)
    narrow = values.shape[1] < units
    gram = values if narrow else values @ values.T
    observed = float((values.sum(0) ** 2).sum())
    reached, total = 0, 0
    for signs in _signs(units, seed):
        product = signs @ gram
        energy = np.einsum("pu,pu->p", product, product if narrow else signs)
        reached += int((energy >= observed * (1 - 1e-9)).sum())
        total += len(signs)
    return reached / total if units <= LISTED else drawn_p(reached, total)


def smallest_energy_p(units: int) -> float:
    """The smallest p that `energy_p` can give for so many units."""
    return 2.0 ** (1 - units) if units <= LISTED else drawn_p(0, _draws(units))


def _draws(units: int) -> int:
    return min(DRAWS, max(999, BUDGET // units**2))


def _signs(units: int, seed: int) -> list[Floats]:
    """Patterns of signs in parts: all with a plus in front, the observed one among them, or so many drawn."""
    if units <= LISTED:
        patterns = np.arange(2 ** (units - 1))
        return [1.0 - 2 * ((patterns[:, None] >> np.arange(units)) & 1)]
    drawn = np.random.default_rng(seed).integers(0, 2, size=(_draws(units), units), dtype=np.int8)
    return [1.0 - 2 * part for part in np.array_split(drawn, max(1, len(drawn) // 10_000))]
