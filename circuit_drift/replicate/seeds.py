"""One strategy trained under one seed or several: what holds over facts and over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import DRAWS, Estimate, percentiles, resampling
from checkpoints.stats.ttests import LEVEL, mean_interval
from checkpoints.stats.units import Floats
from circuit_drift.knowledge.resampling import reaches
from circuit_drift.training.strategies.comparison import Trained

if TYPE_CHECKING:
    import pandas as pd


def seeds_frame(trained: Sequence[Trained], *, draws: int = DRAWS) -> "pd.DataFrame":
    """Knowledge before training, at its best and at the end, and what is gained, held and kept: a row each.

    Args:
        trained: one strategy under seeds, asked the same units.
        draws: resamples of the units.

    Returns:
        a column for each seed, by the strategy's name; ``mean`` over them; ``low`` and ``high``, the 95 % interval over
        units and seeds. Its half width is the root of two squares: Student's of the seeds, S - 1 degrees of freedom,
        and the bootstrap's of the units, which all seeds share; cut to [0, 1], where all of these lie. NaN where a
        share is of nothing.

    Raises:
        BadPrompt: fewer than two seeds, or seeds whose units or epochs differ.
    """
    import pandas as pd

    if len(trained) < 2:
        raise BadPrompt(f"an interval over seeds needs at least 2 of them; got {len(trained)}: train more")
    means, threshold = scores_of(trained), trained[0].ledger.threshold
    found = quantities(means, threshold)
    drawn = [quantities(means, threshold, weights) for weights in resampling(means.shape[1], draws=draws)]
    rows = []
    for name, values in found.items():
        low, high = percentiles(np.array([each[name].mean() for each in drawn]))
        half, mean = np.hypot(seeds_reach(values), (high - low) / 2), values.mean()
        each = dict(zip((one.name for one in trained), values, strict=True))
        bounds = {"low": max(mean - half, 0.0), "high": min(mean + half, 1.0)}
        rows.append({"quantity": name, **each, "mean": mean, **bounds})
    return pd.DataFrame(rows)


def scores_of(trained: Sequence[Trained]) -> Floats:
    """[R, U, S] score of every unit at every step under every seed.

    Raises:
        BadPrompt: seeds whose units or epochs differ.
    """
    first = trained[0].ledger.scores
    for other in trained[1:]:
        if (other.ledger.scores.units, other.ledger.scores.steps) != (first.units, first.steps):
            raise BadPrompt(f"{other.name} was asked other units or at other steps than {trained[0].name}")
    return np.stack([one.ledger.scores.mean for one in trained])


def seeds_reach(values: Floats) -> float:
    """Half width of Student's 95 % interval of a mean over seeds; 0 of one seed, of whose like nothing is known.

    Args:
        values: [R] one of each seed.
    """
    from scipy.stats import t

    if len(values) < 2:
        return 0.0
    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def mean_over(values: Floats) -> Estimate:
    """The mean over seeds and units with its 95 % interval, built as that of `seeds_frame`, the units' by Student's t.

    Args:
        values: [R, U] one of every unit under every seed; one seed leaves the interval of the units alone.
    """
    low, high = mean_interval(values.mean(axis=0))
    mean, half = float(values.mean()), float(np.hypot(seeds_reach(values.mean(axis=1)), (high - low) / 2))
    return Estimate(mean, mean - half, mean + half, values.shape[1])


def fall_from_best(curves: Floats) -> Floats:
    """[R, U] each unit's last value less that in the best step, which the other half of the units chose.

    A best step chosen by the very units whose fall is then told falls by itself: the greatest of noisy means is too
    great. So every second unit chooses for the others, and they for it.

    Args:
        curves: [R, U, S] of every unit at every step under every seed.
    """
    fallen = np.empty(curves.shape[:2])
    halves = np.arange(curves.shape[1]) % 2 == 0
    for half in (halves, ~halves):
        best = int(curves[:, ~half].mean(axis=(0, 1)).argmax())
        fallen[:, half] = curves[:, half, -1] - curves[:, half, best]
    return fallen


def quantities(means: Floats, threshold: float, weights: Floats | None = None) -> dict[str, Floats]:
    """[R] each quantity of R seeds.

    Args:
        means: [R, U, S] score of every unit at every step.
        threshold: a unit is known from this score on.
        weights: [U] how often each unit counts; None = once.
    """
    counted = np.ones(means.shape[1]) if weights is None else weights
    known = reaches(means, threshold)
    first, last = known[:, :, 0], known[:, :, -1]
    recall = np.average(means, axis=1, weights=counted)
    gained = known[:, :, 1:].any(axis=2) & ~first
    return {
        "recall before": recall[:, 0],
        "recall at its best": recall.max(axis=1),
        "recall at the end": recall[:, -1],
        "known before": first @ counted / counted.sum(),
        "known at the end": last @ counted / counted.sum(),
        "newly learned": gained @ counted / counted.sum(),
        "of them known at the end": _share(gained & last, gained, counted),
        "of those known before, known at the end": _share(first & last, first, counted),
    }


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_], counted: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((part @ counted) / (whole @ counted))
