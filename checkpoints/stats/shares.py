"""Shares of independent units: exact intervals, tests and the number of units that would decide."""

from checkpoints.stats.bootstrap import LEVEL, upper_share

MOST = 100_000


def share_interval(hits: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """The exact two-sided interval of a share of which ``hits`` of ``trials`` were seen (Clopper and Pearson 1934)."""
    tail = (1 + level) / 2
    return 1 - upper_share(trials - hits, trials, level=tail), upper_share(hits, trials, level=tail)


def share_above_p(hits: int, trials: int, bound: float) -> float:
    """How probable at least so many hits are if the share is ``bound`` or less: an exact binomial p."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, trials, bound))


def mcnemar_p(gained: int, lost: int) -> float:
    """The exact two-sided McNemar p of units that changed sides, so many one way and so many the other."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def trials_to_bound(hits: int, trials: int, bound: float, *, level: float = LEVEL) -> int:
    """Trials from which the interval of a share, as large as the one seen, lies on one side of a bound.

    Args:
        hits: seen so far.
        trials: so far.
        bound: above 0.
        level: coverage of the interval.

    Returns:
        the number of trials in all, at most 100,000.
    """
    number = trials
    while number < MOST:
        low, high = share_interval(round(hits / trials * number), number, level=level)
        if high <= bound or low > bound:
            return number
        number += max(1, number // 50)
    return MOST
