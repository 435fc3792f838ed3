"""A change beside those among siblings, trainings alike but for chance: how often would one more sibling change so?

Two of k siblings and the point that a change starts from differ by sizes whose root mean square is the scatter; one
more sibling's change over it is close to Student's t with k degrees of freedom, and rarer: the scatter holds the
starting point too. Several changes of one pair are asked about together by the Cauchy combination (Liu and Xie 2020),
which holds however they depend on one another.
"""

from collections.abc import Sequence

import numpy as np

from checkpoints.stats.units import Floats

MOST = 50
ORDINARY = 0.5
"""p from which a change says nothing, neither for nor against: near 1 one alone would outweigh all others."""


def sibling_p(times: Floats, siblings: int) -> Floats:
    """How often one more of so many siblings changes by at least so many times their scatter; 1 where that is NaN."""
    from scipy.stats import t

    found = 2 * np.asarray(t.sf(times, siblings), dtype=np.float64)
    return np.where(np.isnan(found), 1.0, np.minimum(found, 1.0))


def combined_p(p: Floats) -> float:
    """How probable p values [N] so small are together, whatever their dependence (Cauchy combination)."""
    from scipy.stats import cauchy

    return float(cauchy.sf(np.mean(cauchy.isf(np.minimum(p, ORDINARY)))))


def siblings_needed(times: Floats, siblings: int, level: float, *, reached: Sequence[bool]) -> int:
    """From how many siblings on changes [N] of so many times their scatter stand out: as many as there are or more.

    ``reached``: for each, whether it may stand out at all. 0: more siblings would not tell.
    """
    may = np.asarray(reached, dtype=bool)
    for count in range(siblings, MOST + 1):
        p = sibling_p(np.where(may, times, 0.0), count)
        if p.min() <= level and combined_p(p) <= level:
            return count
    return 0
