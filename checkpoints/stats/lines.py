"""Lines through a handful of points: how steep, how sure of it, and whether two things rise together.

Intervals are Student's or Fisher's: the points, checkpoints of one run, are no units that could be resampled.
"""

import math

import numpy as np

from checkpoints.stats.units import Floats


def slopes(time: Floats, values: Floats) -> Floats:
    """Least-squares slope of each row of [D, C] values over [C] times."""
    centred = time - time.mean()
    return np.asarray(values @ centred / (centred @ centred))


def student_reach(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches at so many degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def slope_reach(time: Floats, values: Floats, slope: float) -> float:
    """Half width of the 95 % interval of a least-squares slope, by the scatter of the points about their line.

    t s at C - 2 degrees of freedom, with s the slope's standard error.

    Args:
        time: [C], three or more.
        values: [C].
        slope: of the line.
    """
    centred = time - time.mean()
    away = values - values.mean() - slope * centred
    freedom = len(time) - 2
    return float(student_reach(freedom) * np.sqrt(away @ away / freedom / (centred @ centred)))


def prediction_reach(values: Floats) -> float:
    """Half width of the 95 % prediction interval of one more value: t s sqrt(1 + 1 / C), t at C - 1 degrees.

    Args:
        values: [C], two or more.
    """
    return float(student_reach(len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values)))


def pearson(x: Floats, y: Floats) -> float:
    """Pearson correlation; NaN where either side does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(np.clip(float(x @ y) / scale, -1, 1)) if scale > 0 else float("nan")


def pearson_p(r: float, n: int) -> float:
    """Two-sided p of a Pearson correlation over n pairs (t test, n - 2 degrees of freedom)."""
    from scipy import stats

    if abs(r) >= 1:
        return 0.0
    return float(2 * stats.t.sf(abs(r) * math.sqrt((n - 2) / (1 - r * r)), n - 2))


def fisher_interval(r: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of a Pearson correlation by Fisher's z; all of [-1, 1] at n = 3."""
    from scipy import stats

    if n <= 3 or abs(r) >= 1:
        return (-1.0, 1.0) if n <= 3 else (r, r)
    half = float(stats.norm.ppf(0.5 + level / 2)) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
