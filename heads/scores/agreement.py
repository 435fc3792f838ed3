"""How alike two rankings of heads are: top-K overlap, rank-biased overlap, Spearman with its ties stated."""

from dataclasses import dataclass

import numpy as np

from checkpoints.stats.units import Floats


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two checkpoints' mean scores against each other.

    Attributes:
        shared: heads in both top-K lists.
        k: length of the lists: K, or fewer where fewer heads score above 0 (zeros are not ranked).
        rank_biased: rank-biased overlap of the heads above 0, in [0, 1], weight on the top.
        spearman: rank correlation over all heads, ties sharing their mean rank.
        tied: share of heads at exactly 0 in both; what the ties of `spearman` rest on.
        spearman_top: the same over the union of the two top-K lists.
        by_chance: heads that two random lists of these lengths would share; NaN in results that did not keep it.
    """

    shared: int
    k: int
    rank_biased: float
    spearman: float
    tied: float
    spearman_top: float
    by_chance: float = float("nan")


def agreement(a: Floats, b: Floats, *, top_k: int = 30, persistence: float = 0.9) -> Agreement:
    """Compare two arrays of mean scores of the same heads; NaN (not applicable) in either is left out.

    Args:
        a: [L, H] mean scores.
        b: [L, H] of the other checkpoint.
        top_k: length of the lists.
        persistence: p of the rank-biased overlap (Webber et al. 2010); 0.9 puts 86 % of the weight on ten ranks.
    """
    applies = ~(np.isnan(a) | np.isnan(b)).ravel()
    x, y = a.ravel()[applies].astype(float), b.ravel()[applies].astype(float)
    ranked_x, ranked_y = ranking(x), ranking(y)
    top_x, top_y = ranked_x[:top_k], ranked_y[:top_k]
    union = np.union1d(top_x, top_y).astype(int)
    return Agreement(
        shared=len(np.intersect1d(top_x, top_y)),
        k=max(len(top_x), len(top_y)),
        rank_biased=rank_biased_overlap(ranked_x.tolist(), ranked_y.tolist(), persistence=persistence),
        spearman=spearman(x, y),
        tied=float(((x == 0) & (y == 0)).mean()) if len(x) else float("nan"),
        spearman_top=spearman(x[union], y[union]),
        by_chance=len(top_x) * len(top_y) / len(x) if len(x) else float("nan"),
    )


def ranking(scores: Floats) -> np.ndarray:
    """Indices of the scores above 0, best first; ties in the order given."""
    order = np.argsort(-scores, kind="stable")
    return np.asarray(order[scores[order] > 0])


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation with mean ranks for ties; NaN where either side is constant or has under three values."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    from scipy import stats

    return float(stats.spearmanr(x, y).statistic)


def rank_biased_overlap(a: list[int], b: list[int], *, persistence: float = 0.9) -> float:
    """Extrapolated rank-biased overlap of two rankings of any length (Webber, Moffat, Zobel 2010, eq. 32).

    Returns:
        1 for identical rankings, 0 for disjoint ones; NaN if either is empty.
    """
    short, long = sorted((a, b), key=len)
    s, depth = len(short), len(long)
    if not s:
        return float("nan")
    p = persistence
    overlaps = np.array([len(set(short[:d]) & set(long[:d])) for d in range(1, depth + 1)], dtype=float)
    d = np.arange(1, depth + 1)
    total = np.sum(overlaps / d * p**d)
    beyond = d > s
    total += np.sum(overlaps[s - 1] * (d[beyond] - s) / (s * d[beyond]) * p ** d[beyond])
    tail = ((overlaps[-1] - overlaps[s - 1]) / depth + overlaps[s - 1] / s) * p**depth
    return float((1 - p) / p * total + tail)
