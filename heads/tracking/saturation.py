"""Has training saturated, or does it only seem so? A test with a stated effect size and an interval.

At checkpoint i a metric is saturated if the interval of its change per doubling of tokens after i lies within
+-bound, and no later checkpoint strays further from i than the bound per doubling allows. The interval comes from
resampling the needles (the same ones at all checkpoints) and, with `LATER` later checkpoints or more, from how far
these scatter about their trend: a single run wanders by itself (its answer NLL by .03 to .14 nats), and by needles
alone converged runs still moved in .4 to .8 of simulations. What needles would
show on which nothing changes at all it cannot say: a share that is 1 throughout has no spread to resample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from checkpoints.stats.bootstrap import percentiles
from checkpoints.stats.lines import prediction_reach, slope_reach, slopes, student_reach
from checkpoints.stats.units import Floats

BOUNDS: Mapping[str, float] = {
    "needle_score": 0.02,
    "needle_accuracy": 0.02,
    "answer_nll": 0.02,
    "initial_set_mean": 0.02,
    "all_heads_mean": 0.005,
}
"""Change per doubling of tokens below which a metric counts as still; 0.02 nats are 2 % of a perplexity."""


LATER = 4
"""Checkpoints after one from which on their scatter is known, and a metric may be said to move."""
TOLD = 3
"""Checkpoints whose scatter about their mean tells how far another may lie."""


def count_bound(counts: Floats) -> float:
    """The same for the number of retrieval heads: 5 % of the most there ever are, half a head at least."""
    return max(0.5, 0.05 * float(np.nanmax(counts)))


@dataclass(frozen=True, slots=True)
class Trend:
    """Change of a metric per doubling of tokens from one checkpoint to the end.

    Attributes:
        metric: its name.
        step: where the stretch begins.
        slope: change per doubling, in the metric's unit.
        low: lower end of the 95 % interval.
        high: upper end.
        bound: the effect size below which the metric counts as still.
        saturated: the interval lies within +-bound and no later checkpoint strays.
        later: checkpoints after that step.
    """

    metric: str
    step: int
    slope: float
    low: float
    high: float
    bound: float
    saturated: bool
    later: int = LATER

    @property
    def moving(self) -> bool:
        """Still changes: the interval excludes 0, the metric is not saturated, and `LATER` checkpoints follow."""
        return not self.saturated and self.later >= LATER and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class Saturation:
    """What became of one metric: its trend after each checkpoint but the last."""

    metric: str
    trends: tuple[Trend, ...]

    @property
    def at(self) -> Trend | None:
        """The first checkpoint after which the metric is still."""
        return next((trend for trend in self.trends if trend.saturated), None)

    def after(self, step: int) -> Trend | None:
        """Its trend after a given step."""
        return next((trend for trend in self.trends if trend.step == step), None)


def saturation(
    metric: str, steps: Sequence[int], doublings: Floats, values: Floats, draws: Floats, *, bound: float
) -> Saturation:
    """Test a metric for saturation at every checkpoint but the last.

    Args:
        metric: its name.
        steps: [C].
        doublings: [C] log2 of tokens (or steps); checkpoints at 0 must be left out before.
        values: [C] the metric.
        draws: [D, C] the metric on resampled needles.
        bound: change per doubling that counts as still.
    """
    trends = []
    for i in range(len(steps) - 1):
        time = doublings[i:]
        slope = float(slopes(time, values[None, i:])[0])
        ends = (float(end) for end in percentiles(slopes(time, draws[:, i:])))
        low, high = _with_scatter(time, values[i:], slope, *ends)
        stray = np.abs(values[i + 1 :] - values[i]) > bound * np.maximum(1.0, time[1:] - time[0])
        still = bool(-bound <= low and high <= bound and not stray.any())
        trends.append(Trend(metric, int(steps[i]), slope, low, high, bound, still, len(steps) - 1 - i))
    return Saturation(metric, tuple(trends))


def _with_scatter(time: Floats, values: Floats, slope: float, low: float, high: float) -> tuple[float, float]:
    """An interval of a slope, widened by the scatter of the checkpoints about their line.

    Each half is sqrt(half^2 + reach^2), the reach as of `checkpoints.stats.lines.slope_reach`; with fewer than `LATER`
    later checkpoints the interval is left as it is.
    """
    if len(time) <= LATER:
        return low, high
    error = slope_reach(time, values, slope)
    return slope - float(np.hypot(slope - low, error)), slope + float(np.hypot(high - slope, error))


def beyond_scatter(values: Floats) -> bool:
    """Whether the first of C values lies outside the 95 % prediction interval of the later ones.

    That is their mean +- t s sqrt(1 + 1 / m), with s their scatter and t at m - 1 degrees of freedom. Without it a fall
    by a tenth of the perplexity is seen in .17 of runs that stand still but for .1 nats of jitter between checkpoints.

    Args:
        values: [C]; with fewer than `TOLD` after the first their scatter is not known, and the answer is no.
    """
    first, later = values[0], values[1:]
    if len(later) < TOLD:
        return False
    return bool(abs(first - later.mean()) > prediction_reach(later))


def deceptive(saturations: Sequence[Saturation]) -> tuple[tuple[Trend, Trend], ...]:
    """Pairs (still, moving): the first has saturated at a checkpoint after which the second still changes."""
    pairs = []
    for still in saturations:
        if (at := still.at) is None:
            continue
        others = (other.after(at.step) for other in saturations if other is not still)
        pairs += [(at, trend) for trend in others if trend is not None and trend.moving]
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class LogFit:
    """Least-squares fit ``value = a * ln(tokens) + b`` (arXiv 2604.02650, section 3.2), tokens > 0 only.

    Attributes:
        a: change per e-fold of tokens.
        b: intercept.
        a_low: lower end of the 95 % interval of a.
        a_high: upper end.
        residuals: value - fit, per checkpoint.
        r_squared: share of the variance explained.
    """

    a: float
    b: float
    a_low: float
    a_high: float
    residuals: tuple[float, ...]
    r_squared: float


def log_fit(tokens: Floats, values: Floats) -> LogFit | None:
    """Fit A ln N + B; None with fewer than three checkpoints at N > 0, or all of them at one N."""
    from scipy.stats import linregress

    kept = (tokens > 0) & np.isfinite(values)
    if kept.sum() < 3 or np.ptp(tokens[kept]) == 0:
        return None
    x, y = np.log(tokens[kept]), values[kept]
    fit = linregress(x, y)
    half = student_reach(len(x) - 2) * float(fit.stderr)
    residuals = tuple(float(v) for v in y - (fit.slope * x + fit.intercept))
    a, b = float(fit.slope), float(fit.intercept)
    return LogFit(a, b, a - half, a + half, residuals, float(fit.rvalue**2))
