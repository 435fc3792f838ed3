"""What continues what: a series is a directed acyclic graph, for stages follow each other and branches stand apart."""

from collections.abc import Sequence
from itertools import pairwise

Place = tuple[str | None, str | None]


def lineage(places: Sequence[Place]) -> list[tuple[int, ...]]:
    """The parents of each checkpoint of a series, by the names of its stages and branches.

    Within a stage and branch it is the one before. The first of a branch continues the end of the stage before it, in
    the same branch where that stage has it, otherwise in every branch (several: a merge). Two branches of a first stage
    continue nothing: they are runs of their own.

    Args:
        places: (stage, branch) of each, in the order of the series.

    Returns:
        for each, the positions of those that it continues.
    """
    stages: dict[str | None, dict[str | None, list[int]]] = {}
    for position, (stage, branch) in enumerate(places):
        stages.setdefault(stage, {}).setdefault(branch, []).append(position)
    parents: list[tuple[int, ...]] = [()] * len(places)
    ends: dict[str | None, int] = {}
    for branches in stages.values():
        for branch, line in branches.items():
            parents[line[0]] = (ends[branch],) if branch in ends else tuple(ends.values())
            for before, after in pairwise(line):
                parents[after] = (before,)
        ends = {branch: line[-1] for branch, line in branches.items()}
    return parents
