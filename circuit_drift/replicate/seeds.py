"""One strategy trained under several seeds: what holds over facts and over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from checkpoints.stats.bootstrap import DRAWS, percentiles, resampling
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
    from scipy.stats import t

    if len(trained) < 2:
        raise BadPrompt(f"an interval over seeds needs at least 2 of them; got {len(trained)}: train more")
    first = trained[0].ledger.scores
    for other in trained[1:]:
        if (other.ledger.scores.units, other.ledger.scores.steps) != (first.units, first.steps):
            raise BadPrompt(f"{other.name} was asked other units or at other steps than {trained[0].name}")
    means = np.stack([one.ledger.scores.mean for one in trained])
    threshold = trained[0].ledger.threshold
    found = quantities(means, threshold)
    drawn = [quantities(means, threshold, weights) for weights in resampling(means.shape[1], draws=draws)]
    rows = []
    for name, values in found.items():
        of_seeds = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        low, high = percentiles(np.array([each[name].mean() for each in drawn]))
        half, mean = np.hypot(of_seeds, (high - low) / 2), values.mean()
        each = dict(zip((one.name for one in trained), values, strict=True))
        bounds = {"low": max(mean - half, 0.0), "high": min(mean + half, 1.0)}
        rows.append({"quantity": name, **each, "mean": mean, **bounds})
    return pd.DataFrame(rows)


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
