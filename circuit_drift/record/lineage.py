"""What continues what among the points of a run."""

from collections.abc import Callable

from checkpoints.series.lineage import lineage
from circuit_drift.record.record import Point, RunRecord


def parents_of(run: RunRecord) -> list[tuple[int, ...]]:
    """Positions of the points that each point continues: as stored, else by the names of stages and branches.

    Of a merge of which the run does not hold every part, nothing is known: it continues none of the others.
    """
    position = {point.place: place for place, point in enumerate(run)}
    if not all(place in run.parents for place in position):
        return lineage([(point.stage, point.branch) for point in run])
    stored = [run.parents[point.place] for point in run]
    return [tuple(position[p] for p in before) if all(p in position for p in before) else () for before in stored]


def nearest_before(run: RunRecord, point: Point, has: Callable[[Point], bool]) -> Point | None:
    """The nearest point that has something and that a point continues; None for a first one, and behind a merge."""
    parents = parents_of(run)
    before = parents[next(place for place, other in enumerate(run) if other is point)]
    while len(before) == 1 and not has(run.points[before[0]]):
        before = parents[before[0]]
    return run.points[before[0]] if len(before) == 1 else None
