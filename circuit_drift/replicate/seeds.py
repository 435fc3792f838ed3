"""One strategy trained under several seeds: what holds over facts and over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import BadPrompt
from circuit_drift.knowledge.resampling import reaches
from circuit_drift.training.strategies.comparison import Trained

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 2000
Floats = NDArray[np.float64]


def seeds_frame(trained: Sequence[Trained], *, draws: int = DRAWS) -> "pd.DataFrame":
    """Knowledge before training, at its best and at the end, and what is gained, held and kept: a row each.

    Args:
        trained: one strategy under seeds, asked the same units.
        draws: resamples of the units.

    Returns:
        a column for each seed, by the strategy's name; ``mean`` over them; ``low`` and ``high``, the 95 % interval over
        units and seeds. Its half width is the root of two squares: Student's of the seeds, S - 1 degrees of freedom,
        and the bootstrap's of the units, which all seeds share. NaN where a share is of nothing.

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
    rng = np.random.default_rng(0)
    resampled = [quantities(means[:, rng.integers(0, means.shape[1], means.shape[1])], threshold) for _ in range(draws)]
    found = quantities(means, threshold)
    rows = []
    for name, values in found.items():
        over_units = np.array([each[name].mean() for each in resampled])
        over_units = over_units[~np.isnan(over_units)]
        of_seeds = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        of_units = np.ptp(np.quantile(over_units, [0.025, 0.975])) / 2 if len(over_units) else np.nan
        half, mean = np.hypot(of_seeds, of_units), values.mean()
        each = dict(zip((one.name for one in trained), values, strict=True))
        rows.append({"quantity": name, **each, "mean": mean, "low": mean - half, "high": mean + half})
    return pd.DataFrame(rows)


def quantities(means: Floats, threshold: float) -> dict[str, Floats]:
    """[R] each quantity of R seeds.

    Args:
        means: [R, U, S] score of every unit at every step.
        threshold: a unit is known from this score on.
    """
    known = reaches(means, threshold)
    recall, share = means.mean(axis=1), known.mean(axis=1)
    gained = known[:, :, 1:].any(axis=2) & ~known[:, :, 0]
    return {
        "recall before": recall[:, 0],
        "recall at its best": recall.max(axis=1),
        "recall at the end": recall[:, -1],
        "known before": share[:, 0],
        "known at the end": share[:, -1],
        "newly learned": gained.mean(axis=1),
        "of them known at the end": _share(gained & known[:, :, -1], gained),
        "of those known before, known at the end": _share(known[:, :, 0] & known[:, :, -1], known[:, :, 0]),
    }


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> Floats:
    counts = whole.sum(axis=1)
    return np.where(counts > 0, part.sum(axis=1) / np.maximum(counts, 1), np.nan)
