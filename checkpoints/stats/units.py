"""What may count as independent, and means over it; what does not apply is NaN and left out."""

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Unit = Literal["auto", "needle", "prompt"]
Pairing = Literal["paired", "unpaired"]
"""Whether two results are of the same units, unit by unit."""
ENOUGH = 8
"""Units from which a group is spoken of by itself: a class of facts, facts recalled."""
FEWEST = 3
"""Units below which no interval of a mean is given: two say next to nothing of a spread."""


def nanmean(values: Floats, axis: int = 0) -> Floats:
    """Mean over what applies; NaN, silently, where nothing does."""
    values = np.asarray(values)
    if values.size and not np.isnan(values).any():
        return np.asarray(values.mean(axis=axis))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))


def nansd(values: Floats, axis: int = 0) -> Floats:
    """Standard deviation of the sample over what applies; NaN, silently, where fewer than two values do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanstd(values, axis=axis, ddof=1))


def independent_units(
    needle: NDArray[np.integer], unit: Unit = "auto"
) -> tuple[Literal["needle", "prompt"], NDArray[np.integer]]:
    """What may count as independent samples, and which of them each prompt belongs to.

    The prompts of one needle share its text and its haystack; scores at its depths correlate by up to .6. Taken as
    independent at three needles, intervals of 95 % cover 61 % (`benchmarks/calibration/heads.py`).

    Args:
        needle: [N] which needle a prompt hides.
        unit: ``auto`` takes needles, however few.
    """
    if unit == "prompt":
        return "prompt", np.arange(len(needle))
    return "needle", needle


def cluster_means(values: Floats, cluster: NDArray[np.integer]) -> Floats:
    """Mean of the rows of each cluster, [clusters, ...]: the units a test may treat as independent."""
    return np.stack([nanmean(values[cluster == c]) for c in np.unique(cluster)])
