"""The stages a run was trained in, and its circuits followed over them, on the facts that it ever recalls."""

from typing import TYPE_CHECKING

from checkpoints import BadPrompt
from circuit_drift.recall import recalled
from circuit_drift.store import Store, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import circuits
    from circuit_drift.sweep import Point, Run


def stages(run: "Run") -> list[list["Point"]]:
    """The points grouped by training stage, in order."""
    groups: list[list[Point]] = []
    for point in run:
        if groups and groups[-1][-1].stage == point.stage:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def stage_ends(run: "Run") -> list[tuple["Point", "Point"]]:
    """The pairs a reader looks at first: each stage's start, which is the last point of the one before, and its end."""
    complete = [[p for p in stage if p.circuit is not None or p.heads is not None] for stage in stages(run)]
    groups = [group for group in complete if group]
    starts = [groups[0][0], *(group[-1] for group in groups[:-1])] if groups else []
    return [(start, group[-1]) for start, group in zip(starts, groups, strict=True) if start is not group[-1]]


def evolve(run: "Run", stage: str | None = None) -> "tuple[circuits.Evolution, str]":
    """Follow the circuit over a run or one of its stages; see `circuits.evolve`.

    Facts that no checkpoint recalls are left out, as in a diff; see `circuit_drift.recall.recalled`.

    Returns:
        the evolution, and the choice of facts in words.

    Raises:
        BadPrompt: fewer than two checkpoints with a step and a circuit.
    """
    chosen = [p for p in run if (stage is None or p.stage == stage) and p.step is not None and p.circuit is not None]
    if len(chosen) < 2:
        where = f"stage {stage} of {run.name}" if stage else run.name
        raise BadPrompt(f"{where} has {len(chosen)} checkpoints with a circuit and a step; an evolution needs two")
    graphs, facts = recalled([point.circuit for point in chosen if point.circuit is not None], "at some checkpoint")
    return _stored(Store(run.store), chosen, graphs), facts


def _stored(
    store: Store, points: "Sequence[Point]", graphs: "Sequence[circuits.AttributionGraph]"
) -> "circuits.Evolution":
    """`circuits.evolve`, kept in the store: its permutations take longer than all else that needs no model."""
    import circuits

    steps = [point.step for point in points if point.step is not None]
    starts = {point.stage: step for point, step in zip(reversed(points), reversed(steps), strict=True) if point.stage}
    stages = dict(reversed(starts.items()))
    measured = {"version": 2, "steps": steps, "stages": stages, "circuits": [p.keys["circuit"] for p in points]}
    key = key_of(measured)
    folder = store.folder("evolution", key)
    if store.has("evolution", key):
        return circuits.Evolution.load(folder)
    evolution = circuits.evolve(zip(steps, graphs, strict=True), stages=stages)
    evolution.save(folder)
    return evolution
