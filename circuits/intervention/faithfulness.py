"""What share of a model's behaviour circuits keep, as values: one circuit's, and that of circuits of several sizes.

faithfulness = (m_circuit - m_corrupt) / (m_clean - m_corrupt), on means over the facts, where m is the metric (Hanna et
al. 2024). 1 = all of it, 0 = none; it can exceed 1, when parts that work against the answer are left out.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import CheckpointMismatch
from checkpoints.results.result import Result
from checkpoints.stats.bootstrap import DRAWS, percentiles, resampling, stretched
from checkpoints.stats.ttests import mean_interval
from checkpoints.stats.units import ENOUGH, FEWEST, Floats
from circuits.graph.pruning import circuit_size
from circuits.graph.shape import GraphShape

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


NO_EFFECT = "not applicable: clean and corrupt prompts do not differ beyond the noise, so there is no effect to keep"


@dataclass(frozen=True, repr=False, slots=True)
class Faithfulness(Result):
    """One circuit's faithfulness.

    Attributes:
        n_edges: edges in the circuit, or parts of another unit.
        metric: [N] the circuit's metric, fact by fact.
        random_metric: [R, N] the same for random circuits with as many edges.
        clean_metric, corrupt_metric: [N] of the whole model.
        unit: what the circuit is made of.
        meta: prompt hash, metric, ablation.
    """

    artifact = "faithfulness of one circuit"

    n_edges: int
    metric: Floats
    random_metric: Floats
    clean_metric: Floats
    corrupt_metric: Floats
    unit: str = "edges"
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """On means over the facts; NaN where the clean and the corrupt mean are equal."""
        return ratio(self.metric, self.clean_metric, self.corrupt_metric)

    @property
    def low(self) -> float:
        """Lower end of the 95 % bootstrap interval over the facts."""
        return interval(self.metric, self.clean_metric, self.corrupt_metric)[0]

    @property
    def high(self) -> float:
        """Its upper end."""
        return interval(self.metric, self.clean_metric, self.corrupt_metric)[1]

    @property
    def random(self) -> tuple[float, ...]:
        """R values of the random circuits."""
        return tuple(ratio(m, self.clean_metric, self.corrupt_metric) for m in self.random_metric)

    def to_frame(self) -> "pd.DataFrame":
        """One row a circuit, the random ones after it: circuit, its size, faithfulness, low, high."""
        import pandas as pd

        rows = []
        for number, metric in enumerate([self.metric, *self.random_metric]):
            low, high = interval(metric, self.clean_metric, self.corrupt_metric)
            name = f"random {number}" if number else "circuit"
            value = ratio(metric, self.clean_metric, self.corrupt_metric)
            rows.append({"circuit": name, self.unit: self.n_edges, "faithfulness": value, "low": low, "high": high})
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """The circuit beside random ones of its size, with intervals."""
        from circuits.intervention.faithfulness_view import faithfulness_figure

        return faithfulness_figure(self)

    def __str__(self) -> str:
        if not has_effect(self.clean_metric, self.corrupt_metric):
            return NO_EFFECT
        beside = f"; random circuits of that size {spread(self.random)}" if self.random else ""
        return (
            f"faithfulness {self.value:.2f} [{self.low:.2f}, {self.high:.2f}] with {self.n_edges} {self.unit}{beside}"
        )

    @property
    def verdict(self) -> str:
        """In one sentence."""
        return str(self)

    def _table(self) -> str:
        return ""


@dataclass(frozen=True, repr=False, slots=True)
class FaithfulnessCurve(Result):
    """Faithfulness at several sizes.

    Attributes:
        shares: [S] share of all edges each circuit starts from, before dead ends are removed.
        n_edges: [S] edges left.
        metric: [S, N] of each circuit, fact by fact.
        random_metric: [S, R, N] the same for random circuits with as many edges.
        clean_metric, corrupt_metric: [N] of the whole model.
        shape: the graph.
        meta: prompt hash, total number of edges, metric; ``circuit_edges`` as of the graph.
        cross_metric: [S, N] the metric of each fact in the circuit of that share found on the half of the facts that it
            is not in; None where the facts cannot be halved.
    """

    artifact, title = "faithfulness", "Faithfulness"
    shapes: ClassVar[Mapping[str, str]] = {
        "n_edges": "S", "metric": "S N", "random_metric": "S R N", "clean_metric": "N", "corrupt_metric": "N",
        "cross_metric": "S N",
    }  # fmt: skip

    shares: tuple[float, ...]
    n_edges: NDArray[np.integer]
    metric: Floats
    random_metric: Floats
    clean_metric: Floats
    corrupt_metric: Floats
    shape: GraphShape
    meta: Mapping[str, Any] = field(default_factory=dict)
    cross_metric: Floats | None = None

    def _flaws(self) -> Iterator[str]:
        if len(self.shares) != len(self.n_edges) or not self.shares:
            yield f"{len(self.shares)} shares have {len(self.n_edges)} sizes"

    @property
    def drawn(self) -> int:
        """Which of the sizes is nearest to that of the circuits which are drawn and compared (`prune`'s default)."""
        total = int(self.shape.mask.sum())
        wanted = circuit_size(total, self.meta.get("circuit_edges"))
        return int(np.abs(np.array(self.shares) * total - wanted).argmin())

    @property
    def values(self) -> tuple[float, ...]:
        """S values of faithfulness."""
        return tuple(ratio(m, self.clean_metric, self.corrupt_metric) for m in self.metric)

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """S bootstrap intervals."""
        return tuple(interval(m, self.clean_metric, self.corrupt_metric) for m in self.metric)

    @property
    def cross_values(self) -> tuple[float, ...]:
        """S values of cross-fitted faithfulness: each fact in a circuit that was found without it; NaN where none is.

        `values` judges circuits on the facts that they were found on, which flatters them.
        """
        if self.cross_metric is None:
            return (float("nan"),) * len(self.shares)
        return tuple(ratio(m, self.clean_metric, self.corrupt_metric) for m in self.cross_metric)

    @property
    def cross_intervals(self) -> tuple[tuple[float, float], ...]:
        """S bootstrap intervals of `cross_values`."""
        if self.cross_metric is None:
            return ((float("nan"), float("nan")),) * len(self.shares)
        return tuple(interval(m, self.clean_metric, self.corrupt_metric) for m in self.cross_metric)

    @property
    def has_effect(self) -> bool:
        """Whether the clean and the corrupt metric differ on average: 0 is outside the 95 % t interval.

        Where they do not, as in a model that was never trained, faithfulness is a share of nothing.
        """
        return has_effect(self.clean_metric, self.corrupt_metric)

    @property
    def cpr(self) -> float:
        """Area under faithfulness over the share of edges, by trapezoids between the smallest and the largest share.

        With the default shares this is MIB's circuit performance ratio: a perfect circuit scores 0.999, and circuits
        that beat the model score more, so read it beside `cmd`.
        """
        return self._area(lambda value: value)[0]

    @property
    def cmd(self) -> float:
        """Area between faithfulness and 1 over the share of edges: MIB's circuit-model distance, 0 = perfect."""
        return self._area(lambda value: np.abs(1 - value))[0]

    @property
    def cpr_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of `cpr`, the same facts drawn for all sizes."""
        return self._area(lambda value: value)[1]

    @property
    def cmd_interval(self) -> tuple[float, float]:
        """The same of `cmd`."""
        return self._area(lambda value: np.abs(1 - value))[1]

    def _area(self, height: Callable[[Floats], Floats]) -> tuple[float, tuple[float, float]]:
        value = float(np.trapezoid(height(np.array(self.values)), self.shares))
        drawn = np.stack([resampled(m, self.clean_metric, self.corrupt_metric) for m in self.metric], -1)
        areas = np.asarray(np.trapezoid(height(drawn), self.shares, axis=-1))
        return value, _ends(stretched(np.asarray(value), areas, units=len(self.clean_metric)))

    @property
    def random_values(self) -> tuple[float, ...]:
        """S mean values of the random circuits."""
        return tuple(
            float(np.mean([ratio(m, self.clean_metric, self.corrupt_metric) for m in draws])) if len(draws) else np.nan
            for draws in self.random_metric
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row a size: share, n_edges, faithfulness, low, high, random; cross_fitted with its interval, if it is."""
        import pandas as pd

        lows, highs = zip(*self.intervals, strict=True)
        frame = pd.DataFrame(
            {
                "share": self.shares,
                "n_edges": self.n_edges,
                "faithfulness": self.values,
                "low": lows,
                "high": highs,
                "random": self.random_values,
            }
        )
        if self.cross_metric is None:
            return frame
        lows, highs = zip(*self.cross_intervals, strict=True)
        return frame.assign(cross_fitted=self.cross_values, cross_low=lows, cross_high=highs)

    def plot(self) -> "go.Figure":
        """Faithfulness against circuit size, random circuits beside it."""
        from circuits.intervention.faithfulness_view import curve_figure

        return curve_figure(self)

    @property
    def verdict(self) -> str:
        """What the circuits keep, smallest first."""
        if not self.has_effect:
            return NO_EFFECT
        return ", ".join(f"{v:.2f} with {n} edges" for v, n in zip(self.values, self.n_edges, strict=True))


def has_effect(clean: Floats, corrupt: Floats) -> bool:
    """Whether the mean of clean - corrupt, both [N], differs from 0: outside its 95 % t interval.

    Below three facts, which give none: whether all differ the same way.
    """
    if len(clean) < FEWEST:
        return bool((clean > corrupt).all() or (clean < corrupt).all())
    low, high = mean_interval(clean - corrupt)
    return bool(low > 0 or high < 0)


def ratio(metric: Floats, clean: Floats, corrupt: Floats) -> float:
    """Faithfulness on means, all [N]; NaN where clean and corrupt mean are equal."""
    for name, other in (("clean", clean), ("corrupt", corrupt)):
        if metric.shape != other.shape:
            raise CheckpointMismatch(f"{len(metric)} facts against {len(other)} {name} ones")
    whole = float(np.mean(clean) - np.mean(corrupt))
    return float(np.mean(metric) - np.mean(corrupt)) / whole if whole else float("nan")


def interval(metric: Floats, clean: Floats, corrupt: Floats, *, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of `ratio`, the facts drawn again with replacement; NaN below three facts.

    As wide as a t interval (`checkpoints.stats.bootstrap.stretched`), and from `ENOUGH` facts on as far as the
    bootstrap-t reaches where that is further, which follows the skew of facts' shares: it covers .95 to .96 where these
    are scattered and .93 to .95 where they are skewed, from 8 facts on (`benchmarks/calibration/counts.py`).
    """
    value = ratio(metric, clean, corrupt)
    low, high = _ends(stretched(np.asarray(value), resampled(metric, clean, corrupt, draws=draws), units=len(metric)))
    if len(metric) < ENOUGH or not np.isfinite(value):
        return low, high
    below, above = _studentized(metric - corrupt, clean - corrupt, draws=draws)
    return min(low, below), max(high, above)


def _studentized(kept: Floats, whole: Floats, *, draws: int) -> tuple[float, float]:
    """Ends of the bootstrap-t interval of sum kept / sum whole, both [N]; an end that no draw bounds is not told.

    In every draw the error of the ratio is that of the linearised residuals kept - ratio * whole (Hall 1992).
    """
    weights = np.vstack([np.ones(len(kept)), resampling(len(kept), draws=draws)])
    sums, squares = weights @ np.stack([kept, whole], 1), weights @ np.stack([kept**2, kept * whole, whole**2], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = sums[:, 0] / sums[:, 1]
        residual = squares[:, 0] - 2 * values * squares[:, 1] + values**2 * squares[:, 2]
        error = np.sqrt(np.where(residual > 1e-9 * squares[:, 0], residual, 0.0)) / np.abs(sums[:, 1])
        away = np.where(values[1:] == values[0], 0.0, (values[1:] - values[0]) / error[1:])
    least, most = percentiles(away, method="nearest")
    low, high = values[0] - error[0] * most, values[0] - error[0] * least
    return (float(low) if np.isfinite(low) else np.inf), (float(high) if np.isfinite(high) else -np.inf)


def resampled(metric: Floats, clean: Floats, corrupt: Floats, *, draws: int = DRAWS) -> Floats:
    """[draws] values of `ratio`, always the same draws of as many facts."""
    weights = resampling(len(metric), draws=draws)
    whole = weights @ (clean - corrupt)
    return np.asarray((weights @ (metric - corrupt)) / np.where(whole, whole, np.nan))


def spread(values: tuple[float, ...]) -> str:
    """Mean and range of some circuits' values, in words."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _ends(draws: Floats) -> tuple[float, float]:
    low, high = percentiles(draws)
    return float(low), float(high)


_ARRAYS = ("metric", "random_metric", "clean_metric", "corrupt_metric")
