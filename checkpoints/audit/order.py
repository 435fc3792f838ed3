"""Where checkpoints stand: holes between steps, and weights that do not lie at their step."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from checkpoints.audit.checks import first_few
from checkpoints.audit.facts import CheckpointFacts
from checkpoints.audit.path import OffPath, correlations, distances, find_off_path
from checkpoints.audit.report import Fault
from checkpoints.results.text import counted

_MIN_MATRIX = 256
_RATIO_TOLERANCE = 0.05
_NEAR = 0.25  # of the steps that follow: a first checkpoint this close to the next shares something with it
_DISTANCE_BUDGET = 1 << 26


def missing_steps(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Holes in an evenly or a geometrically spaced stretch of steps.

    A hole is an interval that is a whole multiple of the intervals on both of its sides, which must agree.
    """
    groups: dict[tuple[str | None, str | None], list[CheckpointFacts]] = defaultdict(list)
    for fact in facts:
        if fact.checkpoint.step is not None:
            groups[fact.checkpoint.stage, fact.checkpoint.branch].append(fact)
    for group in groups.values():
        steps = [fact.checkpoint.step or 0 for fact in group]
        for place, absent in _holes(steps):
            labels = group[place].label, group[place + 1].label
            count = counted(len(absent), "step is", "steps are")
            message = f"{count} missing between {labels[0]} and {labels[1]}: {first_few(absent)}"
            yield Fault("missing_steps", labels, message, {"steps": absent})


def _holes(steps: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    for place in range(1, len(steps) - 2):
        low, high = steps[place], steps[place + 1]
        before, gap, after = low - steps[place - 1], high - low, steps[place + 2] - high
        if before == after and gap > before and gap % before == 0:
            yield place, list(range(low + before, high, before))
        elif steps[place - 1] > 0:
            ratios = np.log([low / steps[place - 1], high / low, steps[place + 2] / high])
            count = ratios[1] / ratios[0]
            even = abs(ratios[2] / ratios[0] - 1) < _RATIO_TOLERANCE
            whole = abs(count - round(count)) < _RATIO_TOLERANCE
            if even and whole and round(count) > 1 and before != after:
                yield place, [round(low * np.exp(ratios[0] * k)) for k in range(1, round(count))]


def off_path(facts: Sequence[CheckpointFacts], paths: Sequence[Sequence[int]]) -> Iterator[Fault]:
    """Weights that do not lie on their run's path at their step.

    Args:
        facts: all checkpoints.
        paths: each line of descent as positions in `facts`, in order.
    """
    usable = [position for position, fact in enumerate(facts) if fact.tensors and not _broken(fact)]
    names = _common_matrices([facts[position] for position in usable])
    if len(usable) < 3 or not names:
        return
    names = names[:: max(1, len(names) * len(usable) ** 2 // _DISTANCE_BUDGET)]
    stacks = [np.stack([facts[i].tensors[n].sample for i in usable]).astype(np.float64) for n in names]
    d = np.stack([distances(stack) for stack in stacks])
    z = np.stack([correlations(stack) for stack in stacks])
    row = {position: place for place, position in enumerate(usable)}
    told: set[int] = set()
    for path in paths:
        rows = [row[position] for position in _without_repeats(facts, path) if position in row]
        for found in find_off_path(d, z, rows):
            if found.index not in told and not (
                found.kind == "foreign" and _forgotten(facts, path, usable[found.index])
            ):
                told.add(found.index)
                yield _fault(found, [facts[position] for position in usable], len(names))


def _forgotten(facts: Sequence[CheckpointFacts], path: Sequence[int], position: int) -> bool:
    """Whether a checkpoint is the first of its path, and the next so far on that nothing of it need be left."""
    steps = [facts[place].checkpoint.position for place in path]
    if position != path[0] or len(path) < 3 or None in steps[:2] or steps[-1] is None:
        return False
    gap, rest = (steps[1] or 0) - (steps[0] or 0), steps[-1] - (steps[1] or 0)
    return gap > _NEAR * rest


def _fault(found: OffPath, facts: Sequence[CheckpointFacts], matrices: int) -> Fault:
    label = facts[found.index].label
    if found.kind == "foreign":
        message = f"weights of {label} are uncorrelated with those of every other checkpoint: not of this run"
        return Fault("foreign", (label,), message, {"matrices": matrices})
    home = facts[found.belongs].label
    evidence = {
        "detour": found.detour,
        "best_detour": found.best,
        "fits": home,
        "consensus": found.consensus,
        "matrices": matrices,
    }
    if found.kind == "misplaced":
        message = (
            f"weights of {label} fit step {home}: detour {found.best:.2f} there, {found.detour:.2f} at their own "
            f"({found.consensus:.0%} of {matrices} matrices agree)"
        )
    else:
        message = (
            f"weights of {label} lie off the run's path: detour {found.detour:.2f} times the distance between "
            f"their neighbours, {found.best:.2f} at the best place ({matrices} matrices)"
        )
    return Fault(found.kind, (label,), message, evidence)


def _broken(fact: CheckpointFacts) -> bool:
    return any(tensor.non_finite for tensor in fact.tensors.values())


def _common_matrices(facts: Sequence[CheckpointFacts]) -> list[str]:
    """Matrices that all checkpoints have, in one shape, large enough for distances to mean something."""
    if not facts:
        return []
    first = facts[0].tensors
    return [
        name
        for name, tensor in first.items()
        if tensor.sample.size >= _MIN_MATRIX
        and all(name in f.tensors and f.tensors[name].sample.shape == tensor.sample.shape for f in facts)
    ]


def _without_repeats(facts: Sequence[CheckpointFacts], path: Sequence[int]) -> list[int]:
    """Leave out every checkpoint whose weights another of the path has: which of them is right is unknown."""
    count: dict[str | None, int] = defaultdict(int)
    for position in path:
        count[facts[position].identity] += 1
    return [position for position in path if count[facts[position].identity] == 1]
