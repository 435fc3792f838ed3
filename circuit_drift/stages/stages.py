"""The lines and stages a run was trained in, and its circuits followed over them, on the facts that it ever recalls."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from checkpoints import BadPrompt, StoreError
from circuit_drift.measures.recall import recalled
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.store.store import Store, key_of

if TYPE_CHECKING:
    import circuits
    import heads

PLACES = ("stage", "branch")


def line(run: RunRecord, stage: str | None = None, branch: str | None = None) -> list[Point]:
    """The points with a step of one line of training, in order: all, or those of a stage or branch.

    A branch's line holds the points of no branch too, which all branches share.

    Raises:
        StoreError: the run has no such stage or branch.
        BadPrompt: the steps do not rise, since branches or stages that count anew are several lines.
    """
    known = {kind: list(dict.fromkeys(getattr(p, kind) for p in run if getattr(p, kind))) for kind in PLACES}
    for kind, wanted in zip(PLACES, (stage, branch), strict=True):
        if wanted is not None and wanted not in known[kind]:
            raise StoreError(f"the run {run.name} has no {kind} {wanted}; it has {', '.join(known[kind]) or 'none'}")
    chosen = [
        p for p in run
        if p.step is not None and stage in (None, p.stage) and (branch is None or p.branch in (None, branch))
    ]  # fmt: skip
    for before, after in pairwise(chosen):
        if (before.step or 0) >= (after.step or 0):
            there = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in known.items() if names)
            raise BadPrompt(
                f"the checkpoints of {run.name} are not one line of training: {after.place} comes after "
                f"{before.place}; choose one ({there or 'measure one with run --steps'})"
            )
    return chosen


def stages(run: RunRecord) -> list[list[Point]]:
    """The points grouped by training stage and branch, in order."""
    groups: list[list[Point]] = []
    for point in run:
        if groups and (groups[-1][-1].stage, groups[-1][-1].branch) == (point.stage, point.branch):
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def continued(groups: Sequence[list[Point]], index: int) -> Point | None:
    """The point that a group of `stages` goes on from: the end of the stage before it, in the same branch if it has it.

    None for the first stage, and where several branches were merged.
    """
    first = groups[index][0]
    ends = [group[-1] for group in groups[:index] if group[0].stage != first.stage]
    ends = [end for end in ends if end.stage == ends[-1].stage]
    ends = [end for end in ends if end.branch == first.branch] or ends
    return ends[0] if len(ends) == 1 else None


def stage_ends(run: RunRecord) -> list[tuple[Point, Point]]:
    """The pairs a reader looks at first: each stage's start, which is the last point of the one before, and its end."""
    complete = [[p for p in stage if p.circuit is not None or p.heads is not None] for stage in stages(run)]
    groups = [group for group in complete if group]
    starts = [continued(groups, i) or group[0] for i, group in enumerate(groups)]
    return [(start, group[-1]) for start, group in zip(starts, groups, strict=True) if start is not group[-1]]


def tokens_in_stage(run: RunRecord, chosen: Sequence[Point]) -> list[int] | None:
    """Tokens of each point of a line since the stage before its first; since 0 where that counts on its own.

    None where a point has no count, or the counts do not rise, as those rounded in names may not.
    """
    counts = [point.tokens for point in chosen if point.tokens is not None]
    if len(counts) < len(chosen) or any(after <= before for before, after in pairwise(counts)):
        return None
    groups = stages(run)
    index = next((i for i, group in enumerate(groups) if chosen and group[0] is chosen[0]), None)
    before = continued(groups, index) if index is not None else None
    start = 0 if before is None or before.tokens is None or before.tokens > counts[0] else before.tokens
    return [count - start for count in counts]


def monitor(run: RunRecord, stage: str | None = None, branch: str | None = None, **options: Any) -> "heads.Monitor":
    """Follow retrieval through a run, one of its stages or one of its branches; options as of `heads.monitor`.

    A stage's tokens are counted from its start, since doublings of the whole run mean little inside a short one.

    Raises:
        StoreError: no such stage or branch.
        BadPrompt: fewer than two checkpoints with retrieval scores and a step, or several lines of training.
    """
    import heads

    chosen = line(run, stage, branch)
    tokens: Sequence[int | None] = tokens_in_stage(run, chosen) or [None] * len(chosen)
    scored = [
        (point.step, count, point.heads)
        for point, count in zip(chosen, tokens, strict=True)
        if point.step is not None and point.heads is not None
    ]
    if len(scored) < 2:
        raise BadPrompt(
            f"{run.name} has {len(scored)} checkpoints with retrieval scores and a step in what is followed; a "
            "monitor needs two: measure them with circuit-drift run --measures heads"
        )
    return heads.monitor(scored, **options)


def evolve(run: RunRecord, stage: str | None = None, branch: str | None = None) -> "tuple[circuits.Evolution, str]":
    """Follow the circuit over a run, one of its stages or one of its branches; see `circuits.evolve`.

    Facts that no checkpoint recalls are left out, as in a diff; see `circuit_drift.measures.recall.recalled`.

    Returns:
        the evolution, and the choice of facts in words.

    Raises:
        StoreError: no such stage or branch.
        BadPrompt: fewer than two checkpoints with a step and a circuit, or several lines of training.
    """
    chosen = [p for p in line(run, stage, branch) if p.circuit is not None]
    if len(chosen) < 2:
        where = f"stage {stage} of {run.name}" if stage else run.name
        raise BadPrompt(
            f"{where} has {len(chosen)} checkpoints with a circuit and a step; an evolution needs two: "
            "measure them with circuit-drift run --measures circuit"
        )
    graphs, facts = recalled([point.circuit for point in chosen if point.circuit is not None], "at some checkpoint")
    return _stored(Store(run.store), chosen, graphs), facts


def _stored(
    store: Store, points: Sequence[Point], graphs: "Sequence[circuits.AttributionGraph]"
) -> "circuits.Evolution":
    """`circuits.evolve`, kept in the store: its permutations take longer than all else that needs no model."""
    import circuits

    steps = [point.step for point in points if point.step is not None]
    starts = {point.stage: step for point, step in zip(reversed(points), reversed(steps), strict=True) if point.stage}
    stages = dict(reversed(starts.items()))
    measured = {"version": 3, "steps": steps, "stages": stages, "circuits": [p.keys["circuit"] for p in points]}
    key = key_of(measured)
    folder = store.folder("evolution", key)
    if store.has("evolution", key):
        return circuits.Evolution.load(folder)
    evolution = circuits.evolve(zip(steps, graphs, strict=True), stages=stages)
    with suppress(StoreError):  # a store may be there to be read alone
        evolution.save(folder)
    return evolution
