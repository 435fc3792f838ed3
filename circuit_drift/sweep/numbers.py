"""A measured checkpoint as numbers by name: what a tracker is told."""

import logging
import math

import numpy as np

from circuit_drift.measures.registry import find
from circuit_drift.record.record import Point

logger = logging.getLogger(__name__)


def numbers_of(point: Point) -> dict[str, float]:
    """The finite numbers of a point's columns in the run's table, and those that a training log shows."""
    found: dict[str, float] = {}
    for name, result in point.results.items():
        measure = find(name)
        if measure is None:
            continue
        try:
            cells = {**measure.columns(result), **measure.reading(result)}
        except Exception as error:  # a result that cannot be told in numbers is stored all the same
            logger.warning("%s of %s cannot be told to a tracker: %s", name, point.name, error)
            continue
        found |= {column: float(cell) for column, cell in cells.items() if _is_number(cell)}
    return found


def line_of(run: str, point: Point) -> str:
    """The run's name with the stage and the branch of a point, whose steps may begin anew."""
    return "/".join(part for part in (run, point.stage, point.branch) if part)


def _is_number(cell: object) -> bool:
    return type(cell) is not bool and isinstance(cell, int | float | np.number) and math.isfinite(cell)
