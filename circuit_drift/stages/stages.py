"""The lines and stages a run was trained in, and its circuits followed over them, each group of facts by itself."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from checkpoints.errors import BadPrompt, StoreError
from checkpoints.stats.units import ENOUGH
from circuit_drift.record.groups import fact_groups
from circuit_drift.record.lineage import parents_of
from circuit_drift.record.recall import recalled
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.stages.fact_paths import fact_paths
from circuit_drift.store.kept import Place
from circuit_drift.store.store import Store, key_of

if TYPE_CHECKING:
    import circuits
    from circuits.tracking.circuit_track import CircuitTrack
    from heads.tracking.head_track import HeadTrack

PLACES = ("stage", "branch")


def line(run: RunRecord, stage: str | None = None, branch: str | None = None) -> list[Point]:
    """The points of one line of training, in order: all of the run, or those of a stage, or what led to a branch's end.

    Points that count neither steps nor tokens stand on no line. Each point of a line continues the one before it, by
    the run's stored parents, or by the names of stages and branches where none are stored; a branch's line goes back
    to what it branched off from.

    Raises:
        StoreError: the run has no such stage or branch.
        BadPrompt: that is several lines: branches, a merge of some, or stages that count their steps anew.
    """
    known = {kind: list(dict.fromkeys(getattr(p, kind) for p in run if getattr(p, kind))) for kind in PLACES}
    for kind, wanted in zip(PLACES, (stage, branch), strict=True):
        if wanted is not None and wanted not in known[kind]:
            raise StoreError(f"the run {run.name} has no {kind} {wanted}; it has {', '.join(known[kind]) or 'none'}")
    parents = parents_of(run)
    inside = [place for place, p in enumerate(run) if p.position is not None and stage in (None, p.stage)]
    if branch is not None:
        ends = [place for place in inside if run.points[place].branch == branch]
        inside = _back_from(ends[-1], parents, set(inside)) if ends else []
    breaks = (_break(run, parents, *pair) for pair in pairwise(inside))
    broken = next((reason for reason in breaks if reason is not None), None)
    if broken is None:
        return [run.points[place] for place in inside]
    there = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in known.items() if names)
    raise BadPrompt(
        f"the checkpoints of {run.name} are not one line of training: {broken}; choose one "
        f"({there or 'measure one with run --steps'})"
    )


def _back_from(end: int, parents: Sequence[tuple[int, ...]], inside: set[int]) -> list[int]:
    """The positions that lead to one, first to last, as far as they are inside; a merge is not gone through."""
    found = [end]
    while len(before := [place for place in parents[found[0]] if place in inside]) == 1:
        found.insert(0, before[0])
    return found


def _break(run: RunRecord, parents: Sequence[tuple[int, ...]], before: int, after: int) -> str | None:
    """Why two points in order are not one line, or None."""
    first, second = run.points[before], run.points[after]
    between = {place for place in range(before + 1, after) if run.points[place].position is None}
    continues = set(parents[after]) | {parent for place in between for parent in parents[place]}
    if before not in continues:
        return f"{second.place} does not continue {first.place}"
    if len(continues - between) > 1:
        return f"{second.place} continues {len(continues - between)} lines, {first.place} the end of one"
    if (first.position or 0) >= (second.position or 0):
        return f"{second.place} comes after {first.place}"
    return None


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
    others = [group for group in groups[:index] if group[0].stage != first.stage]
    ends = [group[-1] for group in others if group[0].stage == others[-1][0].stage]
    in_branch = [end for end in ends if end.branch == first.branch]
    candidates = in_branch or ends
    return candidates[0] if len(candidates) == 1 else None


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


def track_heads(run: RunRecord, stage: str | None = None, branch: str | None = None, **options: Any) -> "HeadTrack":
    """Follow retrieval through a run, one of its stages or one of its branches; options as of `heads.track`.

    A stage's tokens are counted from its start, since doublings of the whole run mean little inside a short one.

    Raises:
        StoreError: no such stage or branch.
        BadPrompt: fewer than two checkpoints with retrieval scores and a step, or several lines of training.
    """
    return track_points(run, line(run, stage, branch), **options)


def track_points(run: RunRecord, chosen: Sequence[Point], **options: Any) -> "HeadTrack":
    """The same over points of a run that are one line of training."""
    import heads

    tokens: Sequence[int | None] = tokens_in_stage(run, chosen) or [None] * len(chosen)
    scored = [
        (point.position, count, point.heads)
        for point, count in zip(chosen, tokens, strict=True)
        if point.position is not None and point.heads is not None
    ]
    if len(scored) < 2:
        raise BadPrompt(
            f"{run.name} has {len(scored)} checkpoints with retrieval scores and a step in what is followed; "
            "tracking needs two: measure them with circuit-drift run --measures heads"
        )
    return heads.track(scored, **options)


def track_circuit(
    run: RunRecord, stage: str | None = None, branch: str | None = None, group: str | None = None
) -> "tuple[CircuitTrack, str]":
    """Follow the circuit over a run, one of its stages or one of its branches; see `circuits.track`.

    Args:
        run: measured.
        stage: one of its stages.
        branch: one of its branches.
        group: facts of one group alone, by what became of them from the first checkpoint to the last: ``kept``,
            ``lost``, ``learned``, ``neither``, or a class. Without one, the first of `track_circuits`.

    Returns:
        the track, and the choice of facts in words.

    Raises:
        StoreError: no such stage or branch.
        BadPrompt: no such group, or one of fewer than eight facts;
            fewer than two checkpoints with a step and a circuit, or several lines of training.
    """
    if group is None:
        return track_circuits(run, stage, branch)[0]
    chosen, graphs = _traced(run, stage, branch)
    graphs, facts = _of_group(graphs, group, f"from {chosen[0].label} to {chosen[-1].label}")
    return _stored(Store(run.store), chosen, graphs, group), facts


def track_circuits(
    run: RunRecord, stage: str | None = None, branch: str | None = None
) -> "list[tuple[CircuitTrack, str]]":
    """Follow the circuit of each group of facts that went one way, the largest group first.

    Facts are told apart by where they are recalled: at the first checkpoint and at the end of each stage. Those of
    groups of fewer than eight, and those recalled at none of these, are left out. Where all the others went one way,
    they are followed together with those that some checkpoint in between recalls
    (`circuit_drift.record.recall.recalled`).

    Args:
        run: measured.
        stage: one of its stages.
        branch: one of its branches.

    Returns:
        each track, and its facts in words; the last says which groups were too small.

    Raises:
        StoreError, BadPrompt: as for `track_circuit`.
    """
    chosen, graphs = _traced(run, stage, branch)
    store = Store(run.store)
    paths = [path for path in fact_paths(chosen) if any(path.known)] if _told_apart(graphs) else []
    large = [path for path in paths if len(path) >= ENOUGH]
    if len(paths) < 2 or not large:
        graphs, facts = recalled(graphs, "at some checkpoint")
        return [(_stored(store, chosen, graphs, None), facts)]
    small = "; ".join(f"{len(path)} {path.words}" for path in paths if len(path) < ENOUGH)
    found = []
    for path in large:
        words = f"the {len(path)} of {len(graphs[0])} facts {path.words}"
        words += f" (too few to follow: {small})" if small and path is large[-1] else ""
        only = [graph.only(path.facts) for graph in graphs]
        found.append((_stored(store, chosen, only, path.words), words))
    return found


def _told_apart(graphs: "Sequence[circuits.AttributionGraph]") -> bool:
    return all(graph.units == len(graph) == len(graphs[0]) for graph in graphs)


def _traced(
    run: RunRecord, stage: str | None, branch: str | None
) -> "tuple[list[Point], list[circuits.AttributionGraph]]":
    """The points of a line that have a circuit, and their circuits."""
    chosen = [p for p in line(run, stage, branch) if p.circuit is not None]
    if len(chosen) < 2:
        where = f"stage {stage} of {run.name}" if stage else run.name
        raise BadPrompt(
            f"{where} has {len(chosen)} checkpoints with a circuit and a step; tracking needs two: "
            "measure them with circuit-drift run --measures circuit"
        )
    return chosen, [point.circuit for point in chosen if point.circuit is not None]


def _of_group(
    graphs: "Sequence[circuits.AttributionGraph]", name: str, when: str
) -> "tuple[list[circuits.AttributionGraph], str]":
    """The graphs over the facts of one group, by the first and the last of them, and the choice in words."""
    groups = {group.name: group for group in fact_groups(graphs[0], graphs[-1])}
    sizes = ", ".join(f"{each} ({len(group)})" for each, group in groups.items())
    if name not in groups or len(groups[name]) < ENOUGH:
        raise BadPrompt(f"facts {name!r} cannot be followed {when}: a group needs {ENOUGH}; there are {sizes}")
    chosen = groups[name].facts
    return [graph.only(chosen) for graph in graphs], f"the {len(chosen)} of {len(graphs[0])} facts {name} {when}"


def _stored(
    store: Store, points: Sequence[Point], graphs: "Sequence[circuits.AttributionGraph]", group: str | None
) -> "CircuitTrack":
    """`circuits.track`, kept in the store: its permutations take longer than all else that needs no model."""
    import circuits
    from circuits.tracking.circuit_track import CircuitTrack

    steps = [point.position for point in points if point.position is not None]
    starts = {point.stage: step for point, step in zip(reversed(points), reversed(steps), strict=True) if point.stage}
    stages = dict(reversed(starts.items()))
    measured = {"version": 7, "steps": steps, "stages": stages, "circuits": [p.keys["circuit"] for p in points]}
    measured |= {} if group is None else {"group": group}
    place = Place.of_result(store, "evolution", key_of(measured), CircuitTrack)
    return place.find_or_make(lambda: circuits.track(zip(steps, graphs, strict=True), stages=stages))
